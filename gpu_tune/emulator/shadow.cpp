// The checks on every access: bounds, initialisation, races, proxies, bank conflicts, over shadow cells of shared and
// global memory.
#include <algorithm>

#include "lanes.hpp"

namespace emu {

// ---- shared memory ----------------------------------------------------------------------------------------------------------
void outside(const Cta& cta, u32 address, u32 bytes, const char* what, Warp& w) {
  w.machine->stop("bounds", format("%s of %u bytes at shared memory byte %d; the block has %u", what, bytes,
                                   s32(address) - s32(kSharedStart), cta.top - kSharedStart), &w);
}
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

enum Problem { AfterWrite, AfterRead, Unwritten, InFlight, OfMbarrier, OtherProxy };
// `reader`: 0 or 1, one of the cell's latest two; else 2 + its agent
__attribute__((noinline)) void report_cell(Cell& s, u32 byte, const Accessor& by, Problem problem, int reader = 0) {
  static const u8 clears[] = {0, 0, Cell::Uninitialised, Cell::Pending, Cell::Mbarrier, Cell::Generic};
  Machine& m = *by.warp->machine;
  const bool checked[] = {m.checks.races, m.checks.races, m.checks.uninitialised, true, true, m.checks.proxies};
  s.flags &= u8(~clears[problem]);
  if (!checked[problem]) return;
  if (problem == AfterWrite) s.write_clock = 0;
  if (problem <= AfterRead && m.seen_often("race", *by.warp)) return;
  const string writer = at_instruction(m, s.write_pc);
  auto report = [&](const char* kind, const string& what) {
    m.report(kind, format("%s of shared memory byte %d", by.what, s32(byte) - s32(kSharedStart)) + what, by.warp);
  };
  switch (problem) {
    case AfterWrite: return report("race", " is not ordered after the write by " + agent_name(m, s.write_agent, s.write_lane) + writer);
    case AfterRead: {
      const string who = reader < 2 ? agent_name(m, s.read_agent[reader], s.read_lane[reader]) : agent_name(m, u32(reader - 2), kAnyLane);
      return report("race", " while " + who + " may still read it");
    }
    case Unwritten: return report("uninitialised", ", which nothing has written");
    case InFlight:
      return report("asynchronous", ", where an asynchronous copy" + writer + " is still in flight (its completion was not waited for)");
    case OfMbarrier: return report("mbarrier", ", which holds a live mbarrier");
    case OtherProxy: return report("proxy", ", written with ordinary stores" + writer + ", without fence.proxy.async between");
  }
}

inline bool unordered(u32 agent, u32 clock, int lane, int by_lane, u32 by_agent, u32 now, const u32* known) {
  if (agent != by_agent) return clock > known[agent];
  return clock == now && lane != by_lane && by_lane < 32 && lane != kAnyLane;
}
inline bool unordered(u32 agent, u32 clock, int lane, const Accessor& by, u32 now) {
  return unordered(agent, clock, lane, by.lane, by.agent, now, by.clock->local.data());
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

__attribute__((always_inline)) inline void note_read(Cluster& c, Cell& s, int lane, u32 agent, u32 now, const u32* known) {
  const u32 clock = s.read_clock[0], reader = s.read_agent[0];
  if (clock && reader != agent) {
    if (s.read_clock[1] && s.read_agent[1] != agent && s.read_clock[1] > known[s.read_agent[1]])     // a third one, and no read after the first
      s.more_readers = c.readers.with(s.more_readers, s.read_agent[1], s.read_clock[1]);
    s.read_clock[1] = clock, s.read_agent[1] = u16(reader), s.read_lane[1] = s.read_lane[0];
  }
  const bool many = clock == now && reader == agent && s.read_lane[0] != lane;
  s.read_agent[0] = u16(agent), s.read_clock[0] = now, s.read_lane[0] = many ? kManyLanes : u8(lane);
}
__attribute__((noinline)) void check_more_readers(Cta& cta, Cell& s, u32 byte, const Accessor& by, u32 now) {
  const Readers& readers = cta.cluster->readers;
  for (u32 at = s.more_readers; at; at = readers[at].next)
    if (unordered(readers[at].agent, readers[at].clock, kAnyLane, by, now)) report_cell(s, byte, by, AfterRead, 2 + readers[at].agent);
}

__attribute__((noinline)) void read_unwritten(Cell& s, u32 byte, const Accessor& by) {
  Warp& w = *by.warp;
  if (!w.defers || by.async) return report_cell(s, byte, by, Unwritten);
  if (!w.machine->checks.uninitialised) return;
  w.fresh.push_back({byte, u32(w.kernel->shared_granularity), u8(by.lane), true,
                     w.fresh.empty() ? format("of shared memory byte %d", s32(byte) - s32(kSharedStart)) : ""});
}

inline bool same(const Cell& a, const Cell& b) {
  static_assert(sizeof(Cell) == 32, "compared as words");
  u64 x[4], y[4];
  memcpy(x, &a, 32), memcpy(y, &b, 32);
  return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]));
}

