// The checks on every access: bounds, initialisation, races, proxies, bank conflicts, over shadow cells of shared and
// global memory.
#include <algorithm>

#include "machine.hpp"

namespace emu {

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

u32 Readers::push(u32 next, u16 agent, u32 clock) {
  nodes_.push_back({clock, agent, next});
  return u32(nodes_.size() - 1);
}
u32 Readers::with(u32 list, u16 agent, u32 clock) {
  Known& k = known_[(list * 0x9E3779B1u ^ clock * 0x85EBCA6Bu ^ agent * 0xC2B2AE35u) >> 20];
  if (k.list == list && k.clock == clock && k.agent == agent) return k.result;
  u32 result = 0;
  for (u32 at = list; at; at = nodes_[at].next)
    if (nodes_[at].agent != agent) result = push(result, nodes_[at].agent, nodes_[at].clock);
  result = push(result, agent, clock);
  k = {list, clock, result, agent};
  return result;
}
void Readers::clear() {
  nodes_.resize(1);
  std::fill(known_.begin(), known_.end(), Known());
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

// `reader`: 0 or 1, one of the cell's latest two; else 2 + its agent
__attribute__((noinline)) void report_cell(Cell& s, u32 byte, const Accessor& by, int problem, int reader = 0) {
  static const char* const kinds[] = {"race", "race", "uninitialised", "asynchronous", "mbarrier", "proxy"};
  Machine& m = *by.warp->machine;
  if (problem < 2 && m.checks.races && m.seen_often(kinds[problem], *by.warp)) {
    if (!problem) s.write_clock = 0;
    return;
  }
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
                              reader < 2 ? agent_name(m, s.read_agent[reader], s.read_lane[reader]).c_str()
                                         : agent_name(m, u32(reader - 2), kAnyLane).c_str()), by.warp);
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

// A store that writes what another lane of it, or another warp at the same instruction, has just written: in which order they
// come makes no difference. (Compilers let every owner of a replicated value store it.)
__attribute__((noinline)) bool repeats(Cta& cta, const Cell& s, u32 byte, const Accessor& by) {
  Warp& w = *by.warp;
  if (!w.storing || by.lane >= 32 || s.write_pc != w.pc) return false;
  if (s.write_agent == by.agent) return stores_the_same(w, s.write_lane, by.lane);
  return stores_again(w, by.lane, byte, cta.shared.data() + byte, u32(w.kernel->shared_granularity), true);
}

// ---- observation: a strong read that sees a strong write is after it, and so is all that is after the read. (The PTX memory
// model's causality order; what the writer did before the write is another matter, and needs release and acquire.)
template <class CellT>
void observe(Machine& m, CellT& s, u32 warp, u32 clock, int lane) {
  auto& list = m.observers[&s];
  if (!(s.flags & CellT::Observed)) list.clear();
  s.flags |= CellT::Observed;
  for (auto& o : list) if (o.warp == warp && o.lane == lane) return;
  list.push_back({warp, clock, u8(lane)});
}
__attribute__((noinline)) bool observed_before(const Cell& s, const Accessor& by, u32 now) {
  for (auto& o : by.warp->machine->observers[&s]) if (!unordered(o.warp, o.clock, o.lane, by, now)) return true;
  return false;
}

// generic-proxy writes are visible to the async proxy once writer or accessor executed a proxy fence after them
bool proxy_fenced(Cta& cta, const Cell& s, const Accessor& by) {
  Machine& m = *by.warp->machine;
  Warp& writer = cta.cluster->ctas[s.write_agent / m.warps_per_cta].warps[s.write_agent % m.warps_per_cta];
  return writer.proxy_fence[s.write_agent] >= s.write_clock || by.warp->proxy_fence[s.write_agent] >= s.write_clock;
}

// A third reader comes: the first is kept, unless this read is ordered after it.
__attribute__((noinline)) void keep_reader(Cta& cta, Cell& s, const Accessor& by) {
  if (s.read_clock[1] > by.clock->local[s.read_agent[1]])
    s.more_readers = cta.cluster->readers.with(s.more_readers, s.read_agent[1], s.read_clock[1]);
}
__attribute__((noinline)) void check_more_readers(Cta& cta, Cell& s, u32 byte, const Accessor& by, u32 now) {
  const Readers& readers = cta.cluster->readers;
  for (u32 at = s.more_readers; at; at = readers[at].next)
    if (unordered(readers[at].agent, readers[at].clock, kAnyLane, by, now)) report_cell(s, byte, by, 1, 2 + readers[at].agent);
}

__attribute__((noinline)) void read_unwritten(Cell& s, u32 byte, const Accessor& by) {
  Warp& w = *by.warp;
  if (!w.defers || by.async) return report_cell(s, byte, by, 2);
  if (!w.machine->checks.uninitialised) return;
  w.fresh.push_back({byte, u32(w.kernel->shared_granularity), u8(by.lane), true,
                     w.fresh.empty() ? format("of shared memory byte %d", s32(byte) - s32(kSharedStart)) : ""});
}

__attribute__((always_inline)) inline void check_cell_access(Cta& cta, Cell& s, u32 byte, bool write, const Accessor& by, u32 now) {
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
    if (s.flags & Cell::Uninitialised && !write) read_unwritten(s, byte, by);
  }
  bool both_atomic = by.strong && s.flags & Cell::Atomic;
  if (s.write_clock && !both_atomic && unordered(s.write_agent, s.write_clock, s.write_lane, by, now) &&
      !(s.flags & Cell::Observed && observed_before(s, by, now)) && !(write && repeats(cta, s, byte, by)))
    report_cell(s, byte, by, 0);
  if (by.async && s.flags & Cell::Generic && s.write_clock && s.write_agent < by.warp->machine->warps_per_cluster &&
      !proxy_fenced(cta, s, by))
    report_cell(s, byte, by, 5);
  if (write) {
    bool both = by.strong && s.flags & Cell::AtomicRead;
    for (int q = 0; q < 2; ++q)
      if (s.read_clock[q] && !both && unordered(s.read_agent[q], s.read_clock[q], s.read_lane[q], by, now)) report_cell(s, byte, by, 1, q);
    if (s.more_readers && !both) check_more_readers(cta, s, byte, by, now);
    s.more_readers = 0;
    s.write_agent = u16(by.agent), s.write_lane = u8(by.lane), s.write_clock = now;
    s.write_pc = u16(std::min(by.warp->pc, 0xFFFF));
    s.read_clock[0] = s.read_clock[1] = 0;
    s.flags = by.strong ? Cell::Atomic : 0;
    if (!by.async) s.flags |= Cell::Generic;
  } else {
    if (s.read_clock[0] && s.read_agent[0] != by.agent) {
      if (s.read_clock[1] && s.read_agent[1] != by.agent) keep_reader(cta, s, by);
      s.read_clock[1] = s.read_clock[0], s.read_agent[1] = s.read_agent[0], s.read_lane[1] = s.read_lane[0];
    }
    bool many = s.read_clock[0] == now && s.read_agent[0] == by.agent && s.read_lane[0] != by.lane;
    s.read_agent[0] = u16(by.agent), s.read_clock[0] = now, s.read_lane[0] = many ? kManyLanes : u8(by.lane);
    s.flags = u8((s.flags & ~Cell::AtomicRead) | (by.strong ? Cell::AtomicRead : 0));
    if (both_atomic) observe(*by.warp->machine, s, by.agent, now, by.lane);
  }
}

