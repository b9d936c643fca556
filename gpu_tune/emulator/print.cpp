// What kernels say to the host: vprintf, which prints (every line marked with its thread), and __assertfail.
#include "decoder.hpp"
#include "machine.hpp"

namespace emu {
namespace {

constexpr size_t kMostPrinted = 1 << 20;

template <class T>
T local_value(Warp& w, u64 at, int lane) {
  if (at + sizeof(T) > w.kernel->local_bytes) w.machine->stop("bounds", "arguments of a call outside local memory", &w);
  return load_from<T>(w.local.data() + size_t(lane) * w.kernel->local_bytes + at);
}
string text_at(Warp& w, u64 address) {
  const Buffer* b = buffer_at(*w.machine, address);
  string out;
  if (!b || address < b->base) return "(not a text)";
  for (u64 q = address - b->base; q < b->size && b->data[q] && out.size() < 4096; ++q) out += char(b->data[q]);
  return out;
}
string one(Warp& w, const string& spec, u64& at, int lane) {     // `%...d` and its like, with the next argument
  const char c = spec.back();
  const bool real = strchr("feEgGaAF", c), wide = real || strchr("sp", c) || spec.find_first_of("lzj") != string::npos;
  at = (at + (wide ? 7 : 3)) & ~u64(wide ? 7 : 3);
  const u64 bits = wide ? local_value<u64>(w, at, lane) : local_value<u32>(w, at, lane);
  at += wide ? 8 : 4;
  string plain;
  for (char x : spec.substr(0, spec.size() - 1)) if (!strchr("hlzj", x)) plain += x;
  char text[512];
  const auto say = [&](const char* form, auto value) { snprintf(text, sizeof text, (plain + form).c_str(), value); return string(text); };
  if (real) return say(string(1, c).c_str(), bit_cast<double>(bits));
  if (c == 's') return say("s", text_at(w, bits).c_str());
  if (c == 'c') return say("c", int(bits));
  if (c == 'p') return format("0x%llx", (unsigned long long)bits);
  if (c == 'd' || c == 'i') return say("lld", (long long)(wide ? s64(bits) : s64(s32(bits))));
  return say((string("ll") + c).c_str(), (unsigned long long)bits);
}
void print_text(Warp& w, const Instr& i, u32 m) {
  Machine& machine = *w.machine;
  for_lanes(m, [&](int l) {
    const string form = text_at(w, local_value<u64>(w, u64(i.regs[1]), l));
    u64 at = local_value<u64>(w, u64(i.regs[2]), l) - kLocalWindow;
    string out;
    for (size_t q = 0; q < form.size(); ++q) {
      const size_t end = form[q] == '%' ? form.find_first_of("diuoxXcspfeEgGaAF%", q + 1) : string::npos;
      if (end == string::npos) { out += form[q]; continue; }
      string spec = form.substr(q, end - q + 1);
      for (size_t star; (star = spec.find('*')) != string::npos; at += 4)
        at = (at + 3) & ~3ull, spec.replace(star, 1, std::to_string(std::min(local_value<s32>(w, at, l), 400)));
      out += form[end] == '%' || spec.size() > 20 ? string("%") : one(w, spec, at, l);
      q = end;
    }
    if (machine.printed.size() > kMostPrinted) return;
    if (out.empty() || out.back() != '\n') out += '\n';
    machine.printed += format("[%s block (%u,%u,%u) thread %d] ", w.kernel->name.c_str(), w.cta->index[0], w.cta->index[1], w.cta->index[2],
                              32 * w.id + l) + out;
  });
}
void assert_failed(Warp& w, const Instr& i, u32 m) {
  const int l = __builtin_ctz(m);
  auto text = [&](size_t k) { return text_at(w, local_value<u64>(w, u64(i.regs[k]), l)); };
  w.machine->halt("assert", format("thread %d: assertion `%s` failed at %s:%u in %s", 32 * w.id + l, text(0).c_str(), text(1).c_str(),
                                   local_value<u32>(w, u64(i.regs[2]), l), text(3).c_str()), &w);
}

}  // namespace

// `offsets`: where in local memory the result and the arguments are.
Handler host_call(const string& name, size_t offsets) {
  if (name == "vprintf" && offsets == 3) return print_text;
  return name == "__assertfail" && offsets == 5 ? assert_failed : nullptr;
}

}  // namespace emu