// Accesses by one accessor, or by the lanes of one warp in turn. Tiles have long runs of cells with one history: what became of
// the last cell becomes of its like. (The object has no address outside of a check: its members live in registers.)
class AccessCheck {
 public:
  AccessCheck(Cta& cta, bool write, const Accessor& by)
      : cta_(cta), write_(write), by_(by), m_(*by.warp->machine), now_(by.clock->local[by.agent]), clock_(by.clock->local.data()),
        shift_(__builtin_ctz(u32(m_.kernel->shared_granularity))), checked_(!cta.shadow.empty()) {}
  void access(u32 address, u32 bytes, int lane, bool several = false);     // the lane, for others too that read the same
  bool unusual() const { return unusual_; }    // then what the others do has to be looked at

 private:
  void check(Cell& s, u32 byte, int lane, u32 agent, u32 now, const u32* known);
  Accessor at(int lane) const {
    Accessor a = by_;
    a.lane = lane;
    return a;
  }
  Cta& cta_;
  const bool write_;
  const Accessor& by_;
  Machine& m_;
  const u32 now_;
  const u32* const clock_;
  const int shift_;
  const bool checked_;
  bool known_ = false, any_lane_ = false;      // what became of `before_` is known; and it is the same for every lane
  bool unusual_ = false;
  int lane_ = 0;                               // whose access made it `*after_`
  Cell before_;
  const Cell* after_ = nullptr;
};

__attribute__((always_inline)) inline void AccessCheck::check(Cell& s, u32 byte, int lane, u32 agent, u32 now, const u32* known) {
  auto unordered = [&](u32 a, u32 clock, int l) { return emu::unordered(a, clock, l, lane, agent, now, known); };
  if (s.flags & (Cell::Uninitialised | Cell::Pending | Cell::Mbarrier)) {
    if (s.flags & Cell::Pending && !by_.lands) report_cell(s, byte, at(lane), InFlight);
    if (s.flags & Cell::Mbarrier) report_cell(s, byte, at(lane), OfMbarrier);
    if (s.flags & Cell::Uninitialised && !write_) read_unwritten(s, byte, at(lane));
  }
  const bool strong = by_.strong, both_atomic = strong && s.flags & Cell::Atomic;
  if (s.write_clock && !both_atomic && unordered(s.write_agent, s.write_clock, s.write_lane) &&
      !(s.flags & Cell::Observed && observed_before(s, at(lane), now)) && !(write_ && repeats(cta_, s, byte, at(lane))))
    report_cell(s, byte, at(lane), AfterWrite);
  if (by_.async && s.flags & Cell::Generic && s.write_clock && s.write_agent < m_.warps_per_cluster && !proxy_fenced(cta_, s, by_))
    report_cell(s, byte, at(lane), OtherProxy);
  if (write_) {
    bool both = strong && s.flags & Cell::AtomicRead;
    for (int q = 0; q < 2; ++q)
      if (s.read_clock[q] && !both && unordered(s.read_agent[q], s.read_clock[q], s.read_lane[q])) report_cell(s, byte, at(lane), AfterRead, q);
    if (s.more_readers && !both) check_more_readers(cta_, s, byte, at(lane), now);
    s.more_readers = 0;
    s.write_agent = u16(agent), s.write_lane = u8(lane), s.write_clock = now;
    s.write_pc = u16(std::min(by_.warp->pc, 0xFFFF));
    s.read_clock[0] = s.read_clock[1] = 0;
    s.flags = u8((strong ? Cell::Atomic : 0) | (by_.async ? 0 : Cell::Generic) | by_.leaves);
  } else {
    note_read(*cta_.cluster, s, lane, agent, now, known);
    s.flags = u8((s.flags & ~Cell::AtomicRead) | (strong ? Cell::AtomicRead : 0));
    if (both_atomic) observe(m_, s, agent, now, lane);
  }
}

