// The table of opcodes, and the Decoder through which a decode function takes the modifiers and operands of a statement.
#include <algorithm>

#include "numeric.hpp"
#include "parser.hpp"

namespace emu {
static std::unordered_map<string, DecodeFn>& opcode_table() {
  static std::unordered_map<string, DecodeFn> table;
  return table;
}
Opcodes::Opcodes(std::initializer_list<std::pair<const char*, DecodeFn>> opcodes) {
  for (auto& entry : opcodes)
    for (auto& name : words(entry.first)) opcode_table()[name] = entry.second;
}
DecodeFn find_opcode(const string& name) {
  auto it = opcode_table().find(name);
  return it == opcode_table().end() ? nullptr : it->second;
}

void Decoder::refuse(const string& why) const { throw LoadError(opcode_ + ": " + why, line_); }
Kernel& Decoder::kernel() { return *parser_.kernel; }

bool Decoder::take(const char* modifier) {
  for (size_t i = 1; i < mods_.size(); ++i) {
    if (!used_[i] && mods_[i][0] == modifier[0] && mods_[i] == modifier) return used_[i] = true, true;
  }
  return false;
}
void Decoder::require(const char* modifier) {
  if (!take(modifier)) refuse(string("modifier .") + modifier + " is missing");
}
int Decoder::choose(std::initializer_list<const char*> names, int absent) {
  int k = 0;
  for (const char* name : names) {
    if (take(name)) return k;
    ++k;
  }
  if (absent < 0) {
    string all;
    for (const char* name : names) all += string(" .") + name;
    refuse("none of the supported modifiers is present:" + all);
  }
  return absent;
}
Type Decoder::maybe_type() {
  for (; next_type_ < mods_.size(); ++next_type_) {
    if (used_[next_type_]) continue;
    Type t = type_from_name(mods_[next_type_]);
    if (t == Type::None) continue;
    used_[next_type_] = true;
    return t;
  }
  return Type::None;
}
Type Decoder::type() {
  Type t = maybe_type();
  if (t == Type::None) refuse("a type is missing");
  return t;
}
Type Decoder::type_in(std::initializer_list<Type> allowed) {
  Type t = type();
  for (Type a : allowed) if (a == t) return t;
  refuse("type is not supported");
}
string Decoder::modifier_starting(const char* prefix) {
  for (size_t i = 1; i < mods_.size(); ++i) {
    if (!used_[i] && mods_[i].compare(0, strlen(prefix), prefix) == 0) {
      used_[i] = true;
      return mods_[i];
    }
  }
  return "";
}
Space Decoder::space(Space absent) {
  static const std::pair<const char*, Space> names[] = {
      {"global", Space::Global}, {"shared", Space::Shared}, {"shared::cta", Space::Shared},
      {"shared::cluster", Space::Shared}, {"local", Space::Local}, {"param", Space::Param},
      {"param::entry", Space::Param}, {"const", Space::Const}};
  for (auto& n : names) if (take(n.first)) return n.second;
  return absent;
}

static bool fits(const Operand& o, int width) { return o.width != 1 && std::max(o.width, 4) == std::max(width, 4); }
Operand Decoder::peek() { return parser_.operand(text()); }
Operand Decoder::operand() {
  string& raw = text();
  skip();
  return parser_.operand(raw);
}

int Decoder::slot_of(const Operand& o, int width) {
  switch (o.kind) {
    case Operand::Register:
      mark_read(o.slot);
      if (!fits(o, width)) refuse("register " + o.text + " has the wrong width");
      return o.slot;
    case Operand::Immediate:
      if (!o.is_float || o.width == width) return parser_.constant(width == 8 ? o.imm : u32(o.imm), width);
      if (o.width != 8) refuse("literal " + o.text + " has the wrong width");
      return parser_.constant(bit_cast<u32>(float(bit_cast<double>(o.imm))), width);   // a double literal used as float
    case Operand::Symbol: return parser_.symbol_slot(o.symbol, width);
    default: refuse("operand " + o.text + " is not supported here");
  }
}
int Decoder::destination(int width) { return destination_of(operand(), width); }
int Decoder::destination_of(const Operand& o, int width) {
  if (o.kind == Operand::Absent) return scratch(width);
  if (o.kind != Operand::Register || !fits(o, width)) refuse("destination " + o.text + " has the wrong kind or width");
  return o.slot;
}
int Decoder::register_of(const string& text, int width) {
  Operand o = parser_.operand(text);
  if (o.kind == Operand::Absent) return -1;
  if (o.kind != Operand::Register || o.width != width) refuse("destination " + text + " has the wrong kind or width");
  return o.slot;
}
int Decoder::source(int width) { return slot_of(operand(), width); }
int Decoder::predicate(bool* negated) {
  Operand o = operand();
  if (o.kind == Operand::Immediate && !o.negated) return parser_.constant(o.imm ? ~0u : 0u, 1);
  if (o.kind != Operand::Register || o.width != 1) refuse("operand " + o.text + " is not a predicate");
  if (o.negated && !negated) refuse("a negated predicate is not supported here");
  if (negated) *negated = o.negated;
  return o.slot;
}
int Decoder::predicate(int& flags, int bit) {
  bool negated = false;
  const int slot = predicate(&negated);
  if (negated) flags |= bit;
  return slot;
}
s64 Decoder::immediate() {
  Operand o = operand();
  if (o.kind != Operand::Immediate || o.is_float) refuse("operand " + o.text + " is not an integer constant");
  return s64(o.imm);
}
vector<int> Decoder::registers(int width, int count, bool written) {
  Operand o = operand();
  vector<Operand> parts = o.kind == Operand::Vector ? o.parts : vector<Operand>{o};
  if (o.kind == Operand::Register && o.width == 16 && width == 8)        // a pair, low half first
    parts.push_back(o), parts[1].slot += kHalf, parts[0].width = parts[1].width = 8;
  vector<int> slots;
  for (auto& part : parts) slots.push_back(written ? destination_of(part, width) : slot_of(part, width));
  if (count >= 0 && int(slots.size()) != count)
    refuse("expected " + std::to_string(count) + (written ? " destination" : " source") + " registers, found " + std::to_string(slots.size()));
  if (written) written_.insert(written_.end(), slots.begin(), slots.end());
  return slots;
}
void Decoder::more_sources(Instr& i, int width, int count) {
  for (int slot : sources(width, count)) i.regs.push_back(slot);
}
Address Decoder::address_with_parts(Operand& o) {
  string raw = next_ < args_.size() ? args_[next_] : "";
  o = operand();
  if (raw.empty() || raw[0] != '[') refuse("operand " + raw + " is not an address");
  Address a;
  a.offset = o.offset;
  if (o.kind == Operand::Register) {
    if (o.width == 1 || o.width == 16) refuse("register " + o.text + " is no address");
    a.slot = o.slot, a.wide = o.width == 8;
    mark_read(o.slot);
  } else if (o.kind == Operand::Symbol) {
    a.slot = parser_.symbol_slot(o.symbol, 8), a.wide = true;
  }
  return a;
}
Address Decoder::address() {
  Operand o;
  Address a = address_with_parts(o);
  if (!o.parts.empty()) refuse("the address has too many parts");
  return a;
}
int Decoder::position(const char* modifier) const {
  for (size_t i = 1; i < mods_.size(); ++i) if (mods_[i] == modifier) return int(i);
  return -1;
}
int Decoder::constant(u64 value, int width) { return parser_.constant(value, width); }
void Decoder::mark_read(int slot) {
  auto& read = parser_.kernel->read;
  size_t k = size_t(slot) / 64;
  if (read.size() <= k) read.resize(k + 64);
  ++read[k];
}
int Decoder::scratch(int width) { return parser_.allocate(width); }
int Decoder::param_offset(const string& symbol) const {
  for (auto& p : parser_.kernel->params) if (p.name == symbol) return p.offset;
  return -1;
}
int Decoder::call_param(const string& symbol) const { return parser_.call_param(symbol); }
void Decoder::destination_pair(Instr& i, int width) {
  const auto parts = split(text(), '|');
  skip();
  i.dst = register_of(parts[0], width);
  if (parts.size() > 1) i.dst2 = register_of(parts[1], 1);
}
void Decoder::finish() const {
  for (size_t i = 0; i < mods_.size(); ++i)
    if (!used_[i]) refuse("modifier ." + mods_[i] + " is not supported");
  if (next_ != args_.size()) refuse("operand " + args_[next_] + " is not supported");
}

}  // namespace emu
