// Memory: address windows, bounds, shadow state and races, loads, stores, atomics, fences.
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

// Acquire, release and relaxed synchronisation on one location. Instr::flags carries these bits.
constexpr int kAcquire = 1, kRelease = 2, kStrong = 4, kGpuScope = 8;

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
  return kSharedWindow | u64(w.cta->cluster->serial) << 32 | u64(rank + 1) << 24 | (a & 0xFFFFFF);
}
}  // namespace

void block_fence(Warp& w) {
  w.block_fenced = true;
  if (!w.to_acquire_block.foreign) return;
  learn(w, w.to_acquire_block.foreign);
  w.to_acquire_block.clear();
}
void gpu_fence(Warp& w) {
  Cluster& c = *w.cta->cluster;
  block_fence(w);
  if (w.to_acquire.foreign) {
    learn(w, w.to_acquire.foreign);
    w.to_acquire.clear();
  }
  c.fenced[w.agent] = w.clock.local[w.agent];
  w.fence = w.clock;
  w.fenced = true;
  ++w.clock.local[w.agent];
}

// ---- shared memory ----------------------------------------------------------------------------------------------------------
Cta& shared_target(Warp& w, u32& address) {
  u32 rank = address >> 24;
  address &= 0xFFFFFF;
  if (!rank) return *w.cta;
  auto& ctas = w.cta->cluster->ctas;
  if (rank > ctas.size())
    w.machine->stop("bounds", format("shared::cluster address names CTA %u of a cluster of %zu", rank - 1, ctas.size()), &w);
  Cta& target = ctas[rank - 1];
  if (target.exited())
    w.machine->stop("exited_cta", format("access to the shared memory of CTA %u of the cluster after it exited", rank - 1), &w);
  return target;
}

namespace {
string agent_name(const Machine& m, u32 agent, int lane) {
  string who;
  if (agent < m.warps_per_cluster) {
    who = format("warp %u", agent % m.warps_per_cta);
    if (m.warps_per_cluster > m.warps_per_cta) who += format(" of CTA %u", agent / m.warps_per_cta);
    if (lane < 32) who += format(" lane %d", lane);
  } else if (agent < m.first_mbarrier_agent()) {
    who = format("a wgmma of warpgroup %u", agent - m.warps_per_cluster);
  } else {
    who = "an asynchronous copy";
  }
  return who;
}
string at_instruction(const Machine& m, u16 pc) {
  if (pc == 0xFFFF || pc >= m.kernel->code.size()) return "";
  const Instr& i = m.kernel->code[pc];
  string place = m.place(i);
  return " at " + (place.empty() ? "" : place + ", ") + format("PTX line %d", i.line);
}

__attribute__((noinline)) void report_cell(Cell& s, u32 byte, const Accessor& by, int problem, int reader = 0) {
  Machine& m = *by.warp->machine;
  s32 at = s32(byte) - s32(kSharedStart);
  switch (problem) {
    case 0:
      if (!m.checks.races) return;
      m.report("race", format("%s of shared memory byte %d is not ordered after the write by %s%s", by.what, at,
                              agent_name(m, s.write_agent, s.write_lane).c_str(), at_instruction(m, s.write_pc).c_str()),
               by.warp);
      s.write_clock = 0;
      return;
    case 1:
      if (!m.checks.races) return;
      m.report("race", format("%s of shared memory byte %d while %s may still read it", by.what, at,
                              agent_name(m, s.read_agent[reader], s.read_lane[reader]).c_str()), by.warp);
      s.read_clock[reader] = 0;
      return;
    case 2:
      s.flags &= u8(~Cell::Uninitialised);
      if (!m.checks.uninitialised) return;
      m.report("uninitialised", format("%s of shared memory byte %d, which nothing has written", by.what, at), by.warp);
      return;
    case 3:
      s.flags &= u8(~Cell::Pending);
      m.report("asynchronous", format("%s of shared memory byte %d, where an asynchronous copy%s is still in flight (its "
                                      "completion was not waited for)", by.what, at, at_instruction(m, s.write_pc).c_str()),
               by.warp);
      return;
    case 4:
      s.flags &= u8(~Cell::Mbarrier);
      m.report("mbarrier", format("%s of shared memory byte %d, which holds a live mbarrier", by.what, at), by.warp);
      return;
    default:
      s.flags &= u8(~Cell::Generic);
      if (!m.checks.proxies) return;
      m.report("proxy", format("%s of shared memory byte %d, written with ordinary stores%s, without fence.proxy.async "
                               "between", by.what, at, at_instruction(m, s.write_pc).c_str()), by.warp);
  }
}

inline bool unordered(u32 agent, u32 clock, int lane, const Accessor& by, u32 now) {
  if (agent != by.agent) return clock > by.clock->local[agent];
  return clock == now && lane != by.lane && by.lane < 32 && lane != kAnyLane;
}

// generic-proxy writes are visible to the async proxy once writer or accessor executed a proxy fence after them
bool proxy_fenced(Cta& cta, const Cell& s, const Accessor& by) {
  Machine& m = *by.warp->machine;
  Warp& writer = cta.cluster->ctas[s.write_agent / m.warps_per_cta].warps[s.write_agent % m.warps_per_cta];
  return writer.proxy_fence[s.write_agent] >= s.write_clock || by.warp->proxy_fence[s.write_agent] >= s.write_clock;
}

inline void touch_cell(Cta& cta, Cell& s, u32 byte, bool write, const Accessor& by, u32 now) {
  constexpr u8 special = Cell::Uninitialised | Cell::Pending | Cell::Mbarrier | Cell::AtomicRead;
  if (!write) {
    if (s.read_clock[0] == now && s.read_agent[0] == by.agent && !(s.flags & special) && !by.async &&
        !(s.write_clock == now && s.write_agent == by.agent)) {
      if (s.read_lane[0] != by.lane) s.read_lane[0] = kManyLanes;
      return;
    }
  }
  if (s.flags & special & ~Cell::AtomicRead) {
    if (s.flags & Cell::Pending) report_cell(s, byte, by, 3);
    if (s.flags & Cell::Mbarrier) report_cell(s, byte, by, 4);
    if (s.flags & Cell::Uninitialised && !write) report_cell(s, byte, by, 2);
  }
  bool both_atomic = by.strong && s.flags & Cell::Atomic;
  if (s.write_clock && !both_atomic && unordered(s.write_agent, s.write_clock, s.write_lane, by, now))
    report_cell(s, byte, by, 0);
  if (by.async && s.flags & Cell::Generic && s.write_clock && s.write_agent < by.warp->machine->warps_per_cluster &&
      !proxy_fenced(cta, s, by))
    report_cell(s, byte, by, 5);
  if (write) {
    bool both = by.strong && s.flags & Cell::AtomicRead;
    for (int q = 0; q < 2; ++q)
      if (s.read_clock[q] && !both && unordered(s.read_agent[q], s.read_clock[q], s.read_lane[q], by, now)) report_cell(s, byte, by, 1, q);
    s.write_agent = u16(by.agent), s.write_lane = u8(by.lane), s.write_clock = now;
    s.write_pc = u16(std::min(by.warp->pc, 0xFFFF));
    s.read_clock[0] = s.read_clock[1] = 0;
    s.flags = by.strong ? Cell::Atomic : 0;
    if (!by.async) s.flags |= Cell::Generic;
  } else {
    if (s.read_clock[0] && s.read_agent[0] != by.agent)
      s.read_clock[1] = s.read_clock[0], s.read_agent[1] = s.read_agent[0], s.read_lane[1] = s.read_lane[0];
    bool many = s.read_clock[0] == now && s.read_agent[0] == by.agent && s.read_lane[0] != by.lane;
    s.read_agent[0] = u16(by.agent), s.read_clock[0] = now, s.read_lane[0] = many ? kManyLanes : u8(by.lane);
    s.flags = u8((s.flags & ~Cell::AtomicRead) | (by.strong ? Cell::AtomicRead : 0));
  }
}

inline bool same(const Cell& a, const Cell& b) {
  static_assert(sizeof(Cell) == 24, "compared as three words");
  u64 x[3], y[3];
  memcpy(x, &a, 24), memcpy(y, &b, 24);
  return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}
// Touches by one accessor. Tiles have long runs of cells with one history: what became of the last cell becomes of its like.
class Toucher {
 public:
  Toucher(Cta& cta, bool write, const Accessor& by)
      : cta_(cta), write_(write), by_(by), m_(*by.warp->machine), now_(by.clock->local[by.agent]),
        shift_(__builtin_ctz(u32(m_.kernel->shared_granularity))), checked_(!cta.shadow.empty()) {}
  void operator()(u32 address, u32 bytes) {
    if (address < kSharedStart || address + bytes > cta_.top)
      m_.stop("bounds", format("%s of %u bytes at shared memory byte %d; the block has %u", by_.what, bytes,
                               s32(address) - s32(kSharedStart), cta_.top - kSharedStart), by_.warp);
    if (address + bytes > m_.highest_shared) m_.highest_shared = address + bytes;
    if (!checked_) return;
    for (u32 k = address >> shift_; k <= (address + bytes - 1) >> shift_; ++k) {
      Cell& s = cta_.shadow[k];
      if (known_ && same(s, before_)) { s = after_; continue; }
      Cell before = s;
      u64 reports = m_.reports;
      touch_cell(cta_, s, k << shift_, write_, by_, now_);
      known_ = reports == m_.reports;
      before_ = before, after_ = s;
    }
  }