__attribute__((always_inline)) inline void AccessCheck::access(u32 address, u32 bytes, int lane, bool several) {
  check_bounds(cta_, address, bytes, by_.what, *by_.warp);
  if (address + bytes > m_.highest_shared) m_.highest_shared = address + bytes;
  if (!checked_) return;
  constexpr u8 special = Cell::Uninitialised | Cell::Pending | Cell::Mbarrier | Cell::AtomicRead;
  const u32 now = now_, agent = by_.agent, first = address >> shift_, count = ((address + bytes - 1) >> shift_) - first + 1;
  const u32* const known = clock_;
  const bool plain_read = !write_ && !by_.async && !by_.strong, write = write_, remembers = !by_.strong && !by_.warp->storing;
  Cell* const cells = cta_.shadow.data() + first;
  auto here = [=](u32 clock, u32 who) { return clock == now && who == agent; };     // by this agent, now
  for (u32 k = 0; k < count; ++k) {
    Cell& s = cells[k];
    if (plain_read && !(s.flags & special) && s.write_clock <= known[s.write_agent] && !here(s.write_clock, s.write_agent)) {
      note_read(*cta_.cluster, s, several ? kManyLanes : lane, agent, now, known);       // the usual read
      continue;
    }
    unusual_ = true;
    if (!remembers) {
      check(s, (first + k) << shift_, lane, agent, now, known);
      continue;
    }
    if (known_ && (any_lane_ || lane_ == lane) && same(s, before_)) {
      s = *after_;
      if (lane_ != lane) (write ? s.write_lane : s.read_lane[0]) = u8(lane);
      continue;
    }
    before_ = s, lane_ = lane;
    const u64 reports = m_.reports;
    check(s, (first + k) << shift_, lane, agent, now, known);
    known_ = reports == m_.reports && !(s.flags & (Cell::Uninitialised | Cell::Observed));
    any_lane_ = !here(before_.write_clock, before_.write_agent) && !here(before_.read_clock[0], before_.read_agent[0]) &&
                !here(before_.read_clock[1], before_.read_agent[1]);
    after_ = &s;                     // not a copy: it would wait for the stores above
  }
}

// One lane of those that read one place, and which of these lanes are not the only one.
std::pair<u32, u32> one_of_each(const u32* addresses, u32 mask, u32 bytes) {
  const u32 low = addresses[__builtin_ctz(mask)];
  const int shift = __builtin_ctz(bytes);
  u64 seen = 0;                                // by distance from the first one
  u8 owner[64];
  u32 chosen = 0, several = 0, last = ~0u;     // farther ones: by their neighbours
  int owner_of_last = 0;
  for_lanes(mask, [&](int l) {
    const u32 a = addresses[l], at = (a - low) >> shift;
    const bool again = at < 64 ? seen >> at & 1 : a == last;
    if (again && at < 64) owner_of_last = owner[at];
    if (!again) owner_of_last = l;
    if (at < 64) seen |= 1ull << at, owner[at] = u8(owner_of_last);
    chosen |= u32(!again) << l, several |= u32(again) << owner_of_last, last = a;
  });
  return {chosen, several};
}
}  // namespace
void check_access(Cta& cta, u32 address, u32 bytes, bool write, const Accessor& by) {
  AccessCheck(cta, write, by).access(address, bytes, by.lane);
}
void check_chunks(Cta& cta, const u32* addresses, size_t count, bool write, const Accessor& by) {
  AccessCheck check(cta, write, by);
  for (size_t k = 0; k < count; ++k) check.access(addresses[k], 16, by.lane);
}
void check_lanes(Cta& cta, const u32* addresses, u32 mask, u32 bytes, bool write, const Accessor& by) {
  AccessCheck check(cta, write, by);
  const auto [first, several] = write ? std::make_pair(mask, 0u) : one_of_each(addresses, mask, bytes);
  for_lanes(first, [&](int l) { check.access(addresses[l], bytes, l, several >> l & 1); });
  if (first != mask && check.unusual()) for_lanes(mask & ~first, [&](int l) { check.access(addresses[l], bytes, l); });
}
void set_flags(Cta& cta, u32 address, u32 bytes, u8 set, u8 clear) {
  if (cta.shadow.empty() || address < kSharedStart || address + bytes > cta.top) return;
  u32 g = u32(cta.cluster->machine->kernel->shared_granularity);
  for (u32 k = address / g; k <= (address + bytes - 1) / g; ++k)
    cta.shadow[k].flags = u8((cta.shadow[k].flags & ~clear) | set);
}

Span span_of(const u32* addresses, u32 mask) {
  Span s{~0u, 0, 0};
  for (int l = 0; l < 32; ++l) {
    const u32 off = mask >> l & 1 ? 0 : ~0u, a = addresses[l];
    s.low = std::min(s.low, a | off), s.high = std::max(s.high, a & ~off), s.bits |= a & ~off;
  }
  return s;
}
// Wavefronts of one access: 4-byte accesses of a warp go together, 8-byte ones by halves, 16-byte ones by quarters; each needs
// as many wavefronts as the fullest bank has distinct words.
void count_banks(Warp& w, const u32* addresses, u32 mask, const Span& span, int bytes, bool store) {
  const int words = std::max(1, bytes / 4), lanes = 32 / words;
  auto near = [&](const Span& s) { return s.high / 4 - s.low / 4 + u32(words) <= 32; };        // no two words share a bank
  u64 wavefronts = 0, fewest = 0;
  for (int p = 0; p < words; ++p) {
    const u32 these = lanes == 32 ? mask : mask & ((1u << lanes) - 1) << (p * lanes), part = these >> (p * lanes);
    if (!part) continue;
    ++fewest;
    const u32* a = addresses + p * lanes;
    if (near(span) || (words > 1 && near(span_of(addresses, these)))) { ++wavefronts; continue; }
    wavefronts += bank_conflicts(a, part, words);
  }
  w.machine->statistics.count(store, wavefronts, fewest);
}

