// Order in memory: vector clocks, synchronisation through atomics and flags, fences.
#include <algorithm>

#include "decoder.hpp"
#include "machine.hpp"

namespace emu {

// ---- clocks -------------------------------------------------------------------------------------------------------------
void join(Counters& a, const Counters& b) {
  if (a.size() < b.size()) a.resize(b.size());
  for (size_t k = 0; k < b.size(); ++k) a[k] = std::max(a[k], b[k]);
}
std::shared_ptr<const Counters> join(const std::shared_ptr<const Counters>& a, const std::shared_ptr<const Counters>& b) {
  if (!b || a == b) return a;
  if (!a) return b;
  auto r = std::make_shared<Counters>(*a);
  join(*r, *b);
  return r;
}
void Clock::join(const Clock& o) {
  emu::join(local, o.local);
  foreign = emu::join(foreign, o.foreign);
}

namespace {
// What warp w may hand over through global memory, by warp of the grid: all it knows (a release), or only what fences of gpu
// scope have made visible (a relaxed operation after a fence).
std::shared_ptr<const Counters> visible(Warp& w, bool everything) {
  Machine& m = *w.machine;
  Cluster& c = *w.cta->cluster;
  auto r = std::make_shared<Counters>(everything ? (w.clock.foreign ? *w.clock.foreign : Counters())
                                                 : (w.fence.foreign ? *w.fence.foreign : Counters()));
  size_t first = size_t(c.serial) * m.warps_per_cluster;
  if (r->size() < first + m.warps_per_cluster) r->resize(first + m.warps_per_cluster);
  for (u32 k = 0; k < m.warps_per_cluster; ++k) {
    u32 v = everything ? w.clock.local[k] : std::min(w.clock.local[k], c.fenced[k]);
    if (!everything && w.fenced) v = std::max(v, w.fence.local[k]);
    (*r)[first + k] = std::max((*r)[first + k], v);
  }
  return r;
}
void learn(Warp& w, const std::shared_ptr<const Counters>& from) {
  Machine& m = *w.machine;
  size_t first = size_t(w.cta->cluster->serial) * m.warps_per_cluster;
  for (u32 k = 0; k < m.warps_per_cluster && first + k < from->size(); ++k)
    w.clock.local[k] = std::max(w.clock.local[k], (*from)[first + k]);
  w.clock.foreign = join(w.clock.foreign, from);
}

}  // namespace

// Acquire, release and relaxed synchronisation on one location.
void sync_read(Warp& w, u64 key, int flags, bool shared) {
  auto& vars = w.machine->sync_variables;
  if (vars.empty()) return;
  auto it = vars.find(key);
  if (it == vars.end() || !it->second) return;
  if (flags & kAcquire) learn(w, it->second);
  else (shared ? w.to_acquire_block : w.to_acquire).foreign = join((shared ? w.to_acquire_block : w.to_acquire).foreign, it->second);
}
void sync_write(Warp& w, u64 key, int flags, bool read_modify_write, bool shared) {
  auto& vars = w.machine->sync_variables;
  Cluster& c = *w.cta->cluster;
  if (shared && w.block_fenced) flags |= kRelease;       // within a cluster a fence of any scope does
  bool any_fence = w.fenced;
  for (u32 k = 0; !any_fence && k < c.fenced.size(); ++k) any_fence = c.fenced[k] && w.clock.local[k] > 0;
  if (flags & kRelease || any_fence) {
    auto mine = visible(w, flags & kRelease);
    auto& v = vars[key];
    v = read_modify_write ? join(v, mine) : mine;
    if (flags & kRelease) ++w.clock.local[w.agent];
  } else if (!read_modify_write && !vars.empty()) {
    vars.erase(key);                      // a plain relaxed store starts a new release sequence
  }
}
u64 sync_key(Warp& w, Space s, u64 address) {
  if (s != Space::Shared) return address;
  u32 a = u32(address), rank = a >> 24 ? (a >> 24) - 1 : w.cta->rank;
  return 1ull << 63 | u64(w.cta->cluster->serial) << 32 | u64(rank + 1) << 24 | (a & 0xFFFFFF);
}

namespace {
void fence_block(Warp& w, const Instr&, u32) {
  w.block_fenced = true;
  if (!w.to_acquire_block.foreign) return;
  learn(w, w.to_acquire_block.foreign);
  w.to_acquire_block.clear();
}
void fence_gpu(Warp& w, const Instr& i, u32 m) {
  Cluster& c = *w.cta->cluster;
  fence_block(w, i, m);
  if (w.to_acquire.foreign) {
    learn(w, w.to_acquire.foreign);
    w.to_acquire.clear();
  }
  c.fenced[w.agent] = w.clock.local[w.agent];
  w.fence = w.clock;
  w.fenced = true;
  ++w.clock.local[w.agent];
}
constexpr int kShared = 1, kGlobal = 2;
void fence_proxy_async(Warp& w, const Instr& i, u32) {
  if (i.flags & kGlobal) {
    w.global_proxy_fence = w.clock;
    w.machine->global_proxy_fences[w.grid_id] = w.clock.local[w.agent];
  }
  if (i.flags & kShared) w.proxy_fence = w.clock.local;
  ++w.clock.local[w.agent];
  if (!(i.flags & kShared)) return;
  for (auto& cta : w.cta->cluster->ctas)
    for (auto& b : cta.mbarriers) if (b.second.init_agent == int(w.agent)) b.second.visible = true;
}
void fence_mbarrier_init(Warp& w, const Instr&, u32) {
  for (auto& b : w.cta->mbarriers) if (b.second.init_agent == int(w.agent)) b.second.visible = true;
}
void decode_fence(Decoder& d, Instr& i) {
  i.run = nothing;
  if (d.take("mbarrier_init")) {
    d.require("release"), d.require("cluster");
    i.run = fence_mbarrier_init;
    return;
  }
  if (d.take("proxy")) {
    if (d.take("async")) {
      bool global = d.take("global"), shared = d.take("shared::cta") || d.take("shared::cluster");
      i.flags = (global ? kGlobal : 0) | (shared ? kShared : 0);
      if (!i.flags) i.flags = kGlobal | kShared;
      i.run = fence_proxy_async;
      return;
    }
    if (d.take("async::generic")) {
      d.choose({"acquire", "release"}, -1), d.take("sync_restrict::shared::cluster"), d.take("sync_restrict::shared::cta");
      d.require("cluster");
      i.flags = kGlobal | kShared, i.run = fence_proxy_async;
      return;
    }
    if (d.take("alias")) return;
    if (d.take("tensormap::generic")) {
      d.choose({"acquire", "release"}, -1), d.choose({"cta", "cluster", "gpu", "sys"}, -1);
      if (d.left()) { i.mem = d.address(); d.immediate(); }
      return;
    }
    d.refuse("this proxy fence is not supported");
  }
  d.choose({"sc", "acq_rel", "acquire", "release"}, 1);
  int scope = d.choose({"cta", "cluster", "gpu", "sys"}, -1);
  d.take("sync_restrict::shared::cluster"), d.take("sync_restrict::shared::cta");
  i.run = scope >= 2 ? fence_gpu : fence_block;
}
void decode_membar(Decoder& d, Instr& i) {
  int scope = d.choose({"cta", "gl", "sys"}, -1);
  i.run = scope ? fence_gpu : fence_block;
}
}  // namespace

const Opcodes opcodes{{"fence", decode_fence}, {"membar", decode_membar}};

}  // namespace emu