 private:
  Cta& cta_;
  const bool write_;
  const Accessor& by_;
  Machine& m_;
  const u32 now_;
  const int shift_;
  const bool checked_;
  bool known_ = false;
  Cell before_, after_;
};
}  // namespace

void touch(Cta& cta, u32 address, u32 bytes, bool write, const Accessor& by) { Toucher(cta, write, by)(address, bytes); }
void touch_chunks(Cta& cta, const u32* addresses, u32 count, bool write, const Accessor& by) {
  Toucher touch_one(cta, write, by);
  for (u32 k = 0; k < count; ++k) touch_one(addresses[k], 16);
}

void set_flags(Cta& cta, u32 address, u32 bytes, u8 set, u8 clear) {
  if (cta.shadow.empty()) return;
  u32 g = u32(cta.cluster->machine->kernel->shared_granularity);
  for (u32 k = address / g; k <= (address + bytes - 1) / g; ++k)
    cta.shadow[k].flags = u8((cta.shadow[k].flags & ~clear) | set);
}

// Wavefronts of one access: 4-byte accesses of a warp go together, 8-byte ones by halves, 16-byte ones by quarters; each needs
// as many wavefronts as the fullest bank has distinct words.
void count_banks(Warp& w, const u32* addresses, u32 mask, int bytes, bool store) {
  int words = std::max(1, bytes / 4), lanes = 32 / words;
  u64 wavefronts = 0, extra = 0;
  for (int p = 0; p < words; ++p) {
    u32 part = mask >> (p * lanes) & (lanes == 32 ? ~0u : (1u << lanes) - 1);
    if (!part) continue;
    const u32* a = addresses + p * lanes;
    u32 used = 0, in_bank[32];
    bool conflict = false;
    for_lanes(part, [&](int k) {
      for (int q = 0; q < words; ++q) {
        u32 v = a[k] / 4 + u32(q), bank = v & 31;
        if (!(used >> bank & 1)) used |= 1u << bank, in_bank[bank] = v;
        else conflict |= in_bank[bank] != v;
      }
    });
    int most = 1;
    if (conflict) {
      u32 word[32], n = 0;
      u8 per_bank[32] = {0};
      for_lanes(part, [&](int k) {
        for (int q = 0; q < words; ++q) {
          u32 v = a[k] / 4 + u32(q);
          if (std::find(word, word + n, v) != word + n) continue;
          if (n < 32) word[n++] = v;
          most = std::max(most, int(++per_bank[v & 31]));
        }
      });
    }
    wavefronts += u64(most), extra += u64(most - 1);
  }
  auto& s = w.machine->statistics;
  (store ? s.store_wavefronts : s.load_wavefronts) += wavefronts;
  (store ? s.store_extra : s.load_extra) += extra;
}

