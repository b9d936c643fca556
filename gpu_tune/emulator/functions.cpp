// Device functions: they are inlined where they are called.
#include <algorithm>

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
  if (k < parts.size()) arguments = list(parts[k]);
  if (Handler handler = host_call(name, results.size() + arguments.size())) {
    Instr i;
    i.line = line_, i.place = place_, i.run = handler, i.opcode = opcode_number("call " + name);
    for (auto* names : {&results, &arguments}) for (auto& n : *names) i.regs.push_back(call_param(n));
    if (std::count(i.regs.begin(), i.regs.end(), -1)) fail("malformed call of " + name);
    kernel->code.push_back(i);
    return;
  }
  auto it = functions_.find(name);
  if (it == functions_.end()) fail("call of " + name + ", which is not defined in this module");
  const Function& f = it->second;
  if (++call_depth_ > 16) fail("recursive calls are not supported");
  if (results.size() != f.results.size() || arguments.size() != f.params.size()) fail("call of " + name + " with wrong arguments");
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
  line_ += int(std::count(s.begin() + long(p), s.begin() + long(end), '\n'));
  p = end + 1;
  if (end == semicolon) return;        // a declaration
  f.start = p, f.line = line_;
  int depth = 1;
  for (; p < s.size() && depth; ++p) {
    depth += s[p] == '{' ? 1 : s[p] == '}' ? -1 : 0;
    line_ += s[p] == '\n';
  }
  functions_[name] = f;
}

}  // namespace emu
