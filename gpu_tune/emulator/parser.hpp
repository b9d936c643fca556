// The state of parsing one PTX text: kernel, scopes, registers, constants. Parser and Decoder share it.
#pragma once
#include <array>
#include <cstdlib>
#include <set>

#include "decoder.hpp"

namespace emu {

string trim(const string& s);
vector<string> split(const string& s, char c);   // at c outside brackets
vector<string> words(const string& s);           // at white space

class Parser {
 public:
  Parser(Module& m, const string& only) : module_(m) { for (auto& name : words(only)) only_.insert(name); }
  void parse(const string& text);

  Kernel* kernel = nullptr;
  [[noreturn]] void fail(const string& why) const { throw LoadError(why, line_); }
  int allocate(int width) {
    int slot = kernel->register_bytes;
    if (width == 16) return allocate(8), allocate(8), slot;      // a pair, low half first (kHalf apart)
    kernel->register_bytes += width == 8 ? 256 : width == 1 ? 64 : 128;
    kernel->widths.resize(size_t(kernel->register_bytes) / 64, u8(width));
    return slot;
  }
  int constant(u64 value, int width) { return preloaded(constants_, kernel->constants, value, width); }
  int special(int number, int width) { return preloaded(specials_, kernel->specials, u64(number), width); }
  struct Register { int slot, width; };
  Register* find_register(const string& name);
  Operand operand(const string& given);
  int symbol_slot(const string& name, int width);
  int call_param(const string& name) const;

 private:
  struct Family { string name; int width; vector<Register> numbered; };      // `%r<100>`: the name without its number
  struct Opcode { int number; DecodeFn decode; vector<string> modifiers; };   // as it is written, from its name on
  struct Scope {
    int id;
    std::unordered_map<string, Register> registers;
    vector<Family> families;
    std::map<string, int> params;               // .param variables of calls: offsets in local memory
  };
  struct Function { vector<string> results, params; size_t start; int line; };
  using Location = std::array<int, 3>;
  struct SharedVariable { u32 size, align; bool dynamic; };
  struct Fixup { int pc; vector<string> labels; vector<int> scopes; };

  Module& module_;
  std::set<string> only_;                           // kernels that are wanted; none: all
  int line_ = 1, place_ = 0, scope_count_ = 0, call_depth_ = 0, operand_depth_ = 0;
  const string* text_ = nullptr;
  std::map<string, Function> functions_;
  std::map<string, int> function_numbers_;          // of those declared or defined, for their addresses
  int indirect_depth_ = 0;
  vector<int> return_scopes_;
  std::map<Location, Place> locations_;
  std::map<Place, int> place_index_;
  vector<Scope> scopes_;
  std::map<std::pair<int, string>, int> labels_;
  std::map<string, vector<string>> branch_targets_;
  vector<Fixup> fixups_;
  using Slots = std::map<std::pair<u64, int>, int>;
  Slots constants_, specials_;
  std::map<string, SharedVariable> shared_;         // declared, module-wide names
  std::map<string, u32> shared_offset_;             // placed in this kernel
  std::map<string, u32> local_offset_;
  std::unordered_map<string, Opcode> opcodes_;

  int preloaded(Slots& known, vector<Kernel::Preloaded>& all, u64 value, int width) {
    auto [it, fresh] = known.emplace(std::make_pair(value, width), 0);
    if (fresh) it->second = allocate(width), all.push_back({it->second, value, width});
    return it->second;
  }
  void strip_comments(const string& text, string& out);
  void entry(const string& s, size_t& p);
  void kernel_text(const string& s, size_t& p, size_t open);
  size_t closing_brace(const string& s, size_t p) const;
  void pass(const string& s, size_t& p, size_t end);
  u32 alignment(const vector<string>& w, size_t i) const;
  void entry_directives(const string& text);
  void body(const string& s, size_t& p);
  void block(const string& s, size_t& p);
  void resolve_labels();
  void drop_unread_elements();
  void function(const string& s, size_t& p);
  void call(const string& text);
  void inlined(const Function& f, const vector<string>& results, const vector<string>& arguments);
  void indirect_call(const string& target, const vector<string>& results, const vector<string>& arguments);
  u64 function_address(const string& name) const;   // 0 when there is none of that name
  const std::pair<const string, Opcode>& opcode(const string& text);
  int opcode_number(const string& text) { return opcode(text).second.number; }
  void declaration(const string& statement);
  void statement(const string& text);
  void loc(const string& text);
  void file_directive(const string& text);
  static u32 number(const string& s) { return u32(strtoul(s.c_str(), nullptr, 0)); }
};

}  // namespace emu