// ---- global memory ------------------------------------------------------------------------------------------------------------
u8* global_pointer(Warp& w, u64 address, u32 bytes, bool write, const char* what) {
  Machine& m = *w.machine;
  size_t k = size_t(address >> kWindowBits) - 1;
  if (k < kMaxBuffers && m.buffers[k].data) {
    Buffer& b = m.buffers[k];
    if (address >= b.base && address + bytes <= b.base + b.size) {
      if (write && !b.writable)
        m.stop("read_only", format("%s to buffer `%s`, which the kernel may only read", what, b.name.c_str()), &w);
      return b.data + (address - b.base);
    }
    if (!m.checks.bounds) return nullptr;
    m.stop("bounds", format("%s of %u bytes at byte %lld of buffer `%s` (%llu bytes)", what, bytes,
                            (long long)(address - b.base), b.name.c_str(), (unsigned long long)b.size), &w);
  }
  if (!m.checks.bounds) return nullptr;
  m.stop("bounds", format("%s of %u bytes at address 0x%llx, which lies in no buffer", what, bytes,
                          (unsigned long long)address), &w);
}

namespace {
bool unordered_global(Warp& w, u32 warp_plus_one, u32 clock, int other_lane, int lane, const Clock& mine) {
  Machine& m = *w.machine;
  u32 other = warp_plus_one - 1, cluster = other / m.warps_per_cluster;
  if (cluster != w.cta->cluster->serial)
    return !mine.foreign || other >= mine.foreign->size() || clock > (*mine.foreign)[other];
  u32 agent = other % m.warps_per_cluster;
  if (agent != w.agent) return clock > mine.local[agent];
  return clock == mine.local[agent] && other_lane != lane && lane < 32 && other_lane != kAnyLane;
}
string grid_warp_name(const Machine& m, u32 warp_plus_one) {
  u32 other = warp_plus_one - 1, cluster = other / m.warps_per_cluster, agent = other % m.warps_per_cluster;
  u32 per[3], index[3], rank = agent / m.warps_per_cta;
  for (int k = 0; k < 3; ++k) per[k] = m.grid[k] / m.cluster_dims[k];
  index[0] = cluster % per[0] * m.cluster_dims[0] + rank % m.cluster_dims[0];
  index[1] = cluster / per[0] % per[1] * m.cluster_dims[1] + rank / m.cluster_dims[0] % m.cluster_dims[1];
  index[2] = cluster / per[0] / per[1] * m.cluster_dims[2] + rank / m.cluster_dims[0] / m.cluster_dims[1];
  return format("block (%u,%u,%u) warp %u", index[0], index[1], index[2], agent % m.warps_per_cta);
}
}  // namespace

void touch_global(Warp& w, u64 address, u32 bytes, bool write, int lane, bool strong, const Clock& clock) {
  Machine& m = *w.machine;
  size_t k = size_t(address >> kWindowBits) - 1;
  if (k >= kMaxBuffers || !m.buffers[k].writable) return;
  Buffer& b = m.buffers[k];
  u64 at = address - b.base;
  if (b.track_initialised) {
    if (write) std::fill_n(b.written.begin() + long(at), bytes, u8(1));
    else if (m.checks.uninitialised && std::find(b.written.begin() + long(at), b.written.begin() + long(at + bytes), 0) !=
                                           b.written.begin() + long(at + bytes))
      m.report("uninitialised", format("load at byte %llu of buffer `%s`, which nothing has written", (unsigned long long)at,
                                       b.name.c_str()), &w);
  }
  if (!m.checks.global_races) return;
  u64 g = u64(m.global_granularity), low = b.base & 15;
  if (b.shadow.empty()) b.shadow.resize(size_t((b.size + low) / g + 1));
  u32 me = w.grid_id + 1, now = clock.local[w.agent];
  for (u64 c = (at + low) / g; c <= (at + low + bytes - 1) / g; ++c) {
    GlobalCell& s = b.shadow[size_t(c)];
    bool bad_write = s.write_warp && !(strong && s.flags & GlobalCell::Atomic) &&
                     unordered_global(w, s.write_warp, s.write_clock, s.write_lane, lane, clock);
    bool bad_read = write && s.read_warp && !(strong && s.flags & GlobalCell::AtomicRead) &&
                    unordered_global(w, s.read_warp, s.read_clock, s.read_lane, lane, clock);
    if (bad_write || bad_read) {
      string other = grid_warp_name(m, bad_write ? s.write_warp : s.read_warp);
      string where = bad_write ? at_instruction(m, s.write_pc) : "";
      const char* verb = write && bad_write ? "written by two threads" : write ? "written while another thread may still read it"
                                                                                 : "read without order after its write";
      m.report("global_race", format("byte %lld of buffer `%s` is %s (the other is %s%s; a barrier or release/acquire is "
                                     "missing)", (long long)(c * g - low), b.name.c_str(), verb, other.c_str(), where.c_str()),
               &w);
      s = GlobalCell();
    }
    if (write) {
      s.write_warp = me, s.write_clock = now, s.write_lane = u8(lane), s.write_pc = u16(std::min(w.pc, 0xFFFF));
      s.read_warp = 0;
      s.flags = strong ? GlobalCell::Atomic : 0;
    } else {
      bool many = s.read_warp == me && s.read_clock == now && s.read_lane != lane;
      s.read_warp = me, s.read_clock = now, s.read_lane = many ? kManyLanes : u8(lane);
      s.flags = u8((s.flags & GlobalCell::Atomic) | (strong ? GlobalCell::AtomicRead : 0));
    }
  }
}

