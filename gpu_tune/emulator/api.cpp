// The C interface that the Python side calls. Results leave as one JSON text.
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <cxxabi.h>

#include "lanes.hpp"
#include "machine.hpp"
#include "parser.hpp"

namespace emu {

string format(const char* f, ...) {
  char text[2048];
  va_list args;
  va_start(args, f);
  vsnprintf(text, sizeof text, f, args);
  va_end(args);
  return text;
}

namespace {
string quoted(const string& s) {
  string out = "\"";
  for (char c : s) {
    if (c == '"' || c == '\\') out += '\\', out += c;
    else if ((unsigned char)c < 32) out += format("\\u%04x", c);
    else out += c;
  }
  return out + "\"";
}

struct Run {
  const Module& module;
  Machine machine;
  string text;
  explicit Run(const Module& m) : module(m), machine(m) {
    Buffer& whole = machine.buffers[kFirstGlobalVariable - 1];
    whole.name = "workspace of the grid's barrier", whole.data = machine.grid_workspace.data(), whole.writable = true;
    whole.size = machine.grid_workspace.size(), whole.base = kGridWorkspace;
    machine.variables.resize(m.globals.size());
    for (auto& g : m.globals) {
      auto& v = machine.variables[size_t(g.second.index)];
      v = g.second.initial;
      Buffer& b = machine.buffers[size_t(kFirstGlobalVariable + g.second.index)];
      b.name = g.first, b.data = v.data(), b.size = v.size(), b.writable = !g.second.constant;
      b.base = u64(kFirstGlobalVariable + g.second.index + 1) << kWindowBits;
    }
  }
};

const Kernel* kernel_of(const Module& m, const char* name) {      // null when there is none of that name
  auto it = m.kernels.find(name);
  return it == m.kernels.end() ? nullptr : &it->second;
}
template <class List, class F>
string joined(const List& list, F text) {
  string out;
  for (auto& x : list) out += (out.empty() ? "" : ",") + text(x);
  return out;
}
template <class Map>
const char* names_of(const Map& map, char* out, int size) {
  string names;
  for (auto& x : map) names += (names.empty() ? "" : " ") + x.first;
  snprintf(out, size_t(size), "%s", names.c_str());
  return out;
}
string results(const Run& run) {
  const Machine& m = run.machine;
  std::map<string, u64> mix;
  for (auto& k : m.executed)
    for (size_t pc = 0; pc < k.second.size(); ++pc)
      if (k.second[pc]) mix[run.module.opcodes[size_t(k.first->code[pc].opcode)]] += k.second[pc];
  auto number = [](auto& x) { return quoted(x.first) + format(":%llu", (unsigned long long)x.second); };
  string findings = joined(m.findings, [](const Finding& f) {
    return "{\"kind\":" + quoted(f.kind) + ",\"message\":" + quoted(f.message) + ",\"kernel\":" + quoted(f.kernel) +
           format(",\"cuda_line\":%d,\"inlined_line\":%d,\"ptx_line\":%d,\"block\":[%u,%u,%u],\"warp\":%d,\"count\":%llu,\"level\":\"%s\"}",
                  f.cuda_line, f.inlined_line, f.ptx_line, f.block[0], f.block[1], f.block[2], f.warp, (unsigned long long)f.count,
                  f.advice ? "advice" : "error");
  });
  string out = "{\"findings\":[" + findings + "],\"instructions\":{" + joined(mix, number) + "},\"shared\":{" +
               joined(m.shared_touched, number) + "},\"counted\":{" + joined(m.counted, number) + "},\"printed\":" + quoted(m.printed);
  const Statistics& s = m.statistics;
  out += format(",\"steps\":%llu,\"lanes\":%llu,\"load_wavefronts\":%llu,\"load_extra\":%llu,\"store_wavefronts\":%llu,"
                "\"store_extra\":%llu,\"stopped\":%s}",
                (unsigned long long)s.instructions, (unsigned long long)s.lanes, (unsigned long long)s.load_wavefronts,
                (unsigned long long)s.load_extra, (unsigned long long)s.store_wavefronts, (unsigned long long)s.store_extra,
                m.stopped ? "true" : "false");
  return out;
}
}  // namespace
}  // namespace emu

using namespace emu;