// ---- global memory ------------------------------------------------------------------------------------------------------------
u8* global_pointer(Warp& w, u64 address, u32 bytes, bool write, const char* what) {
  Machine& m = *w.machine;
  const Buffer* b = buffer_at(m, address);
  if (b && address >= b->base && address + bytes <= b->base + b->size) {
    if (write && !b->writable)
      return m.fault("read_only", format("%s to buffer `%s`, which the kernel may only read", what, b->name.c_str()), &w);
    return b->data + (address - b->base);
  }
  if (!m.checks.bounds) return nullptr;
  const string where = b ? format("byte %lld of buffer `%s` (%llu bytes)", (long long)(address - b->base), b->name.c_str(),
                                  (unsigned long long)b->size)
                         : format("address 0x%llx, which lies in no buffer", (unsigned long long)address);
  return m.fault("bounds", format("%s of %u bytes at %s", what, bytes, where.c_str()), &w);
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
// Cells of writable global memory, and where in its buffer each one starts.
template <class F>
void for_cells(Warp& w, u64 address, u32 bytes, F f) {
  Machine& m = *w.machine;
  Buffer* b = buffer_at(m, address);
  if (!m.checks.global_races || !b || !b->writable) return;
  const u64 at = address - b->base, g = u64(m.global_granularity), low = b->base & 15;
  if (at > b->size || bytes > b->size - at) return;            // reported as out of bounds
  if (b->shadow.empty()) b->shadow.resize(size_t((b->size + low) / g + 1));
  for (u64 c = (at + low) / g; c <= (at + low + bytes - 1) / g; ++c) f(b->shadow[size_t(c)], c * g - low);
}
}  // namespace

bool written_by(Warp& w, u64 address, u32 bytes) {
  bool all = w.machine->checks.global_races;
  for_cells(w, address, bytes, [&](GlobalCell& s, u64) { all &= s.write_warp == w.grid_id + 1 && s.write_pc == w.pc && !s.read_warp; });
  return all;
}
void mark_pending(Warp& w, u64 address, u32 bytes) {
  for_cells(w, address, bytes, [](GlobalCell& s, u64) { s.flags |= GlobalCell::Pending; });
}
void mark_readers(Warp& w, u64 address, u32 bytes, int change) {
  for_cells(w, address, bytes, [=](GlobalCell& s, u64) { s.readers = u16(std::max(0, s.readers + change)); });
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
  if (!has_shadow(m, address)) return;
  Buffer& b = *buffer_at(m, address);
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
  u32 me = w.grid_id + 1, now = clock.local[w.agent];
  GlobalCell before, *after = nullptr;
  bool known = false;
  for_cells(w, address, bytes, [&](GlobalCell& s, u64 byte) {
    if (known && !memcmp(&s, &before, sizeof s)) return void(s = *after);      // long runs have one history
    before = s;
    const u64 reports = m.reports;
    if (s.flags & GlobalCell::Pending || async) check_async(w, s, b, byte, write, strong, async);
    if (write && s.readers) {
      s.readers = 0;
      m.report("asynchronous", format("a store to byte %llu of buffer `%s`, which an asynchronous copy in flight still reads "
                                      "(its completion was not waited for)", (unsigned long long)byte, b.name.c_str()), &w);
    }
    const bool bad_write = s.write_warp && !(strong && s.flags & GlobalCell::Atomic) &&
                     unordered_global(w, s.write_warp, s.write_clock, s.write_lane, lane, clock) &&
                     !(s.flags & GlobalCell::Observed && observed_before(w, s, lane, clock)) &&
                     !(write && w.storing && s.write_pc == w.pc && (s.write_warp - 1) / m.warps_per_cta == w.grid_id / m.warps_per_cta &&
                       stores_again(w, lane, b.base + byte, b.data + byte, u32(m.global_granularity), false));
    const bool bad_read = write && s.read_warp && !(strong && s.flags & GlobalCell::AtomicRead) &&
                    unordered_global(w, s.read_warp, s.read_clock, s.read_lane, lane, clock);
    if (bad_write || bad_read) {
      report_unordered(w, s, b, byte, write, bad_write);
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
  });
}

}  // namespace emu
