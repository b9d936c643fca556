// Device functions: they are inlined where they are called.
#include <algorithm>

#include "machine.hpp"
#include "parser.hpp"

namespace emu {

// A device function is inlined where it is called: its parameters are the caller's .param variables, `ret` jumps behind.
void Parser::call(const string& text) {
  size_t at = text.find_first_of(" \t\n(");
  if (at == string::npos) fail("malformed call");
  auto parts = split(trim(text.substr(at)), ',');
  auto list = [&](const string& t) {
    auto names = split(t.substr(1, t.rfind(')') - 1), ',');
    if (names.size() == 1 && names[0].empty()) names.clear();
    return names;
  };
  vector<string> results, arguments;
  size_t k = 0;
  if (parts[k][0] == '(') results = list(parts[k++]);
  if (k >= parts.size()) fail("malformed call");
  string name = parts[k++];
  if (k < parts.size() && parts[k][0] == '(') arguments = list(parts[k]);
  if (Handler handler = host_call(name, results.size() + arguments.size())) {
    Instr i;
    i.line = line_, i.place = place_, i.run = handler, i.opcode = opcode_number("call " + name);
    for (auto* names : {&results, &arguments}) for (auto& n : *names) i.regs.push_back(call_param(n));
    if (std::count(i.regs.begin(), i.regs.end(), -1)) fail("malformed call of " + name);
    kernel->code.push_back(i);
    return;
  }
  if (name[0] == '%') return indirect_call(name, results, arguments);
  auto it = functions_.find(name);
  if (it == functions_.end()) fail("call of " + name + ", which is not defined in this module");
  const Function& f = it->second;
  if (results.size() != f.results.size() || arguments.size() != f.params.size()) fail("call of " + name + " with wrong arguments");
  inlined(f, results, arguments);
}

void Parser::inlined(const Function& f, const vector<string>& results, const vector<string>& arguments) {
  if (++call_depth_ > 16) fail("recursive calls are not supported");
  Scope scope{scope_count_++, {}, {}, {}};
  for (size_t q = 0; q < results.size(); ++q) scope.params[f.results[q]] = call_param(results[q]);
  for (size_t q = 0; q < arguments.size(); ++q) scope.params[f.params[q]] = call_param(arguments[q]);
  int line = line_;
  const int place = place_;
  return_scopes_.push_back(scope.id);
  scopes_.push_back(scope);
  line_ = f.line;
  size_t p = f.start;
  block(*text_, p);
  labels_[{scope.id, "return"}] = int(kernel->code.size());
  scopes_.pop_back();
  return_scopes_.pop_back();
  line_ = line, place_ = place;
  --call_depth_;
}

// Through a pointer: a jump to one of the functions that take as many arguments, all of which stand here.
namespace {
void find_function(Warp& w, const Instr& i, u32 m) {       // regs: numbers of the functions; dst: which of them it is
  for_lanes(m, [&](int l) {
    const u64 address = reg<u64>(w, i.a)[l];
    const auto at = std::find(i.regs.begin(), i.regs.end(), address % 16 ? -1 : int((address - kFunctionWindow) / 16));
    if (address < kFunctionWindow || at == i.regs.end())
      w.machine->stop("bounds", format("a call of address 0x%llx, where no function of this signature is", (unsigned long long)address), &w);
    reg<u32>(w, i.dst)[l] = u32(at - i.regs.begin());
  });
}
}  // namespace
void Parser::indirect_call(const string& target, const vector<string>& results, const vector<string>& arguments) {
  const Register* r = find_register(target);
  if (!r || r->width != 8) fail("a call through " + target + ", which is no 64-bit register");
  if (indirect_depth_ >= 2) fail("calls through pointers are nested too deep");
  Instr find, jump, leave;
  find.line = jump.line = leave.line = line_, find.place = jump.place = leave.place = place_;
  find.opcode = jump.opcode = leave.opcode = opcode_number("call " + target);
  find.run = find_function, find.a = r->slot, find.dst = jump.a = allocate(4), jump.flow = Flow::BranchIndex, leave.flow = Flow::Branch;
  vector<const Function*> candidates;
  Fixup jumps{int(kernel->code.size()) + 1, {}, {scope_count_}};
  const int scope = scope_count_++;
  for (auto& f : functions_) {
    if (f.second.results.size() != results.size() || f.second.params.size() != arguments.size()) continue;
    jumps.labels.push_back(std::to_string(candidates.size()));
    candidates.push_back(&f.second), find.regs.push_back(function_numbers_.at(f.first));
  }
  if (candidates.empty() || candidates.size() > 64) fail("a call through a pointer with " + std::to_string(candidates.size()) + " functions to choose from");
  kernel->code.push_back(find), kernel->code.push_back(jump);
  fixups_.push_back(jumps);
  ++indirect_depth_;
  for (size_t k = 0; k < candidates.size(); ++k) {
    labels_[{scope, jumps.labels[k]}] = int(kernel->code.size());
    inlined(*candidates[k], results, arguments);
    fixups_.push_back({int(kernel->code.size()), {"end"}, {scope}});
    kernel->code.push_back(leave);
  }
  --indirect_depth_;
  labels_[{scope, "end"}] = int(kernel->code.size());
}
u64 Parser::function_address(const string& name) const {
  auto it = function_numbers_.find(name);
  return it == function_numbers_.end() ? 0 : kFunctionWindow + u64(it->second) * 16;
}

int Parser::call_param(const string& name) const {
  for (size_t k = scopes_.size(); k-- > 0;) {
    auto it = scopes_[k].params.find(name);
    if (it != scopes_[k].params.end()) return int(it->second);
  }
  return -1;
}

// .func (results) name (params) { body }
void Parser::function(const string& s, size_t& p) {
  size_t semicolon = std::min(s.find(';', p), s.size()), brace = std::min(s.find('{', p), s.size());
  size_t end = std::min(semicolon, brace);
  if (end == s.size()) fail("a .func without a body");
  string head = s.substr(p, end - p);
  size_t at = head.find(".func") + 5;
  Function f;
  auto names = [&](size_t& from) {
    size_t close = head.find(')', from);
    if (close == string::npos) fail("a function without its ')'");
    vector<string> out;
    for (auto& param : split(head.substr(from + 1, close - from - 1), ',')) {
      auto w = words(param);
      if (w.empty()) continue;
      if (w[0] != ".param") fail("unsupported function parameter " + param);
      out.push_back(w.back().substr(0, w.back().find('[')));
    }
    from = close + 1;
    return out;
  };
  size_t q = head.find_first_not_of(" \t\n", at);
  if (q != string::npos && head[q] == '(') f.results = names(q), at = q;
  size_t open = head.find('(', at);
  string name = trim(head.substr(at, open - at));
  if (open != string::npos) f.params = names(open);
  pass(s, p, end + 1);
  function_numbers_.emplace(name, int(function_numbers_.size()));
  if (end == semicolon) return;        // a declaration
  f.start = p, f.line = line_;
  pass(s, p, closing_brace(s, brace));
  functions_[name] = f;
}

}  // namespace emu
