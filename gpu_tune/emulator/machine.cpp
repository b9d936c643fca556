// One launch of a kernel, from its checks to its results, and the findings it leaves.
#include <algorithm>

#include "machine.hpp"
#include "parser.hpp"

namespace emu {

constexpr u32 kMostThreads = 1024, kMostWarps = 1u << 28;         // of a block; of a grid, of each of which a count is kept

void Machine::launch(const Kernel& k, const u32* g, const u32* b, const u32* c, u32 shared, const u8* p, size_t n) {
  kernel = &k;
  std::copy(g, g + 3, grid), std::copy(b, b + 3, block), std::copy(c, c + 3, cluster_dims);
  params.assign(p, p + n);
  u64 all = u64(b[0]) * b[1] * b[2];
  u32 threads = u32(std::min<u64>(all, kMostThreads)), size = c[0] * c[1] * c[2];
  warps_per_cta = (threads + 31) / 32;
  warps_per_cluster = warps_per_cta * size;
  agents = first_mbarrier_agent() + 64 * size;
  u64 clusters = u64(g[0] / c[0]) * (g[1] / c[1]) * (g[2] / c[2]);
  bool too_many = clusters > kMostWarps / std::max(1u, warps_per_cluster);
  cluster_count = too_many ? 0 : u32(clusters);
  dynamic_shared = shared;
  dynamic_base = (kSharedStart + k.static_shared + k.dynamic_align - 1) & ~(k.dynamic_align - 1);
  highest_shared = 0;
  global_granularity = k.global_granularity;
  for (auto& map : tensor_maps) global_granularity = std::min(global_granularity, map.element);
  sync_variables.clear(), observers.clear(), origins.clear(), origin_index.clear();
  global_proxy_fences.assign(size_t(cluster_count) * warps_per_cluster, 0);
  for (auto& buffer : buffers) buffer.shadow.clear();
  active.clear();
  try {
    if (n != size_t(k.param_bytes)) stop("launch", format("the kernel takes %d bytes of parameters, the plan gives %zu", k.param_bytes, n), nullptr);
    for (int q = 0; q < 3; ++q) {
      if (g[q] % c[q]) stop("launch", "the grid is no multiple of the cluster", nullptr);
      if (k.required_cluster[0] && k.required_cluster[q] != int(c[q])) stop("launch", "the cluster differs from the kernel's __cluster_dims__", nullptr);
      if (k.required_threads[0] && k.required_threads[q] != int(b[q])) stop("launch", "the block differs from the kernel's .reqntid", nullptr);
    }
    if (all > kMostThreads || b[2] > 64)
      stop("launch", format("a block of %u x %u x %u threads; 1024 are the most, 64 of them along z", b[0], b[1], b[2]), nullptr);
    if (g[0] > 0x7fffffff || g[1] > 65535 || g[2] > 65535)
      stop("launch", format("a grid of %u x %u x %u blocks; 2147483647 x 65535 x 65535 are the most", g[0], g[1], g[2]), nullptr);
    if (too_many) stop("limit", format("%llu blocks of %u warps are more than the emulator runs", (unsigned long long)(clusters * size), warps_per_cta), nullptr);
    if (k.max_threads && int(threads) > k.max_threads)
      stop("launch", format("a block of %u threads exceeds the launch bounds of %d", threads, k.max_threads), nullptr);
    if (size > 8) stop("launch", format("a cluster of %u blocks; 8 are the most without opting in to non-portable sizes", size), nullptr);
    if (warps_per_cluster > 60000) stop("launch", "too many warps in a cluster", nullptr);
    if (dynamic_base + shared - kSharedStart > 232448)
      stop("launch", format("%u bytes of shared memory; 232448 are the most", dynamic_base + shared - kSharedStart), nullptr);
    run_blocks(*this, k);
  } catch (const Stop&) {
    stopped = true;
  } catch (const Skip&) {        // where an instruction cannot be left out
    stopped = true;
  }
  active.clear();
  u32 touched = highest_shared > dynamic_base ? highest_shared - dynamic_base : 0;
  u32& most = shared_touched[k.name];
  most = std::max(most, touched);
}

string Machine::place(const Instr& i) const {
  const Place& p = module.places[size_t(i.place)];
  auto name = [&](const std::pair<int, int>& at) {
    auto it = module.files.find(at.first);
    return (it == module.files.end() ? string("?") : it->second) + ":" + std::to_string(at.second);
  };
  if (p.empty()) return "";
  return name(p.back()) + (p.size() > 1 ? " (inlined from line " + std::to_string(p.front().second) + ")" : "");
}

namespace {
constexpr size_t kKept = 16;       // findings of one kind
constexpr u32 kOften = 32;         // messages made of one kind at one place
string line_of(const string& text, int number) {
  size_t start = 0;
  for (int n = 1; n < number; ++n, ++start)
    if ((start = text.find('\n', start)) == string::npos) return "";
  return trim(text.substr(start, text.find('\n', start) - start));
}
u64 seen_key(const char* kind, const Warp* w, const Kernel* k) {
  return u64(reinterpret_cast<uintptr_t>(kind)) * 0x9E3779B97F4A7C15ull ^ u64(w ? w->pc + 1 : 0) << 1 ^ u64(reinterpret_cast<uintptr_t>(k)) << 20;
}
}  // namespace

bool Machine::seen_often(const char* kind, const Warp& w) {
  auto it = seen.find(seen_key(kind, &w, kernel));
  if (it == seen.end() || it->second.count < kOften) return false;
  ++it->second.count, ++reports, ++counted[kind];
  if (it->second.finding < findings.size()) ++findings[it->second.finding].count;
  return true;
}

void Machine::report(const char* kind, const string& message, const Warp* w, const Instr* at, bool advice) {
  if (quiet) return;
  ++reports;
  if (ignored.count(kind)) return;
  u64 of_kind = ++counted[kind];
  Seen& at_place = seen[seen_key(kind, w, kernel)];
  ++at_place.count;
  Finding f;
  f.kind = kind;
  const Instr* i = at ? at : w && kernel && size_t(w->pc) < kernel->code.size() ? &kernel->code[size_t(w->pc)] : nullptr;
  // findings of one kind at one instruction are one finding, counted
  string shape;
  for (char ch : message) if (!isdigit((unsigned char)ch)) shape += ch;
  string key = string(kind) + "/" + std::to_string(i ? i->line : 0) + "/" + shape.substr(0, 60);
  auto known = finding_index.find(key);
  if (known != finding_index.end()) {
    ++findings[known->second].count;
    return;
  }
  if (at_place.count == 1) at_place.finding = findings.size();
  if (of_kind > kKept && size_t(std::count_if(findings.begin(), findings.end(), [&](auto& o) { return o.kind == kind; })) >= kKept) {
    at_place.finding = ~size_t(0);
    return;
  }
  f.advice = advice;
  f.kernel = kernel ? kernel->name : "";
  string where = "kernel " + f.kernel;
  if (i) {
    f.ptx_line = i->line;
    const Place& chain = module.places[size_t(i->place)];
    if (!chain.empty()) f.cuda_line = chain.back().second;
    if (chain.size() > 1) f.inlined_line = chain.front().second;
    string p = place(*i);
    if (!p.empty()) where += ", " + p;
    string text = line_of(module.text, i->line);
    if (text.size() > 100) text = text.substr(0, 97) + "...";
    where += format(", PTX line %d `%s`", i->line, text.c_str());
  }
  if (w) {
    std::copy(w->cta->index, w->cta->index + 3, f.block);
    f.warp = w->id;
    where += format(", block (%u,%u,%u), warp %d", f.block[0], f.block[1], f.block[2], f.warp);
  }
  f.message = where + ": " + message + ".";
  finding_index[key] = findings.size();
  findings.push_back(f);
}
void Machine::stop(const char* kind, const string& message, const Warp* w, const Instr* at) {
  report(kind, message, w, at);
  if (w && (go_on || ignored.count(kind))) throw Skip();
  throw Stop();
}
void Machine::halt(const char* kind, const string& message, const Warp* w) {
  report(kind, message, w);
  throw Stop();
}
u8* Machine::fault(const char* kind, const string& message, const Warp* w) {
  report(kind, message, w);
  if (!go_on && !ignored.count(kind)) throw Stop();
  return nullptr;
}

}  // namespace emu
