// One PTX statement being turned into an Instr. Every modifier and every operand has to be consumed by the opcode's
// decode function: what is left over is refused by name.
#pragma once
#include <bitset>
#include <functional>
#include <initializer_list>

#include "core.hpp"

namespace emu {

struct Operand {
  enum Kind { Absent, Register, Immediate, Symbol, Vector, Memory } kind = Absent;
  int slot = -1, width = 4;        // registers: bytes (predicates: 1)
  u64 imm = 0;                     // integer value, or the bits of a 0f / 0d literal
  bool is_float = false, negated = false;
  string symbol, text;
  vector<Operand> parts;           // vector elements; for Memory: what follows the address (TMA coordinates)
  s64 offset = 0;
};

class Parser;

class Decoder {
 public:
  // opcode and modifiers outlive it
  Decoder(Parser& parser, const string& opcode, const vector<string>& modifiers, vector<string> args, int line)
      : parser_(parser), opcode_(opcode), mods_(modifiers), args_(std::move(args)), line_(line) { used_[0] = true; }
  const string& name() const { return mods_[0]; }
  const string& opcode() const { return opcode_; }
  [[noreturn]] void refuse(const string& why) const;

  // modifiers
  bool take(const char* modifier);                                  // true (and consumed) when present
  void require(const char* modifier);
  int choose(std::initializer_list<const char*> names, int absent); // index of the one present; absent < 0: one is needed
  Type type();                                                      // next type modifier, in order of appearance
  Type maybe_type();                                                // the same, None when there is none left
  Type type_in(std::initializer_list<Type> allowed);
  int position(const char* modifier) const;                         // where a modifier stands, -1 when absent
  string modifier_starting(const char* prefix);                     // consumed; empty when there is none
  Space space(Space absent);

  // operands, in order
  size_t left() const { return args_.size() - next_; }
  string& text() {
    if (next_ >= args_.size()) refuse("an operand is missing");
    return args_[next_];
  }
  int register_of(const string& text, int width);   // -1 for `_`
  void skip() { ++next_; }
  Operand operand();
  Operand peek();
  int destination(int width);                  // slot, or -1 for `_`
  int source(int width);                       // slot of a register, constant, symbol address or special register
  int predicate(bool* negated = nullptr);
  int predicate(int& flags, int bit);          // `bit` is set for a negated one
  s64 immediate();
  vector<int> destinations(int width, int count = -1) { return registers(width, count, true); }
  vector<int> sources(int width, int count = -1) { return registers(width, count, false); }
  void more_sources(Instr& i, int width, int count = -1);   // behind those that i.regs has
  Address address();                           // [reg+offset] or [symbol+offset]
  Address address_with_parts(Operand& whole);  // [map, {coordinates}, ...]
  int slot_of(const Operand& o, int width);    // as source(), for an operand already taken
  int constant(u64 value, int width);
  int scratch(int width);                      // a fresh register slot
  void mark_read(int slot);                    // for registers that an instruction both reads and writes
  int param_offset(const string& symbol) const;   // of a kernel parameter, -1 when it is none
  int call_param(const string& symbol) const;     // local-memory offset of a .param variable of a call, -1
  void destination_pair(Instr& i, int width);  // `%p|%q` or `%r|%p`: i.dst and, -1 where it is not there, i.dst2

  const vector<int>& written() const { return written_; }   // slots that destinations() gave
  void finish() const;                         // refuses what was not consumed
  Kernel& kernel();

 private:
  int destination_of(const Operand& o, int width);
  vector<int> registers(int width, int count, bool written);   // of `{a, b, ...}`, a single one or a pair
  Parser& parser_;
  const string& opcode_;
  const vector<string>& mods_;
  vector<string> args_;
  std::bitset<64> used_;
  vector<int> written_;
  size_t next_ = 0, next_type_ = 1;
  int line_;
};

using DecodeFn = void (*)(Decoder&, Instr&);
void decode_async_store(Decoder& d, Instr& i, bool reduce);   // st.async, red.async (async.cpp)
struct Opcodes {                             // a static one in each concern's file registers its opcodes
  Opcodes(std::initializer_list<std::pair<const char*, DecodeFn>> opcodes);   // names apart by spaces
};
DecodeFn find_opcode(const string& name);
void set_taint(const string& name, Instr& i);   // poison.cpp
Handler host_call(const string& name, size_t offsets);   // vprintf, __assertfail (print.cpp); null for others
int special_register(const string& name);    // its number (special.cpp), -1 for none

}  // namespace emu