inline bool same(const Cell& a, const Cell& b) {
  static_assert(sizeof(Cell) == 32, "compared as words");
  u64 x[4], y[4];
  memcpy(x, &a, 32), memcpy(y, &b, 32);
  return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]));
}
// Accesses by one accessor. Tiles have long runs of cells with one history: what became of the last cell becomes of its like.
class AccessCheck {
 public:
  AccessCheck(Cta& cta, bool write, const Accessor& by)
      : cta_(cta), write_(write), by_(by), m_(*by.warp->machine), now_(by.clock->local[by.agent]),
        shift_(__builtin_ctz(u32(m_.kernel->shared_granularity))), checked_(!cta.shadow.empty()) {}
  void forget() { known_ = false; }          // the accessor is another lane
  void operator()(u32 address, u32 bytes) {
    if (address < kSharedStart || address + bytes > cta_.top)
      m_.stop("bounds", format("%s of %u bytes at shared memory byte %d; the block has %u", by_.what, bytes,
                               s32(address) - s32(kSharedStart), cta_.top - kSharedStart), by_.warp);
    if (address + bytes > m_.highest_shared) m_.highest_shared = address + bytes;
    if (!checked_) return;
    for (u32 k = address >> shift_; k <= (address + bytes - 1) >> shift_; ++k) {
      Cell& s = cta_.shadow[k];
      if (known_ && same(s, before_)) { s = *after_; continue; }
      before_ = s;
      u64 reports = m_.reports;
      check_cell_access(cta_, s, k << shift_, write_, by_, now_);
      known_ = reports == m_.reports && !by_.strong && !(s.flags & Cell::Uninitialised);
      after_ = &s;                   // not a copy: it would wait for the stores above
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
  Cell before_;
  const Cell* after_ = nullptr;
};
}  // namespace

void check_access(Cta& cta, u32 address, u32 bytes, bool write, const Accessor& by) { AccessCheck(cta, write, by)(address, bytes); }
void check_chunk_accesses(Cta& cta, const u32* addresses, u32 count, bool write, const Accessor& by) {
  AccessCheck check(cta, write, by);
  for (u32 k = 0; k < count; ++k) check(addresses[k], 16);
}

void check_rows(Cta& cta, const u32* addresses, u32 count, bool write, Accessor by) {
  AccessCheck check(cta, write, by);
  for (u32 k = 0; k < count; ++k, ++by.lane) check.forget(), check(addresses[k], 16);
}
void set_flags(Cta& cta, u32 address, u32 bytes, u8 set, u8 clear) {
  if (cta.shadow.empty() || address < kSharedStart || address + bytes > cta.top) return;
  u32 g = u32(cta.cluster->machine->kernel->shared_granularity);
  for (u32 k = address / g; k <= (address + bytes - 1) / g; ++k)
    cta.shadow[k].flags = u8((cta.shadow[k].flags & ~clear) | set);
}

template <int kLanes>
bool one_wavefront(const u32* addresses, u32 lanes, u32 words) {       // the words lie so near that no two share a bank
  if (32 / kLanes != int(words)) return false;
  u32 low = ~0u, high = 0;
  for (int k = 0; k < kLanes; ++k) {
    const u32 v = addresses[k] / 4, off = lanes >> k & 1 ? 0 : ~0u;
    low = std::min(low, v | off), high = std::max(high, v & ~off);
  }
  return high - low + words <= 32;
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
    if (words == 1 ? one_wavefront<32>(a, part, 1) : words == 2 ? one_wavefront<16>(a, part, 2) : one_wavefront<8>(a, part, u32(words))) {
      ++wavefronts;
      continue;
    }
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
  if (k < m.buffers.size() && m.buffers[k].data) {
    Buffer& b = m.buffers[k];
    if (address >= b.base && address + bytes <= b.base + b.size) {
      if (write && !b.writable)
        return m.fault("read_only", format("%s to buffer `%s`, which the kernel may only read", what, b.name.c_str()), &w);
      return b.data + (address - b.base);
    }
    if (!m.checks.bounds) return nullptr;
    return m.fault("bounds", format("%s of %u bytes at byte %lld of buffer `%s` (%llu bytes)", what, bytes,
                            (long long)(address - b.base), b.name.c_str(), (unsigned long long)b.size), &w);
  }
  if (!m.checks.bounds) return nullptr;
  return m.fault("bounds", format("%s of %u bytes at address 0x%llx, which lies in no buffer", what, bytes,
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
  return clock == mine.local[agent] && other_lane != lane && lane < 32 && other_lane != kAnyLane && !stores_the_same(w, other_lane, lane);
}
__attribute__((noinline)) bool observed_before(Warp& w, const GlobalCell& s, int lane, const Clock& clock) {
  for (auto& o : w.machine->observers[&s]) if (!unordered_global(w, o.warp, o.clock, o.lane, lane, clock)) return true;
  return false;
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

namespace {
// As in shared memory: the writer fenced after the write, or the accessor after it learnt of it.
bool proxy_fenced(Warp& w, const GlobalCell& s) {
  Machine& m = *w.machine;
  u32 writer = s.write_warp - 1;
  if (m.global_proxy_fences[writer] >= s.write_clock) return true;
  const Clock& known = w.global_proxy_fence;
  if (writer / m.warps_per_cluster == w.cta->cluster->serial)
    return !known.local.empty() && known.local[writer % m.warps_per_cluster] >= s.write_clock;
  return known.foreign && writer < known.foreign->size() && (*known.foreign)[writer] >= s.write_clock;
}
__attribute__((noinline)) void check_async(Warp& w, GlobalCell& s, const Buffer& b, u64 byte, bool write, bool strong, bool async) {
  Machine& m = *w.machine;
  const char* what = write ? "a store to" : "a load of";
  if (s.flags & GlobalCell::Pending && !strong && !(async && write)) {
    s.flags &= u8(~GlobalCell::Pending);
    m.report("asynchronous", format("%s byte %llu of buffer `%s`, which a bulk store in flight writes (its completion was not "
                                    "waited for)", what, (unsigned long long)byte, b.name.c_str()), &w);
  }
  if (async && s.flags & GlobalCell::Generic && s.write_warp && m.checks.proxies && !proxy_fenced(w, s)) {
    s.flags &= u8(~GlobalCell::Generic);
    m.report("proxy", format("%s byte %llu of buffer `%s` by a bulk copy, after an ordinary store%s, without fence.proxy.async "
                             "between", what, (unsigned long long)byte, b.name.c_str(), at_instruction(m, s.write_pc).c_str()), &w);
  }
}
GlobalCell& first_cell(Machine& m, Buffer& b, u64 byte) {
  u64 g = u64(m.global_granularity), low = b.base & 15;
  if (b.shadow.empty()) b.shadow.resize(size_t((b.size + low) / g + 1));
  return b.shadow[size_t((byte + low) / g)];
}
}  // namespace

namespace {
template <class F>
void for_cells(Warp& w, u64 address, u32 bytes, F f) {        // of writable global memory
  Machine& m = *w.machine;
  size_t k = size_t(address >> kWindowBits) - 1;
  if (!m.checks.global_races || k >= m.buffers.size() || !m.buffers[k].writable) return;
  Buffer& b = m.buffers[k];
  u64 at = address - b.base;
  GlobalCell *cell = &first_cell(m, b, at), *last = &first_cell(m, b, at + bytes - 1);
  for (; cell <= last; ++cell) f(*cell);
}
}  // namespace

bool written_by(Warp& w, u64 address, u32 bytes) {
  bool all = w.machine->checks.global_races;
  for_cells(w, address, bytes, [&](GlobalCell& s) { all &= s.write_warp == w.grid_id + 1 && s.write_pc == w.pc && !s.read_warp; });
  return all;
}
void mark_pending(Warp& w, u64 address, u32 bytes) {
  for_cells(w, address, bytes, [](GlobalCell& s) { s.flags |= GlobalCell::Pending; });
}
void mark_readers(Warp& w, u64 address, u32 bytes, int change) {
  for_cells(w, address, bytes, [=](GlobalCell& s) { s.readers = u16(std::max(0, s.readers + change)); });
}
namespace {
__attribute__((noinline)) void report_unordered(Warp& w, const GlobalCell& s, const Buffer& b, u64 byte, bool write, bool bad_write) {
  Machine& m = *w.machine;
  if (m.seen_often("global_race", w)) return;
  string other = grid_warp_name(m, bad_write ? s.write_warp : s.read_warp);
  string where = bad_write ? at_instruction(m, s.write_pc) : "";
  const char* verb = write && bad_write ? "written by two threads" : write ? "written while another thread may still read it"
                                                                             : "read without order after its write";
  m.report("global_race", format("byte %lld of buffer `%s` is %s (the other is %s%s; a barrier or release/acquire is missing)",
                                 (long long)byte, b.name.c_str(), verb, other.c_str(), where.c_str()), &w);
}
}  // namespace
void check_global_access(Warp& w, u64 address, u32 bytes, bool write, int lane, bool strong, const Clock& clock, bool async) {
  Machine& m = *w.machine;
  size_t k = size_t(address >> kWindowBits) - 1;
  if (k >= m.buffers.size() || !m.buffers[k].writable) return;
  Buffer& b = m.buffers[k];
  u64 at = address - b.base;
  if (b.track_initialised) {
    if (write) std::fill_n(b.written.begin() + long(at), bytes, u8(1));
    else if (m.checks.uninitialised && w.defers && !async) {
      for (u64 q = at; q < at + bytes; ++q)
        if (!b.written[size_t(q)])
          w.fresh.push_back({b.base + q, 1, u8(lane), false,
                             w.fresh.empty() ? format("of byte %llu of buffer `%s`", (unsigned long long)q, b.name.c_str()) : ""});
    } else if (m.checks.uninitialised && std::find(b.written.begin() + long(at), b.written.begin() + long(at + bytes), 0) !=
                                           b.written.begin() + long(at + bytes))
      m.report("uninitialised", format("load at byte %llu of buffer `%s`, which nothing has written", (unsigned long long)at,
                                       b.name.c_str()), &w);
  }
  if (!m.checks.global_races) return;
  u64 g = u64(m.global_granularity), low = b.base & 15;
  first_cell(m, b, at);
  u32 me = w.grid_id + 1, now = clock.local[w.agent];
  GlobalCell before, *after = nullptr;
  bool known = false;
  for (u64 c = (at + low) / g; c <= (at + low + bytes - 1) / g; ++c) {
    GlobalCell& s = b.shadow[size_t(c)];
    if (known && !memcmp(&s, &before, sizeof s)) { s = *after; continue; }     // long runs have one history
    before = s;
    const u64 reports = m.reports;
    if (s.flags & GlobalCell::Pending || async) check_async(w, s, b, c * g - low, write, strong, async);
    if (write && s.readers) {
      s.readers = 0;
      m.report("asynchronous", format("a store to byte %llu of buffer `%s`, which an asynchronous copy in flight still reads "
                                      "(its completion was not waited for)", (unsigned long long)(c * g - low), b.name.c_str()), &w);
    }
    const bool bad_write = s.write_warp && !(strong && s.flags & GlobalCell::Atomic) &&
                     unordered_global(w, s.write_warp, s.write_clock, s.write_lane, lane, clock) &&
                     !(s.flags & GlobalCell::Observed && observed_before(w, s, lane, clock)) &&
                     !(write && w.storing && s.write_pc == w.pc && (s.write_warp - 1) / m.warps_per_cta == w.grid_id / m.warps_per_cta &&
                       stores_again(w, lane, b.base + (c * g - low), b.data + (c * g - low), u32(g), false));
    const bool bad_read = write && s.read_warp && !(strong && s.flags & GlobalCell::AtomicRead) &&
                    unordered_global(w, s.read_warp, s.read_clock, s.read_lane, lane, clock);
    if (bad_write || bad_read) {
      report_unordered(w, s, b, c * g - low, write, bad_write);
      s = GlobalCell();
    }
    if (write) {
      s.write_warp = me, s.write_clock = now, s.write_lane = u8(lane), s.write_pc = u16(std::min(w.pc, 0xFFFF));
      s.read_warp = 0;
      s.flags = u8((strong ? GlobalCell::Atomic : 0) | (async ? 0 : GlobalCell::Generic));
    } else {
      bool many = s.read_warp == me && s.read_clock == now && s.read_lane != lane;
      s.read_warp = me, s.read_clock = now, s.read_lane = many ? kManyLanes : u8(lane);
      s.flags = u8((s.flags & ~GlobalCell::AtomicRead) | (strong ? GlobalCell::AtomicRead : 0));
      if (strong && s.flags & GlobalCell::Atomic && s.write_warp) observe(m, s, me, now, lane);
    }
    known = reports == m.reports && !strong && !w.storing && !(before.flags & GlobalCell::Observed), after = &s;
  }
}

void check_lane_accesses(Warp& w, const u32* addresses, u32 m, u32 bytes, bool write, bool strong, const char* what) {
  if (w.cta->shadow.empty()) return;
  u32 g = u32(w.kernel->shared_granularity), now = w.clock.local[w.agent];
  int shift = __builtin_ctz(g);
  Cell* cells = w.cta->shadow.data();
  Accessor by{&w, 0, w.agent, &w.clock, false, what, strong};
  u32 before[2] = {~0u, ~0u};         // two lanes that read one place tell as much as all of them
  for_lanes(m, [&](int l) {
    u32 a = addresses[l];
    if (!write && a == before[0] && a == before[1] && w.fresh.empty()) return;
    before[1] = before[0], before[0] = a;
    by.lane = l;
    for (u32 k = a >> shift; k <= (a + bytes - 1) >> shift; ++k) check_cell_access(*w.cta, cells[k], k << shift, write, by, now);
  });
}

}  // namespace emu
