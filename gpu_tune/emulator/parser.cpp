// PTX text -> Module: comments, directives, scopes, registers, labels. Statements go to the Decoder (decoder.cpp).
// Nothing is skipped silently: a directive, modifier or operand nobody asked for is an error.
#include <algorithm>
#include <cstdio>

#include "parser.hpp"

namespace emu {
namespace {
struct TypeName { const char* name; Type type; int size; };
const TypeName kTypes[] = {
    {"u8", Type::U8, 1}, {"s8", Type::S8, 1}, {"b8", Type::B8, 1}, {"u16", Type::U16, 2}, {"s16", Type::S16, 2},
    {"b16", Type::B16, 2}, {"u32", Type::U32, 4}, {"s32", Type::S32, 4}, {"b32", Type::B32, 4}, {"u64", Type::U64, 8},
    {"s64", Type::S64, 8}, {"b64", Type::B64, 8}, {"f16", Type::F16, 2}, {"bf16", Type::BF16, 2}, {"f32", Type::F32, 4},
    {"f64", Type::F64, 8}, {"pred", Type::Pred, 1}, {"f16x2", Type::F16x2, 4}, {"bf16x2", Type::BF16x2, 4},
    {"b1", Type::B1, 0}, {"s4", Type::S4, 0}, {"u4", Type::U4, 0}, {"s2", Type::S2, 0}, {"u2", Type::U2, 0},
    {"tf32", Type::TF32, 4}, {"e4m3", Type::E4M3, 1}, {"e5m2", Type::E5M2, 1}, {"e4m3x2", Type::E4M3x2, 2},
    {"e5m2x2", Type::E5M2x2, 2}, {"b128", Type::B128, 16}, {"u16x2", Type::U16x2, 4}, {"s16x2", Type::S16x2, 4}, {"f32x2", Type::F32x2, 8}};

bool is_name_char(char c) { return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%'; }
bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

// Whether a statement is `.callprototype` or `.calltargets`, perhaps with its label before it.
bool describes_calls(const string& text) {
  size_t at = 0;
  while (at < text.size() && is_name_char(text[at])) ++at;
  while (at < text.size() && (is_blank(text[at]) || text[at] == ':')) ++at;
  return !text.compare(at, 14, ".callprototype") || !text.compare(at, 12, ".calltargets");
}
}  // namespace

int type_size(Type t) {
  static const vector<int> sizes = [] {
    vector<int> s(256);
    for (auto& k : kTypes) s[size_t(k.type)] = k.size;
    return s;
  }();
  return sizes[size_t(t)];
}
Type type_from_name(const string& name) {
  static const std::unordered_map<string, Type> known = [] {
    std::unordered_map<string, Type> found;
    for (auto& k : kTypes) found.emplace(k.name, k.type);
    return found;
  }();
  auto it = known.find(name);
  return it == known.end() ? Type::None : it->second;
}

string trim(const string& s) {
  size_t a = 0, b = s.size();
  while (a < b && is_blank(s[a])) ++a;
  while (b > a && is_blank(s[b - 1])) --b;
  return s.substr(a, b - a);
}

vector<string> split(const string& s, char c) {
  vector<string> out;
  out.reserve(4);
  int depth = 0;
  size_t start = 0;
  auto add = [&](size_t end) {
    while (start < end && is_blank(s[start])) ++start;
    while (end > start && is_blank(s[end - 1])) --end;
    out.emplace_back(s, start, end - start);
  };
  for (size_t at = 0; at < s.size(); ++at) {
    const char ch = s[at];
    if (ch == '{' || ch == '[' || ch == '(') ++depth;
    if (ch == '}' || ch == ']' || ch == ')') --depth;
    if (ch == c && depth == 0) add(at), start = at + 1;
  }
  add(s.size());
  return out;
}

vector<string> words(const string& s) {
  vector<string> out;
  string current;
  for (char ch : s + " ") {
    if (!isspace((unsigned char)ch)) current += ch;
    else if (!current.empty()) out.push_back(current), current.clear();
  }
  return out;
}

Parser::Register* Parser::find_register(const string& name) {
  size_t end = name.size();
  while (end && isdigit((unsigned char)name[end - 1])) --end;
  const size_t digits = name.size() - end;
  for (size_t i = scopes_.size(); i-- > 0;) {
    auto& scope = scopes_[i];
    auto it = scope.registers.empty() ? scope.registers.end() : scope.registers.find(name);
    if (it != scope.registers.end()) {
      if (it->second.slot < 0) it->second.slot = allocate(it->second.width);
      return &it->second;
    }
    for (auto& family : scope.families) {
      if (!digits || family.name.size() != end || name.compare(0, end, family.name)) continue;
      if (digits > 5 || (name[end] == '0' && digits > 1)) return &(scope.registers[name] = {allocate(family.width), family.width});
      const size_t number = size_t(atoi(name.c_str() + end));
      if (family.numbered.size() <= number) family.numbered.resize(number + 1, {-1, family.width});
      Register& r = family.numbered[number];
      if (r.slot < 0) r.slot = allocate(family.width);
      return &r;
    }
  }
  return nullptr;
}

Operand Parser::operand(const string& given) {
  const bool blanks = !given.empty() && (is_blank(given[0]) || is_blank(given.back()));
  const string trimmed = blanks ? trim(given) : string(), &text = blanks ? trimmed : given;
  struct Depth { int& n; ~Depth() { --n; } } depth{operand_depth_};
  if (++operand_depth_ > 8) fail("operands nested too deep");
  Operand o;
  o.text = text;
  if (text.empty()) fail("empty operand");
  if (text == "_") return o;
  if (text[0] == '!') {
    o = operand(text.substr(1));
    o.negated = true;
    return o;
  }
  if (text[0] == '{') {
    o.kind = Operand::Vector;
    if (text.back() != '}') fail("a '}' is missing in " + text);
    for (auto& part : split(text.substr(1, text.rfind('}') - 1), ',')) o.parts.push_back(operand(part));
    return o;
  }
  if (text[0] == '[') {
    if (text.back() != ']') fail("a ']' is missing in " + text);
    auto parts = split(text.substr(1, text.rfind(']') - 1), ',');
    string base = parts[0];
    if (base.empty()) fail("an address is missing in " + text);
    size_t sign = base.find_first_of("+-", 1);
    s64 offset = 0;
    if (sign != string::npos) {
      offset = strtoll(trim(base.substr(sign + 1)).c_str(), nullptr, 0);
      if (base[sign] == '-') offset = -offset;
      base = trim(base.substr(0, sign));
    }
    Operand inner = operand(base);
    if (inner.kind == Operand::Vector || inner.kind == Operand::Absent) fail("malformed address " + text);
    if (inner.kind == Operand::Immediate) offset += s64(inner.imm);
    o = inner;
    o.parts.clear();
    for (size_t i = 1; i < parts.size(); ++i) o.parts.push_back(operand(parts[i]));
    o.offset = offset;
    o.text = text;
    return o;
  }
  if (isdigit((unsigned char)text[0]) || text[0] == '-' || text[0] == '+') {
    o.kind = Operand::Immediate;
    bool hex_float = text.size() > 2 && text[0] == '0' && strchr("fFdD", text[1]);
    if (hex_float) {
      bool wide = tolower(text[1]) == 'd';
      if (text.size() != (wide ? 18u : 10u)) fail("malformed floating-point literal " + text);
      o.imm = strtoull(text.c_str() + 2, nullptr, 16);
      o.is_float = true;
      o.width = wide ? 8 : 4;
    } else if (text.find('.') != string::npos) {
      double d = strtod(text.c_str(), nullptr);
      memcpy(&o.imm, &d, 8);
      o.is_float = true;
      o.width = 8;
    } else {
      char* end = nullptr;
      o.imm = text[0] == '-' ? u64(strtoll(text.c_str(), &end, 0)) : strtoull(text.c_str(), &end, 0);
      if (*end == 'U') ++end;
      if (*end || end == text.c_str()) fail("malformed number " + text);
    }
    return o;
  }
  if (Register* r = find_register(text)) {
    o.kind = Operand::Register;
    o.slot = r->slot;
    o.width = r->width;
    return o;
  }
  o.kind = Operand::Symbol;
  o.symbol = text;
  return o;
}

// The address of a variable, or the value of a special register, in a preloaded slot.
int Parser::symbol_slot(const string& name, int width) {
  if (name[0] == '%') {
    int number = special_register(name);
    if (number < 0) fail("unknown register " + name);
    return special(number, width);
  }
  if (name == "WARP_SZ") return constant(32, width);
  auto shared = shared_.find(name);
  if (shared != shared_.end()) {
    auto& v = shared->second;
    if (v.dynamic) {
      kernel->dynamic_align = std::max(kernel->dynamic_align, v.align);
      return special(special_register("dynamic shared"), width);
    }
    if (!shared_offset_.count(name)) {
      kernel->static_shared = (kernel->static_shared + v.align - 1) & ~(v.align - 1);
      shared_offset_[name] = kSharedStart + kernel->static_shared;
      kernel->static_shared += v.size;
    }
    return constant(shared_offset_[name], width);
  }
  for (auto& p : kernel->params)        // 32 bits: an address within the .param space
    if (p.name == name) return constant((width == 8 ? kParamWindow : 0) + u64(p.offset), width);
  if (const u64 function = width == 8 ? function_address(name) : 0) return constant(function, 8);
  auto global = module_.globals.find(name);
  if (global != module_.globals.end() && width == 8)
    return constant(u64(kFirstGlobalVariable + global->second.index + 1) << kWindowBits, 8);
  auto local = local_offset_.find(name);
  if (local != local_offset_.end()) return constant(local->second, width);
  fail("unknown name " + name);
}

// .reg, .shared, .local, .global, .const declarations
void Parser::declaration(const string& statement) {
  vector<string> w = words(statement);
  if (w.empty()) fail("an empty declaration");
  if (w[0] == ".reg") {
    if (!kernel) fail("registers outside a kernel");
    Type t = w.size() > 2 ? type_from_name(w[1].substr(1)) : Type::None;
    if (t == Type::None) fail("unsupported register declaration " + statement);
    int width = t == Type::Pred ? 1 : std::max(4, type_size(t));
    string rest;
    for (size_t i = 2; i < w.size(); ++i) rest += w[i];
    for (auto& name : split(rest, ',')) {
      size_t bracket = name.find('<');
      if (bracket != string::npos) scopes_.back().families.insert(scopes_.back().families.begin(), Family{name.substr(0, bracket), width, {}});
      else scopes_.back().registers[name] = {-1, width};
    }
    return;
  }
  bool external = false;
  string space, rest;
  u32 align = 1;
  Type type = Type::None;
  size_t i = 0;
  for (; i < w.size() && w[i][0] == '.'; ++i) {
    const string& k = w[i];
    if (k == ".extern") external = true;
    else if (k == ".visible" || k == ".weak" || k == ".common") continue;
    else if (k == ".align") align = alignment(w, ++i);
    else if (k == ".shared" || k == ".global" || k == ".const" || k == ".local" || k == ".param") space = k;
    else if (type_from_name(k.substr(1)) != Type::None) type = type_from_name(k.substr(1));
    else fail("unsupported directive " + k);
  }
  if (space.empty() || type == Type::None) fail("unsupported declaration " + statement);
  for (; i < w.size(); ++i) rest += w[i];
  string initial;
  size_t equals = rest.find('=');
  if (equals != string::npos) initial = rest.substr(equals + 1), rest = rest.substr(0, equals);
  const u32 element = u32(type_size(type));
  u64 size = element;
  bool empty_brackets = false;
  size_t bracket = rest.find('[');
  string name = rest.substr(0, bracket);
  while (bracket != string::npos) {
    u32 n = number(rest.substr(bracket + 1));
    empty_brackets |= rest[bracket + 1] == ']';
    size *= n;
    if (size > 1u << 30) fail("a variable of more than 2^30 bytes: " + statement.substr(0, 80));
    bracket = rest.find('[', bracket + 1);
  }
  align = std::max(align, element);
  if (space == ".shared") {
    shared_[name] = {u32(size), align, external || empty_brackets};
  } else if (space == ".local" || space == ".param") {
    if (!kernel) fail("a " + space + " variable outside a kernel");
    kernel->local_bytes = (kernel->local_bytes + align - 1) & ~(align - 1);
    if (space == ".param") scopes_.back().params[name] = int(kernel->local_bytes);
    else local_offset_[name] = kernel->local_bytes;
    kernel->local_bytes += u32(size);
    if (kernel->local_bytes > 1u << 19) fail("more than 512 KiB of local memory");
  } else {
    if (external) fail("external variable " + name + " cannot be linked");
    GlobalVariable v{vector<u8>(size, 0), align, space == ".const", int(module_.globals.size())};
    if (kFirstGlobalVariable + v.index >= kMaxBuffers) fail("more than " + std::to_string(kMaxBuffers - kFirstGlobalVariable) + " .global and .const variables");
    if (!initial.empty()) {
      string list = initial[0] == '{' ? initial.substr(1, initial.rfind('}') - 1) : initial;
      size_t at = 0;
      for (auto& item : split(list, ',')) {
        Operand value = operand(item);
        if (value.kind == Operand::Symbol && element == 8 && function_address(value.symbol)) value.kind = Operand::Immediate, value.imm = function_address(value.symbol);
        if (value.kind != Operand::Immediate || at + element > size) fail("unsupported initialiser of " + name);
        memcpy(v.initial.data() + at, &value.imm, element);
        at += element;
      }
    }
    module_.globals.emplace(name, std::move(v));
  }
}

void Parser::statement(const string& text) {
  Instr i;
  i.line = line_, i.place = place_;
  size_t at = 0;
  if (text[0] == '@') {
    at = text.find_first_of(" \t\n");
    if (at == string::npos) fail("a predicate without an instruction");
    string guard = text.substr(1, at - 1);
    if (guard[0] == '!') i.guard_negated = true, guard = guard.substr(1);
    Register* r = find_register(guard);
    if (!r || r->width != 1) fail("unknown predicate " + guard);
    i.guard = r->slot;
    while (is_blank(text[at])) ++at;
  }
  size_t end = text.find_first_of(" \t\n", at);
  vector<string> args = end == string::npos ? vector<string>() : split(text.substr(end), ',');
  if (args.size() > 64) fail("too many operands");
  const auto& [written, opcode] = this->opcode(text.substr(at, end - at));
  if (!opcode.decode) fail("unsupported instruction " + written);
  Decoder d(*this, written, opcode.modifiers, std::move(args), line_);
  i.opcode = opcode.number;
  opcode.decode(d, i);
  if (i.flow == Flow::Return && !return_scopes_.empty()) {     // out of an inlined function
    i.flow = Flow::Branch;
    fixups_.push_back({int(kernel->code.size()), {"return"}, {return_scopes_.back()}});
  } else if (i.flow == Flow::Branch || i.flow == Flow::BranchIndex) {
    Fixup f{int(kernel->code.size()), {d.text()}, {}};
    d.skip();
    if (i.flow == Flow::BranchIndex) {
      auto it = branch_targets_.find(f.labels[0]);
      if (it == branch_targets_.end()) fail("unknown branch target list " + f.labels[0]);
      f.labels = it->second;
    }
    for (auto& scope : scopes_) f.scopes.push_back(scope.id);
    fixups_.push_back(f);
  }
  d.finish();
  i.written = d.written();
  i.reads = i.regs;
  if (d.name() != "wgmma")             // whose accumulators are read as well
    for (int slot : i.written) {
      auto at = std::find(i.reads.begin(), i.reads.end(), slot);
      if (at != i.reads.end()) i.reads.erase(at);
    }
  set_taint(d.name(), i);
  if ((i.flow == Flow::Plain || i.flow == Flow::Yield || i.flow == Flow::Aligned) && !i.run) fail("unsupported instruction " + written);
  kernel->code.push_back(std::move(i));
}

// .loc file line column[, function_name label, inlined_at file line column]. The call sites come first in the text, so the
// chain of an inlined line is its own place followed by the chain of the place it was inlined at.
void Parser::loc(const string& text) {
  Location here{0, 0, 0}, caller{0, 0, 0};
  sscanf(text.c_str() + 4, "%d %d %d", &here[0], &here[1], &here[2]);
  Place place{{here[0], here[1]}};
  size_t at = text.find("inlined_at");
  if (at != string::npos) {
    sscanf(text.c_str() + at + 10, "%d %d %d", &caller[0], &caller[1], &caller[2]);
    auto known = locations_.find(caller);
    if (known == locations_.end()) place.push_back({caller[0], caller[1]});
    else place.insert(place.end(), known->second.begin(), known->second.end());
  }
  locations_[here] = place;
  auto known = place_index_.find(place);
  if (known == place_index_.end()) {
    known = place_index_.emplace(place, int(module_.places.size())).first;
    module_.places.push_back(place);
  }
  place_ = known->second;
}

void Parser::file_directive(const string& text) {
  int n = atoi(text.c_str() + 5);
  size_t a = text.find('"'), b = text.rfind('"');
  if (a != b) {
    string name = text.substr(a + 1, b - a - 1);
    module_.files[n] = name.substr(name.rfind('/') + 1);
  }
}

void Parser::body(const string& s, size_t& p) {
  scopes_.assign(1, {scope_count_++, {}, {}, {}});
  labels_.clear(), fixups_.clear(), constants_.clear(), specials_.clear(), shared_offset_.clear();
  local_offset_.clear(), branch_targets_.clear();
  block(s, p);
  resolve_labels();
  drop_unread_elements();
  Instr last;
  last.flow = Flow::Return, last.line = line_, last.place = place_;
  last.opcode = opcode_number("ret");
  kernel->code.push_back(last);
}

// Statements up to the brace that closes the innermost scope.
void Parser::block(const string& s, size_t& p) {
  const size_t depth = scopes_.size();
  string pending_label;
  for (;;) {
    if (p >= s.size()) fail("a '}' is missing");
    char c = s[p];
    if (c == '\n') { ++line_, ++p; continue; }
    if (isspace((unsigned char)c)) { ++p; continue; }
    if (c == '{') { scopes_.push_back({scope_count_++, {}, {}, {}}); ++p; continue; }
    if (c == '}') {
      ++p;
      if (scopes_.size() == depth) return;
      scopes_.pop_back();
      continue;
    }
    size_t q = p;
    while (q < s.size() && is_name_char(s[q])) ++q;
    if (q > p && s[q] == ':' && s[q + 1] != ':') {
      pending_label = s.substr(p, q - p);
      labels_[{scopes_.back().id, pending_label}] = int(kernel->code.size());
      p = q + 1;
      continue;
    }
    if (s.compare(p, 4, ".loc") == 0 && isspace((unsigned char)s[p + 4])) {
      size_t end = s.find('\n', p);
      loc(s.substr(p, end - p));
      p = end;
      continue;
    }
    size_t end = s.find(';', p);
    if (end == string::npos) fail("a statement without ';'");
    string text(s, p, end - p);
    while (!text.empty() && is_blank(text.back())) text.pop_back();
    if (text.compare(0, 14, ".branchtargets") == 0) branch_targets_[pending_label] = split(trim(text.substr(14)), ',');
    else if (text.compare(0, 7, ".pragma") == 0) {}   // unrolling hints only
    else if (describes_calls(text)) {}   // of calls through pointers
    else if (!text.empty() && text[0] == '.') declaration(text);
    else if (text.compare(0, 4, "call") == 0) call(text);
    else if (!text.empty()) statement(text);
    pass(s, p, end + 1);
  }
}

void Parser::resolve_labels() {
  for (auto& f : fixups_) {
    Instr& i = kernel->code[size_t(f.pc)];
    for (auto& label : f.labels) {
      int target = -1;
      for (size_t k = f.scopes.size(); k-- > 0 && target < 0;) {
        auto it = labels_.find({f.scopes[k], label});
        if (it != labels_.end()) target = it->second;
      }
      if (target < 0) throw LoadError("unknown label " + label, i.line);
      i.target = target;
      if (i.flow == Flow::BranchIndex) i.regs.push_back(target);
    }
  }
}

// The compiler widens loads over gaps; elements whose register nobody reads are not accesses of the program.
void Parser::drop_unread_elements() {
  auto& read = kernel->read;
  auto reads = [&](int slot) { return slot >= 0 && size_t(slot) / 64 < read.size() ? read[size_t(slot) / 64] : 0; };
  auto moves_parts = [&](const Instr& i) { return !i.regs.empty() && module_.opcodes[i.opcode].rfind("mov", 0) == 0; };
  std::map<int, std::pair<int, u32>> taken_apart;   // by packed register: how often, and which parts are read then
  for (auto& i : kernel->code) {
    if (!moves_parts(i) || i.dst >= 0) continue;
    auto& [times, parts] = taken_apart[i.a];
    ++times;
    for (size_t q = 0; q < i.regs.size(); ++q) parts |= u32(reads(i.regs[q]) > 0) << q;
  }
  for (auto& i : kernel->code) {                    // packing is no reading of parts that only come apart unread
    if (!moves_parts(i) || i.dst < 0 || !taken_apart.count(i.dst)) continue;
    auto& [times, parts] = taken_apart[i.dst];
    for (size_t q = 0; q < i.regs.size() && times == reads(i.dst); ++q)
      if (!(parts >> q & 1) && reads(i.regs[q])) --read[size_t(i.regs[q]) / 64];
  }
  for (auto& i : kernel->code) {
    if (!(i.flags & kPartialLoad)) continue;
    i.flags &= ~kPartialLoad;
    bool any = false;
    for (int& slot : i.regs) {
      bool used = reads(slot) > 0;
      any |= used;
      if (!used) slot = -1, i.flags |= kPartialLoad;
    }
    if (!any) i.flags &= ~kPartialLoad;       // a load for its own sake
    if (i.flags & kPartialLoad) kernel->note_access(i.space, type_size(i.type));
  }
}

const std::pair<const string, Parser::Opcode>& Parser::opcode(const string& text) {
  auto known = opcodes_.find(text);
  if (known != opcodes_.end()) return *known;
  Opcode o{int(module_.opcodes.size()), nullptr, {}};
  for (size_t at = 0, dot; at <= text.size(); at = dot + 1) {    // at single dots: `shared::cta` stays one modifier
    dot = std::min(text.find('.', at), text.size());
    o.modifiers.emplace_back(text, at, dot - at);
  }
  if (o.modifiers.size() > 64) fail("too many modifiers");
  o.decode = find_opcode(o.modifiers[0]);
  module_.opcodes.push_back(text);
  return *opcodes_.emplace(text, std::move(o)).first;
}

void Parser::entry_directives(const string& text) {
  vector<string> w = words(text);
  auto triple = [&](size_t& i, int* out) {
    string list;
    while (i + 1 < w.size() && w[i + 1][0] != '.') list += w[++i];
    out[0] = out[1] = out[2] = 1;
    auto numbers = split(list, ',');
    for (size_t k = 0; k < numbers.size() && k < 3; ++k) out[k] = int(number(numbers[k]));
  };
  for (size_t i = 0; i < w.size(); ++i) {
    if (w[i] == ".maxntid" || w[i] == ".reqntid") {
      int n[3];
      bool exact = w[i] == ".reqntid";
      triple(i, n);
      for (int v : n) if (v < 1 || v > 65536) fail("a malformed number of threads");
      kernel->max_threads = int(std::min<s64>(s64(n[0]) * n[1] * n[2], 1 << 20));
      if (exact) std::copy(n, n + 3, kernel->required_threads);
    } else if (i + 1 < w.size() && w[i] == ".minnctapersm") kernel->min_blocks = int(std::min(number(w[++i]), 1024u));
    else if (i + 1 < w.size() && w[i] == ".maxnreg") kernel->max_registers = int(std::min(number(w[++i]), 1024u));
    else if (w[i] == ".reqnctapercluster") triple(i, kernel->required_cluster);
    else if (w[i] == ".maxclusterrank") ++i;
    else if (w[i] == ".explicitcluster") continue;
    else fail("unsupported kernel directive " + w[i]);
  }
}

void Parser::entry(const string& s, size_t& p) {
  size_t name_at = s.find(".entry", p) + 6;
  const size_t open = s.find_first_of("({", name_at), brace = open == string::npos ? open : s.find('{', open);
  if (brace == string::npos) fail("a kernel without a body");
  string name = trim(s.substr(name_at, open - name_at));
  const size_t end = closing_brace(s, brace);
  if (!only_.empty() && !only_.count(name)) return pass(s, p, end);
  const int line = line_;
  const size_t start = p;
  kernel = &module_.kernels[name];
  try {
    *kernel = Kernel();
    kernel->name = name;
    kernel->code.reserve(size_t(std::count(s.begin() + long(brace), s.begin() + long(end), ';')) + 1);
    kernel_text(s, p, open);
  } catch (const std::exception& e) {      // this one cannot be run; the others may
    auto* at = dynamic_cast<const LoadError*>(&e);
    *kernel = Kernel();
    kernel->name = name;
    indirect_depth_ = 0;
    kernel->refusal = "PTX line " + std::to_string(at ? at->line : line_) + ": " + (at ? "" : "malformed PTX, ") + e.what();
    scopes_.clear(), return_scopes_.clear();
    call_depth_ = 0;
    line_ = line, p = start;
    pass(s, p, end);
  }
  kernel = nullptr;
}

// On to `end`, with the lines between counted.
void Parser::pass(const string& s, size_t& p, size_t end) {
  line_ += int(std::count(s.begin() + long(p), s.begin() + long(end), '\n'));
  p = end;
}
// Behind the brace that closes the one at `p`.
size_t Parser::closing_brace(const string& s, size_t p) const {
  int depth = 0;
  for (; p < s.size(); ++p) {
    depth += s[p] == '{' ? 1 : s[p] == '}' ? -1 : 0;
    if (!depth) return p + 1;
  }
  fail("a '}' is missing");
}

u32 Parser::alignment(const vector<string>& w, size_t i) const {
  const u32 n = i < w.size() ? number(w[i]) : 0;
  if (!n || n & (n - 1) || n > 1u << 16) fail("a malformed alignment");
  return n;
}

// Parameters, directives and body of a kernel.
void Parser::kernel_text(const string& s, size_t& p, size_t open) {
  size_t close = open;
  int offset = 0;
  if (s[open] == '(') {
    close = s.find(')', open);
    if (close == string::npos) fail("a kernel without a body");
    for (auto& text : split(s.substr(open + 1, close - open - 1), ',')) {
      vector<string> w = words(text);
      if (w.empty()) continue;
      Type t = Type::None;
      int align = 0, count = 1;
      string param = w.back();
      for (size_t i = 0; i + 1 < w.size(); ++i) {
        if (w[i] == ".align") align = int(alignment(w, ++i));
        else if (w[i] == ".param" || w[i] == ".ptr" || w[i] == ".global") continue;
        else if (type_from_name(w[i].substr(1)) != Type::None) t = type_from_name(w[i].substr(1));
        else fail("unsupported parameter attribute " + w[i]);
      }
      size_t bracket = param.find('[');
      if (bracket != string::npos) count = int(std::min(number(param.substr(bracket + 1)), 65536u)), param = param.substr(0, bracket);
      int size = type_size(t);
      if (!size) fail("unsupported parameter " + text);
      align = std::max(align, size);
      offset = (offset + align - 1) / align * align;
      kernel->params.push_back({param, offset, size * count});
      offset += size * count;
      if (offset > 32764) fail("more than 32764 bytes of parameters");
    }
    ++close;
  }
  kernel->param_bytes = offset;
  size_t brace = s.find('{', close);
  if (brace == string::npos || close > brace) fail("a kernel without a body");
  entry_directives(s.substr(close, brace - close));
  pass(s, p, brace + 1);
  body(s, p);
}

void Parser::strip_comments(const string& t, string& out) {
  for (size_t i = 0; i < t.size(); ++i) {
    const size_t slash = std::min(t.find('/', i), t.size());
    out.append(t, i, slash - i);
    if ((i = slash) == t.size()) return;
    if (t[i + 1] == '/') {
      i = std::min(t.find('\n', i), t.size());
      out += '\n';
    } else if (t[i + 1] == '*') {
      for (i += 2; i + 1 < t.size() && !(t[i] == '*' && t[i + 1] == '/'); ++i) if (t[i] == '\n') out += '\n';
      ++i;
    } else {
      out += '/';
    }
  }
}

void Parser::parse(const string& text) {
  string s;
  s.reserve(text.size());
  strip_comments(text, s);
  text_ = &s;
  module_.text = s;
  for (size_t at = 0; (at = s.find(".file", at)) != string::npos; ++at) file_directive(s.substr(at, s.find('\n', at) - at));
  size_t p = 0;
  while (p < s.size()) {
    if (s[p] == '\n') { ++line_, ++p; continue; }
    if (isspace((unsigned char)s[p])) { ++p; continue; }
    size_t newline = std::min(s.find('\n', p), s.size());
    string line = s.substr(p, newline - p);
    string word = words(line).empty() ? "" : words(line)[0];
    if (word == ".file" || word == ".version" || word == ".target" || word == ".address_size") {
      p = newline;
    } else if (word == ".section") {   // debug information
      size_t end = s.find('}', p);
      if (end == string::npos) fail("unterminated .section");
      pass(s, p, end + 1);
    } else if (line.find(".entry") != string::npos) {
      entry(s, p);
    } else if (line.find(".func") != string::npos) {
      function(s, p);
    } else {
      size_t end = s.find(';', p);
      if (end == string::npos) fail("a statement without ';'");
      declaration(trim(s.substr(p, end - p)));
      pass(s, p, end + 1);
    }
  }
  if (module_.kernels.empty()) throw LoadError("the PTX text holds no .entry", 1);
}

std::unique_ptr<Module> parse_module(const string& ptx, const string& only) {
  auto module = std::make_unique<Module>();
  Parser(*module, only).parse(ptx);
  return module;
}

}  // namespace emu