// ---- loads and stores -----------------------------------------------------------------------------------------------------------
namespace {
constexpr int kNonCoherent = 16, kPoll = 32;

Space resolve(Space s, u64& a) {
  if (s == Space::Shared && a >= kSharedWindow) a -= kSharedWindow;   // 64-bit shared addresses may be generic values
  if (s != Space::Generic) return s;
  u64 window = a >> kWindowBits << kWindowBits;
  if (window == kSharedWindow) { a -= kSharedWindow; return Space::Shared; }
  if (window == kLocalWindow) { a -= kLocalWindow; return Space::Local; }
  if (window == kParamWindow) return Space::Param;
  return Space::Global;
}

// Host pointer of one lane's access, after every check.
u8* locate(Warp& w, Space s, u64 a, u32 bytes, bool write, int lane, int flags, const char* what) {
  Machine& m = *w.machine;
  s = resolve(s, a);
  if (a & (bytes - 1))
    m.stop("alignment", format("%s of %u bytes at address 0x%llx (lane %d) is misaligned", what, bytes, (unsigned long long)a, lane), &w);
  switch (s) {
    case Space::Shared: {
      u32 address = u32(a);
      Cta& cta = shared_target(w, address);
      bool strong = flags & kStrong;
      touch(cta, address, bytes, write, {&w, lane, w.agent, &w.clock, false, what, strong});
      return cta.shared.data() + address;
    }
    case Space::Local:
      if (a + bytes > w.kernel->local_bytes) m.stop("bounds", format("%s outside local memory", what), &w);
      return reinterpret_cast<u8*>(w.local.data()) + size_t(lane) * w.kernel->local_bytes + a;
    case Space::Param: {
      u64 at = a - kParamWindow;
      if (at + bytes > m.params.size() || write) m.stop("bounds", format("%s outside the kernel's parameters", what), &w);
      return m.params.data() + at;
    }
    default: {
      u8* p = global_pointer(w, a, bytes, write, what);
      if (!p) return nullptr;
      if (flags & kNonCoherent && m.checks.global_races) {
        Buffer& b = m.buffers[size_t(a >> kWindowBits) - 1];
        u64 g = u64(m.global_granularity);
        if (!b.shadow.empty() && b.shadow[size_t((a - b.base + (b.base & 15)) / g)].write_warp)
          m.report("global_race", format("ld.global.nc of buffer `%s`, which the kernel writes", b.name.c_str()), &w);
      }
      touch_global(w, a, bytes, write, lane, flags & kStrong, w.clock);
      return p;
    }
  }
}

// Bounds and alignment of a vector load of which only some elements are used.
const u8* extent(Warp& w, Space s, u64 a, u32 bytes, int lane) {
  Machine& m = *w.machine;
  s = resolve(s, a);
  if (a & (bytes - 1))
    m.stop("alignment", format("load of %u bytes at address 0x%llx (lane %d) is misaligned", bytes, (unsigned long long)a, lane), &w);
  if (s == Space::Global) return global_pointer(w, a, bytes, false, "load");
  if (s != Space::Shared) return locate(w, s, a, bytes, false, lane, 0, "load");
  u32 address = u32(a);
  Cta& cta = shared_target(w, address);
  if (address < kSharedStart || address + bytes > cta.top)
    m.stop("bounds", format("load of %u bytes at shared memory byte %d; the block has %u", bytes,
                            s32(address) - s32(kSharedStart), cta.top - kSharedStart), &w);
  return cta.shared.data() + address;
}

void synchronise(Warp& w, const Instr& i, int lane, bool read, bool write) {
  if (!(i.flags & (kAcquire | kRelease | kStrong))) return;
  u64 a = address_of(w, i.mem, lane);
  Space s = resolve(i.space, a);
  if (s != Space::Global && s != Space::Shared) return;
  int flags = i.flags;
  if (s == Space::Global && !(flags & kGpuScope) && w.machine->cluster_count > 1) flags &= ~(kAcquire | kRelease);
  u64 key = sync_key(w, s, a);
  if (read) sync_read(w, key, flags, s == Space::Shared);
  if (write) sync_write(w, key, flags, read, s == Space::Shared);
}

void polled(Warp& w) {
  Machine& m = *w.machine;
  if (w.polled_at != m.progress) w.polls = 0, w.polled_at = m.progress;
  ++w.polls;
}

// The usual case: every lane within the own block's shared memory and aligned. Returns its base, after all checks but the
// shadow's; null sends the access down the general path, which names what is wrong.
u8* plain_shared(Warp& w, const u32* addresses, u32 m, u32 bytes) {
  u32 low = ~0u, high = 0, bits = 0;
  for (int l = 0; l < 32; ++l) {
    u32 a = m >> l & 1 ? addresses[l] : kSharedStart;
    low = std::min(low, a), bits |= a;
    high = std::max(high, m >> l & 1 ? a : 0u);
  }
  if (low < kSharedStart || high + bytes > w.cta->top || bits & (bytes - 1)) return nullptr;
  w.machine->highest_shared = std::max(w.machine->highest_shared, high + bytes);
  return w.cta->shared.data();
}
void touch_lanes(Warp& w, const u32* addresses, u32 m, u32 bytes, bool write, bool strong, const char* what) {
  if (w.cta->shadow.empty()) return;
  u32 g = u32(w.kernel->shared_granularity), now = w.clock.local[w.agent];
  int shift = __builtin_ctz(g);
  Cell* cells = w.cta->shadow.data();
  Accessor by{&w, 0, w.agent, &w.clock, false, what, strong};
  u32 before[2] = {~0u, ~0u};         // two lanes that read one place tell as much as all of them
  for_lanes(m, [&](int l) {
    u32 a = addresses[l];
    if (!write && a == before[0] && a == before[1]) return;
    before[1] = before[0], before[0] = a;
    by.lane = l;
    for (u32 k = a >> shift; k <= (a + bytes - 1) >> shift; ++k) touch_cell(*w.cta, cells[k], k << shift, write, by, now);
  });
}
// Likewise for global memory: all lanes in one buffer that needs no shadow. Returns what to add to an address.
u8* plain_global(Warp& w, const Instr& i, u32 m, u32 bytes) {
  u64 low = ~0ull, high = 0, bits = 0;
  for_lanes(m, [&](int l) {
    u64 a = address_of(w, i.mem, l);
    low = std::min(low, a), high = std::max(high, a), bits |= a;
  });
  size_t k = size_t(low >> kWindowBits) - 1;
  if (k >= kMaxBuffers || bits & (bytes - 1)) return nullptr;
  Buffer& b = w.machine->buffers[k];
  if (!b.data || b.writable || low < b.base || high + bytes > b.base + b.size) return nullptr;
  return b.data - b.base;
}

template <class T, class S, Space kSpace>
void load(Warp& w, const Instr& i, u32 m) {
  const size_t n = i.regs.size();
  const u32 bytes = u32(sizeof(T) * n);
  if (kSpace == Space::Param && i.mem.slot < 0) {
    for (size_t q = 0; q < n; ++q) {
      T t;
      if (size_t(i.mem.offset) + bytes > w.machine->params.size()) w.machine->stop("bounds", "load outside the kernel's parameters", &w);
      memcpy(&t, w.machine->params.data() + i.mem.offset + q * sizeof(T), sizeof t);
      if (i.regs[q] >= 0) write_lanes<S>(w, i.regs[q], m, [=](int) { return S(t); });
    }
    return;
  }
  constexpr int kSlow = kPartialLoad | kAcquire | kStrong;
  if (kSpace == Space::Shared) {
    u32 addresses[32];
    for (int l = 0; l < 32; ++l) addresses[l] = u32(address_of(w, i.mem, l));
    count_banks(w, addresses, m, int(bytes), false);
    const u8* base = i.mem.wide || i.flags & kSlow ? nullptr : plain_shared(w, addresses, m, bytes);
    if (base) {
      touch_lanes(w, addresses, m, bytes, false, false, "load");
      for (size_t q = 0; q < n; ++q)
        if (i.regs[q] >= 0) {
          S* d = reg<S>(w, i.regs[q]);
          for_lanes(m, [&](int l) {
            T t;
            memcpy(&t, base + addresses[l] + q * sizeof(T), sizeof t);
            d[l] = S(t);
          });
        }
      return;
    }
  }
  if (kSpace == Space::Global && !(i.flags & kSlow)) {
    const u8* base = plain_global(w, i, m, bytes);
    if (base) {
      for_lanes(m, [&](int l) {
        u64 a = address_of(w, i.mem, l);
        for (size_t q = 0; q < n; ++q) {
          T t;
          memcpy(&t, base + a + q * sizeof(T), sizeof t);
          if (i.regs[q] >= 0) reg<S>(w, i.regs[q])[l] = S(t);
        }
      });
      return;
    }
  }
  for_lanes(m, [&](int l) {
    u64 a = address_of(w, i.mem, l);
    const u8* p;
    if (i.flags & kPartialLoad) {
      p = extent(w, kSpace, a, bytes, l);
      for (size_t q = 0; q < n; ++q)
        if (i.regs[q] >= 0) locate(w, kSpace, a + q * sizeof(T), sizeof(T), false, l, i.flags, "load");
    } else {
      p = locate(w, kSpace, a, bytes, false, l, i.flags, "load");
    }
    for (size_t q = 0; q < n; ++q) {
      T t = T();
      if (p) memcpy(&t, p + q * sizeof(T), sizeof t);
      if (i.regs[q] >= 0) reg<S>(w, i.regs[q])[l] = S(t);
    }
    if (i.flags & (kAcquire | kStrong)) synchronise(w, i, l, true, false);
  });
  if (i.flags & kPoll) polled(w);
}
template <class T, class S, Space kSpace>
void store(Warp& w, const Instr& i, u32 m) {
  const size_t n = i.regs.size();
  const u32 bytes = u32(sizeof(T) * n);
  if (kSpace == Space::Shared) {
    u32 addresses[32];
    for (int l = 0; l < 32; ++l) addresses[l] = u32(address_of(w, i.mem, l));
    count_banks(w, addresses, m, int(bytes), true);
    u8* base = i.mem.wide || i.flags & (kRelease | kStrong) ? nullptr : plain_shared(w, addresses, m, bytes);
    if (base) {
      touch_lanes(w, addresses, m, bytes, true, false, "store");
      for_lanes(m, [&](int l) {
        for (size_t q = 0; q < n; ++q) {
          T t = T(reg<S>(w, i.regs[q])[l]);
          memcpy(base + addresses[l] + q * sizeof(T), &t, sizeof t);
        }
      });
      ++w.machine->progress;
      return;
    }
  }
  for_lanes(m, [&](int l) {
    if (i.flags & (kRelease | kStrong)) synchronise(w, i, l, false, true);
    u8* p = locate(w, kSpace, address_of(w, i.mem, l), bytes, true, l, i.flags, "store");
    if (!p) return;
    for (size_t q = 0; q < n; ++q) {
      T t = T(reg<S>(w, i.regs[q])[l]);
      memcpy(p + q * sizeof(T), &t, sizeof t);
    }
  });
  if (kSpace != Space::Local) ++w.machine->progress;
}

template <class T, class S>
Handler by_space(Space s, bool is_store) {
  switch (s) {
    case Space::Global: return is_store ? store<T, S, Space::Global> : load<T, S, Space::Global>;
    case Space::Shared: return is_store ? store<T, S, Space::Shared> : load<T, S, Space::Shared>;
    case Space::Local: return is_store ? store<T, S, Space::Local> : load<T, S, Space::Local>;
    case Space::Param: return is_store ? Handler(nullptr) : load<T, S, Space::Param>;
    case Space::Const: return is_store ? Handler(nullptr) : load<T, S, Space::Global>;
    default: return is_store ? store<T, S, Space::Generic> : load<T, S, Space::Generic>;
  }
}
template <class S>
Handler by_type(Type t, Space s, bool is_store) {
  switch (t) {
    case Type::U8: case Type::B8: return by_space<u8, S>(s, is_store);
    case Type::S8: return by_space<s8, S>(s, is_store);
    case Type::U16: case Type::B16: case Type::F16: case Type::BF16: return by_space<u16, S>(s, is_store);
    case Type::S16: return by_space<s16, S>(s, is_store);
    case Type::S32: return by_space<s32, S>(s, is_store);
    case Type::U32: case Type::B32: case Type::F32: return by_space<u32, S>(s, is_store);
    case Type::U64: case Type::S64: case Type::B64: case Type::F64: return by_space<u64, S>(s, is_store);
    default: return nullptr;
  }
}

// .relaxed / .acquire / .release / .acq_rel with a scope, .volatile, .weak
int decode_order(Decoder& d, bool atomic) {
  int flags = 0;
  if (d.take("volatile")) return kStrong | kGpuScope;
  if (d.take("weak")) return 0;
  bool named = true;
  if (d.take("relaxed")) flags = kStrong;
  else if (d.take("acquire")) flags = kStrong | kAcquire;
  else if (d.take("release")) flags = kStrong | kRelease;
  else if (d.take("acq_rel")) flags = kStrong | kAcquire | kRelease;
  else named = false;
  if (atomic) flags |= kStrong;
  if (!named && !atomic) return 0;
  int scope = d.choose({"cta", "cluster", "gpu", "sys"}, atomic ? 2 : -1);
  return flags | (scope >= 2 ? kGpuScope : 0);
}
// cache operators and eviction priorities change nothing here; the hint is an extra 64-bit operand
bool decode_cache(Decoder& d, bool is_store) {
  if (is_store) d.choose({"wb", "cg", "cs", "wt"}, 0);
  else d.choose({"ca", "cg", "cs", "lu", "cv"}, 0);
  for (const char* level : {"L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last", "L1::no_allocate",
                            "L2::evict_normal", "L2::evict_first", "L2::evict_last", "L2::64B", "L2::128B", "L2::256B"})
    d.take(level);
  return d.take("L2::cache_hint");
}
int decode_vector(Decoder& d) {
  int k = d.choose({"v2", "v4", "v8"}, 3);
  return k == 3 ? 1 : 2 << k;
}
void decode_load(Decoder& d, Instr& i) {
  i.flags = decode_order(d, false);
  i.space = d.space(Space::Generic);
  bool hint = decode_cache(d, false);
  if (d.take("nc")) i.flags |= kNonCoherent;
  if (i.flags & kStrong) i.flags |= kPoll, i.flow = Flow::Yield;
  int count = decode_vector(d);
  i.type = d.type();
  // registers may be wider than the type
  string& text = d.text();
  Operand first = d.parse(text);
  int width = (first.kind == Operand::Vector ? first.parts[0].width : first.width) == 8 ? 8 : 4;
  if (type_size(i.type) == 8 && width != 8) d.refuse("the destination is too narrow");
  i.regs = d.destinations(width, count);
  if (count > 1 && i.space != Space::Param) i.flags |= kPartialLoad;     // the parser looks which elements are used
  Operand o = d.peek();
  bool named = i.space == Space::Param && o.kind == Operand::Symbol;
  int param = named ? d.param_offset(o.symbol) : -1, local = named ? d.call_param(o.symbol) : -1;
  if (local >= 0) {
    d.skip();
    i.space = Space::Local, i.mem = {-1, false, o.offset + local};
  } else {
    i.mem = d.address();
  }
  if (param >= 0) i.mem = {-1, false, o.offset + param};
  if (hint) d.source(8);
  d.kernel().note_access(i.space, type_size(i.type) * count);
  i.run = width == 8 ? by_type<u64>(i.type, i.space, false) : by_type<u32>(i.type, i.space, false);
  if (i.space == Space::Param && i.mem.slot < 0) i.flow = Flow::Plain;
}
void decode_store(Decoder& d, Instr& i) {
  if (d.take("async")) return decode_async_store(d, i, false);
  i.flags = decode_order(d, false);
  i.space = d.space(Space::Generic);
  bool hint = decode_cache(d, true);
  int count = decode_vector(d);
  i.type = d.type();
  Operand o = d.peek();
  int local = i.space == Space::Param && o.kind == Operand::Symbol ? d.call_param(o.symbol) : -1;
  if (local >= 0) {
    d.skip();
    i.space = Space::Local, i.mem = {-1, false, o.offset + local};
  } else {
    i.mem = d.address();
  }
  Operand first = d.peek();
  Operand element = first.kind == Operand::Vector ? first.parts[0] : first;
  int width = element.kind == Operand::Register ? (element.width == 8 ? 8 : 4) : type_size(i.type) == 8 ? 8 : 4;
  if (type_size(i.type) == 8 && width != 8) d.refuse("the source is too narrow");
  i.regs = d.sources(width, count);
  if (hint) d.source(8);
  d.kernel().note_access(i.space, type_size(i.type) * count);
  i.run = width == 8 ? by_type<u64>(i.type, i.space, true) : by_type<u32>(i.type, i.space, true);
}

// ---- atomics -------------------------------------------------------------------------------------------------------------------------
enum AtomicOp { kAdd, kMin, kMax, kExch, kCas, kAnd, kOr, kXor, kInc, kDec };

void atomic(Warp& w, const Instr& i, u32 m) {
  int size = type_size(i.type);
  bool wide = size == 8;
  bool changed = false;
  size_t n = i.regs.size();
  for_lanes(m, [&](int l) {
    synchronise(w, i, l, true, true);
    u64 a = address_of(w, i.mem, l);
    u8* p = locate(w, i.space, a, u32(size * int(n)), true, l, i.flags | kStrong, "atomic");
    if (!p) return;
    for (size_t q = 0; q < n; ++q) {
      u64 old = 0, value = wide ? reg<u64>(w, i.regs[q])[l] : reg<u32>(w, i.regs[q])[l];
      u64 other = i.c < 0 ? 0 : wide ? reg<u64>(w, i.c)[l] : reg<u32>(w, i.c)[l];
      memcpy(&old, p + q * size_t(size), size_t(size));
      u64 result = combine_atomic(i.op, i.type, old, value, other);
      memcpy(p + q * size_t(size), &result, size_t(size));
      u64 mask = size == 8 ? ~0ull : (1ull << size * 8) - 1;
      changed |= (old ^ result) & mask;
      int d = n == 1 ? i.dst : i.dst >= 0 ? i.dst + int(q) * 128 : -1;
      if (d >= 0) {
        if (wide) reg<u64>(w, d)[l] = old;
        else reg<u32>(w, d)[l] = u32(old);
      }
    }
  });
  if (changed) ++w.machine->progress;
  if (i.dst >= 0) polled(w);
}
void decode_atomic(Decoder& d, Instr& i) {
  bool returns = d.name() == "atom";
  if (!returns && d.take("async")) return decode_async_store(d, i, true);
  i.flags = decode_order(d, true);
  i.space = d.space(Space::Generic);
  i.op = decode_atomic_operation(d);
  bool hint = d.take("L2::cache_hint");
  d.take("noftz");
  int count = decode_vector(d);
  i.type = d.type();
  int size = type_size(i.type), width = size == 8 ? 8 : 4;
  bool floating = is_float(i.type) || i.type == Type::F16x2 || i.type == Type::BF16x2;
  if (size < 2 || (floating && i.op != kAdd && i.op != kMin && i.op != kMax && i.op != kExch) || (size == 2 && !floating && i.op != kCas))
    d.refuse("this operation and type are not supported");
  if (returns) {
    if (count > 1) d.refuse("vector atomics that return values are not supported");
    i.dst = d.destination(width);
  }
  i.mem = d.address();
  i.regs = d.sources(width, count);
  if (i.op == kCas) {         // atom.cas d, [a], compare, value
    i.c = i.regs[0];
    i.regs[0] = d.source(width);
  }
  if (hint) d.source(8);
  d.kernel().note_access(i.space, size * count);
  i.run = atomic;
  if (returns) i.flow = Flow::Yield;
}

// ---- fences and the rest ---------------------------------------------------------------------------------------------------------------
void fence_gpu(Warp& w, const Instr&, u32) { gpu_fence(w); }
void fence_block(Warp& w, const Instr&, u32) { block_fence(w); }
void nothing(Warp&, const Instr&, u32) {}
void fence_proxy_async(Warp& w, const Instr&, u32) {
  w.proxy_fence = w.clock.local;
  ++w.clock.local[w.agent];
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
      i.run = global && !shared ? nothing : fence_proxy_async;
      return;
    }
    if (d.take("async::generic")) {
      d.choose({"acquire", "release"}, -1), d.take("sync_restrict::shared::cluster"), d.take("sync_restrict::shared::cta");
      d.require("cluster");
      i.run = fence_proxy_async;
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
void decode_prefetch(Decoder& d, Instr& i) {       // prefetch, prefetchu, discard, applypriority: no effect on values
  if (d.take("tensormap")) { d.space(Space::Generic); i.mem = d.address(); i.run = nothing; return; }
  d.space(Space::Generic);
  if (!d.take("L1") && !d.take("L2") && !d.take("L2::evict_last") && !d.take("L2::evict_normal")) d.refuse("a cache level is missing");
  i.mem = d.address();
  if (d.left()) d.immediate();
  i.run = nothing;
}
void policy(Warp& w, const Instr& i, u32 m) { write_lanes<u64>(w, i.dst, m, [](int) { return 0x1000000000000000ull; }); }
void decode_createpolicy(Decoder& d, Instr& i) {
  if (d.take("fractional")) {
    d.modifier_starting("L2::evict_"), d.modifier_starting("L2::evict_");
    d.type_in({Type::B64});
    i.dst = d.destination(8);
    if (d.left()) d.source(4);
  } else if (d.take("range")) {
    d.take("global"), d.modifier_starting("L2::evict_"), d.modifier_starting("L2::evict_");
    d.type_in({Type::B64});
    i.dst = d.destination(8);
    i.mem = d.address(), d.source(4), d.source(4);
  } else {
    d.refuse("this form is not supported");
  }
  i.run = policy;
}
void map_address(Warp& w, const Instr& i, u32 m) {
  auto& ctas = w.cta->cluster->ctas;
  for_lanes(m, [&](int l) {
    u32 rank = reg<u32>(w, i.b)[l];
    if (rank >= ctas.size())
      w.machine->stop("bounds", format("mapa names CTA %u of a cluster of %zu", rank, ctas.size()), &w);
    if (i.flags) {
      u64 a = reg<u64>(w, i.a)[l], window = a >= kSharedWindow ? kSharedWindow : 0;
      reg<u64>(w, i.dst)[l] = window + (((a - window) & 0xFFFFFF) | u64(rank + 1) << 24);
    } else {
      reg<u32>(w, i.dst)[l] = (reg<u32>(w, i.a)[l] & 0xFFFFFF) | (rank + 1) << 24;
    }
  });
}
void decode_mapa(Decoder& d, Instr& i) {
  d.space(Space::Generic);
  i.type = d.type_in({Type::U32, Type::U64});
  int width = type_size(i.type);
  i.flags = width == 8;
  i.dst = d.destination(width), i.a = d.source(width), i.b = d.source(4);
  i.run = map_address;
}
void cta_rank(Warp& w, const Instr& i, u32 m) {
  for_lanes(m, [&](int l) {
    u64 a = i.flags ? reg<u64>(w, i.a)[l] : reg<u32>(w, i.a)[l];
    u32 rank = u32(a) >> 24;
    reg<u32>(w, i.dst)[l] = rank ? rank - 1 : w.cta->rank;
  });
}
void decode_getctarank(Decoder& d, Instr& i) {
  d.space(Space::Generic);
  i.type = d.type_in({Type::U32, Type::U64});
  i.flags = type_size(i.type) == 8;
  i.dst = d.destination(4), i.a = d.source(type_size(i.type));
  i.run = cta_rank;
}

template <class T> u64 combine_number(int op, T a, T b) {
  T r = op == kAdd ? T(a + b) : op == kMin ? (b < a ? b : a) : (a < b ? b : a);
  u64 bits = 0;
  memcpy(&bits, &r, sizeof r);
  return bits;
}
}  // namespace

int decode_atomic_operation(Decoder& d) {
  return d.choose({"add", "min", "max", "exch", "cas", "and", "or", "xor", "inc", "dec"}, -1);
}
u64 combine_atomic(int op, Type t, u64 old, u64 operand, u64 compare) {
  switch (op) {
    case kExch: return operand;
    case kCas: {
      u64 mask = type_size(t) == 8 ? ~0ull : (1ull << type_size(t) * 8) - 1;
      return (old & mask) == (compare & mask) ? operand : old;
    }
    case kAnd: return old & operand;
    case kOr: return old | operand;
    case kXor: return old ^ operand;
    case kInc: return u32(old) >= u32(operand) ? 0 : u32(old) + 1;
    case kDec: return u32(old) == 0 || u32(old) > u32(operand) ? u32(operand) : u32(old) - 1;
    default: break;
  }
  auto halves = [&](bool bf16, int parts) {
    u64 r = 0;
    for (int q = 0; q < parts; ++q) {
      auto get = [&](u64 v) { u16 h = u16(v >> 16 * q); return bf16 ? bf16_to_float(h) : half_to_float(h); };
      float a = get(old), b = get(operand), x = op == kAdd ? a + b : op == kMin ? std::fmin(a, b) : std::fmax(a, b);
      r |= u64(bf16 ? float_to_bf16(x) : float_to_half(x)) << 16 * q;
    }
    return r;
  };
  switch (t) {
    case Type::U32: case Type::B32: return combine_number<u32>(op, u32(old), u32(operand));
    case Type::S32: return combine_number<s32>(op, s32(old), s32(operand));
    case Type::U64: case Type::B64: return combine_number<u64>(op, old, operand);
    case Type::S64: return combine_number<s64>(op, s64(old), s64(operand));
    case Type::F32: return combine_number<float>(op, bit_cast<float>(u32(old)), bit_cast<float>(u32(operand)));
    case Type::F64: return combine_number<double>(op, bit_cast<double>(old), bit_cast<double>(operand));
    case Type::F16: return halves(false, 1);
    case Type::BF16: return halves(true, 1);
    case Type::F16x2: return halves(false, 2);
    default: return halves(true, 2);
  }
}

void register_memory() {
  register_opcode("ld", decode_load);
  register_opcode("ldu", decode_load);
  register_opcode("st", decode_store);
  register_opcode("atom", decode_atomic);
  register_opcode("red", decode_atomic);
  register_opcode("fence", decode_fence);
  register_opcode("membar", decode_membar);
  register_opcode("prefetch", decode_prefetch);
  register_opcode("prefetchu", decode_prefetch);
  register_opcode("discard", decode_prefetch);
  register_opcode("applypriority", decode_prefetch);
  register_opcode("createpolicy", decode_createpolicy);
  register_opcode("mapa", decode_mapa);
  register_opcode("getctarank", decode_getctarank);
}

}  // namespace emu