extern "C" {

// only: the kernels that are wanted, apart by spaces; none: all
void* emu_load(const char* ptx, const char* only, char* error, int size) {
  try {
    return parse_module(ptx, only).release();
  } catch (const LoadError& e) {
    snprintf(error, size_t(size), "PTX line %d: %s", e.line, e.what());
  } catch (const std::exception& e) {
    snprintf(error, size_t(size), "%s", e.what());
  }
  return nullptr;
}
void emu_unload(void* module) { delete static_cast<Module*>(module); }

// Offsets and sizes of a kernel's parameters; total: their bytes, those of static shared memory. Returns their number, -1 for an
// unknown kernel.
int emu_params(void* module, const char* kernel, int* offsets, int* sizes, int capacity, int* total) {
  const Kernel* k = kernel_of(*static_cast<Module*>(module), kernel);
  if (!k) return -1;
  const int n = int(k->params.size());
  for (int q = 0; q < std::min(n, capacity); ++q) offsets[q] = k->params[size_t(q)].offset, sizes[q] = k->params[size_t(q)].size;
  total[0] = k->param_bytes, total[1] = int(k->static_shared);
  return n;
}
// Why the emulator will not run a kernel; empty when it will.
const char* emu_refusal(void* module, const char* kernel) {
  const Kernel* k = kernel_of(*static_cast<Module*>(module), kernel);
  return k ? k->refusal.c_str() : "";
}
const char* emu_demangle(const char* name, char* out, int size) {
  int status = 0;
  bool mangled = !strncmp(name, "_Z", 2);                         // a plain name may be the mangled one of a type: a, i
  char* plain = mangled ? abi::__cxa_demangle(name, nullptr, nullptr, &status) : nullptr;
  snprintf(out, size_t(size), "%s", plain ? plain : name);
  free(plain);
  return out;
}
const char* emu_kernels(void* module, char* out, int size) { return names_of(static_cast<Module*>(module)->kernels, out, size); }
const char* emu_variables(void* module, char* out, int size) { return names_of(static_cast<Module*>(module)->globals, out, size); }

// options: seed, late, resident clusters, bits of checks (races, global races, uninitialised, proxies, bounds, registers)
// go on after findings that would end it; ignored: kinds of findings, apart by spaces
void* emu_begin(void* module, const u64* options, const char* ignored) {
  auto* run = new Run(*static_cast<Module*>(module));
  Machine& m = run->machine;
  m.rng = Rng(options[0]);
  m.late = options[1];
  m.resident_limit = options[2] ? u32(options[2]) : 1;
  u64 c = options[3];
  m.checks = {bool(c & 1), bool(c & 2), bool(c & 4), bool(c & 8), bool(c & 16), bool(c & 32)};
  m.go_on = options[4], m.step_limit = options[5];
  for (auto& kind : words(ignored)) m.ignored.insert(kind);
  return run;
}
void emu_end(void* run) { delete static_cast<Run*>(run); }

// flags: 1 writable, 2 nothing in it counts as initialised. Returns the device address; `misalignment` is that address mod 256.
u64 emu_buffer(void* run, int index, const char* name, u8* data, u64 size, int flags, int misalignment) {
  Buffer& b = static_cast<Run*>(run)->machine.buffers[size_t(index)];
  b.name = name, b.data = data, b.size = size, b.writable = flags & 1, b.track_initialised = flags & 2;
  b.base = (u64(index + 1) << kWindowBits) + u64(misalignment);
  if (b.track_initialised) b.written.assign(size, 0);
  return b.base;
}
// The bytes of a module variable in this run; null when there is none of that name.
u8* emu_symbol(void* run, const char* name, u64* size) {
  auto* r = static_cast<Run*>(run);
  auto it = r->module.globals.find(name);
  if (it == r->module.globals.end()) return nullptr;
  auto& v = r->machine.variables[size_t(it->second.index)];
  *size = v.size();
  return v.data();
}
void emu_mark_written(void* run, int index, u64 offset, u64 size) {
  Buffer& b = static_cast<Run*>(run)->machine.buffers[size_t(index)];
  if (b.track_initialised) std::fill_n(b.written.begin() + long(offset), size, u8(1));
}
// v: buffer, rank, element bytes, swizzle, type, base, dims[5], strides[5], box[5], element strides[5], im2col, nan fill,
// lower[3], upper[3], channels, pixels. Returns the index that the 128 parameter bytes carry after their magic number.
int emu_tensor_map(void* run, const s64* v) {
  TensorMap t;
  t.buffer = int(v[0]), t.rank = int(v[1]), t.element = int(v[2]), t.swizzle = int(v[3]), t.type = int(v[4]), t.base = u64(v[5]);
  for (int k = 0; k < 5; ++k) {
    t.dims[k] = u64(v[6 + k]), t.strides[k] = u64(v[11 + k]);
    t.box[k] = u32(v[16 + k]), t.element_strides[k] = u32(v[21 + k]);
  }
  t.im2col = v[26], t.nan_fill = v[27];
  t.rounds = Type(t.type) == Type::TF32;
  if (t.rounds) t.type = int(Type::F32);
  for (int k = 0; k < 3; ++k) t.lower[k] = int(v[28 + k]), t.upper[k] = int(v[31 + k]);
  t.channels = u32(v[34]), t.pixels = u32(v[35]);
  auto& maps = static_cast<Run*>(run)->machine.tensor_maps;
  maps.reserve(1024);               // transfers in flight hold pointers
  if (maps.size() == 1024) return -1;
  maps.push_back(t);
  return int(maps.size()) - 1;
}
int emu_type(const char* name) { return int(type_from_name(name)); }

int emu_launch(void* run, const char* kernel, const u32* grid, const u32* block, const u32* cluster, u32 shared, const u8* params,
               u64 size, u32 resident, int cooperative) {
  auto* r = static_cast<Run*>(run);
  const Kernel* k = kernel_of(r->module, kernel);
  if (!k) return -1;
  r->machine.resident_limit = resident, r->machine.cooperative = cooperative;
  r->machine.launch(*k, grid, block, cluster, shared, params, size_t(size));
  return r->machine.stopped;
}
// which: 0 CUDA lines executed, 1 all CUDA lines of the kernels launched, 2 PTX lines executed, 3 PTX lines of waits that had
// something to wait for. Returns their number.
int emu_lines(void* run, int which, int* out, int capacity) {
  auto* r = static_cast<Run*>(run);
  std::set<int> lines;
  for (auto& k : r->machine.waited)
    for (size_t pc = 0; which == 3 && pc < k.second.size(); ++pc)
      if (k.second[pc]) lines.insert(k.first->code[pc].line);
  for (auto& k : r->machine.executed)
    for (size_t pc = 0; which != 3 && pc < k.second.size(); ++pc) {
      const Instr& i = k.first->code[pc];
      if (which != 1 && !k.second[pc]) continue;
      if (which == 2) lines.insert(i.line);
      else for (auto& at : r->module.places[size_t(i.place)]) lines.insert(at.second);
    }
  int n = 0;
  for (int line : lines) if (n < capacity) out[n++] = line;
  return n;
}
// From now on launches run one cluster and record what its lanes' addresses cost. wanted: `count` pairs of PTX line and bytes a
// lane, by ascending line; none: every access.
void emu_record(void* run, u32 cluster, u32 rounds, u64 limit, u64 l1_bytes, const int* wanted, int count) {
  auto recorder = std::make_shared<Recorder>();
  recorder->cluster = cluster, recorder->rounds = rounds, recorder->limit = limit, recorder->l1_bytes = l1_bytes;
  for (int k = 0; k < count; ++k) recorder->wanted.push_back({wanted[2 * k], wanted[2 * k + 1]});
  Machine& m = static_cast<Run*>(run)->machine;
  m.recorder = std::move(recorder), m.quiet = true;
}
// And from now on they look for what is not counted yet where nobody went.
void emu_explore(void* run) { static_cast<Run*>(run)->machine.recorder->explore = true; }
// Fourteen numbers for each recorded instruction of the kernel; returns their number, or how many were needed.
int emu_recorded(void* run, const char* kernel, u64* out, int capacity) {
  auto* r = static_cast<Run*>(run);
  const Kernel* k = kernel_of(r->module, kernel);
  if (!k || !r->machine.recorder) return 0;
  int n = 0;
  for (auto& f : r->machine.recorder->figures(*k)) {
    const u64 row[] = {u64(f.line), u64(f.width), u64(f.kind), f.count, f.wavefronts, f.sectors, f.lines, f.hits, f.again,
                       f.again_sectors, f.again_hits, f.lanes, f.shared, f.global};
    if (n < capacity) std::copy(std::begin(row), std::end(row), out + 14 * n);
    ++n;
  }
  return n;
}
const char* emu_results(void* run) {
  auto* r = static_cast<Run*>(run);
  r->text = results(*r);
  return r->text.c_str();
}

}  // extern "C"
