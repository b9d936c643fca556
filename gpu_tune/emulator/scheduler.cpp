// Control flow and scheduling: blocks become resident, warps run in random quanta, divergent lanes are tracked as splits, and
// whoever waits is woken by what it waits for. When nobody can go on, that is reported as the deadlock it is.
#include <algorithm>

#include "decoder.hpp"
#include "lanes.hpp"
#include "machine.hpp"

namespace emu {
namespace {

constexpr const char* kOtherLanes = "the other lanes of its warp";
constexpr u64 kEndless = 40000000;
constexpr u32 kSpin = 16;        // lanes that polled this often without progress anywhere is waiting

// ---- running ----------------------------------------------------------------------------------------------------------------------
class Scheduler {
 public:
  Scheduler(Machine& machine, const Kernel& k) : m(machine), kernel(k), counts(machine.executed[&k]) {
    counts.resize(k.code.size());
  }
  void run_all();

 private:
  enum Outcome { Ran, Stuck, Finished };
  Machine& m;
  const Kernel& kernel;
  vector<u64>& counts;
  Recorder* const recorder = m.recorder.get();
  u32 next = 0, end = m.cluster_count;         // clusters: the next to start, and the one behind the last
  u64 check_at_ = 0, progress_at_check_ = ~0ull;
  vector<Warp*> ready_;
  u32 starved_ = ~0u;                // 2 * agent + parity of the cluster's number
  static vector<std::unique_ptr<Cluster>>& pool() {
    static thread_local vector<std::unique_ptr<Cluster>> p;
    return p;
  }

  void admit();
  void start_warp(Warp& w);
  Outcome step(Cluster& c);
  Warp* choose(const Cluster& c);
  void run(Warp& w, size_t k, int quantum);
  void run_split(Warp& w, size_t k, int quantum);
  void leave_out(Warp& w);
  void land_one(Cluster& c);
  bool whole_warp(Warp& w, Split& s, u32 mask);
  bool members(Warp& w, size_t k, u32& mask);
  void split(Warp& w, size_t k, u32 stay, int pc);
  void check_endless(Warp& w);
  void reconverge(Warp& w);
  void wake(Cluster& c);
  bool arrive_at_barrier(Warp& w, const Instr& i, Split& s, u32 mask);      // whether the warp stops here for now
  void complete_barrier(Cta& cta, NamedBarrier& b);
  void finish_warp(Warp& w);
  void release_barriers(Warp& w);
  void complete_cluster_barrier(Cluster& c);
  int barrier_need(const Cta& cta) const;
  [[noreturn]] void deadlock();
  bool spinning(const Split& s) const { return s.polls >= kSpin && s.polled_at == m.progress; }
  bool can_run(const Split& s) const { return s.state == Split::Ready && !spinning(s); }
  void note_poll(Split& s) const {
    if (s.polled_at != m.progress) s.polls = 0, s.polled_at = m.progress;
    ++s.polls;
  }
};

void Scheduler::start_warp(Warp& w) {
  for (auto& c : kernel.constants) {
    if (c.width == 1) pred(w, c.slot) = u32(c.value);
    else for (int l = 0; l < 32; ++l) set_bits(w, c.slot, l, c.width == 8, c.value);
  }
  for (auto& s : kernel.specials) load_special(w, s);
}

void fresh_cells(vector<Cell>& cells, size_t count) {
  cells.resize(count);
  cells[0] = Cell();
  for (size_t done = 1, n; done < count; done += n)      // by doubling: several times as fast as cell after cell
    n = std::min(done, count - done), memcpy(static_cast<void*>(&cells[done]), &cells[0], n * sizeof(Cell));
}
void Scheduler::admit() {
  std::unique_ptr<Cluster> owner;
  if (!pool().empty()) owner = std::move(pool().back()), pool().pop_back();
  else owner = std::make_unique<Cluster>();
  Cluster& c = *owner;
  vector<Cta> ctas = std::move(c.ctas);
  vector<char> files = std::move(c.register_files);
  Readers readers = std::move(c.readers);
  readers.clear();
  c = Cluster();
  c.readers = std::move(readers);
  c.machine = &m;
  c.serial = next++;
  c.agent_events.assign(m.agents, 0);
  c.fenced.assign(m.warps_per_cluster, 0);
  const u32* d = m.cluster_dims;
  u32 size = d[0] * d[1] * d[2], per_x = m.grid[0] / d[0], per_y = m.grid[1] / d[1];
  u32 x = c.serial % per_x, y = c.serial / per_x % per_y, z = c.serial / per_x / per_y;
  u32 threads = m.block[0] * m.block[1] * m.block[2];
  size_t stride = (size_t(kernel.register_bytes) + 127) / 128 * 128 + 64;
  if (files.size() < stride * m.warps_per_cluster + 64) files.assign(stride * m.warps_per_cluster + 64, char(0xFF));
  c.register_files = std::move(files);
  char* base = c.register_files.data() + (-reinterpret_cast<uintptr_t>(c.register_files.data()) & 63);
  ctas.resize(size);
  c.ctas = std::move(ctas);
  u32 top = m.dynamic_shared ? m.dynamic_base + m.dynamic_shared : kSharedStart + kernel.static_shared;
  bool shadow = m.checks.races || m.checks.uninitialised || m.checks.proxies;
  int registers = kernel.max_registers ? kernel.max_registers
                  : kernel.max_threads ? std::min(256, 65536 / (kernel.max_threads * std::max(1, kernel.min_blocks)) / 8 * 8) : 256;
  for (u32 r = 0; r < size; ++r) {
    Cta& cta = c.ctas[r];
    vector<u8> shared = std::move(cta.shared);
    vector<Cell> cells = std::move(cta.shadow);
    vector<Warp> warps = std::move(cta.warps);
    cta = Cta();
    shared.assign(top + 16, 0xFF);
    if (shadow) fresh_cells(cells, top / u32(kernel.shared_granularity) + 2);
    else cells.clear();
    cta.shared = std::move(shared), cta.shadow = std::move(cells);
    cta.cluster = &c, cta.rank = r, cta.top = top, cta.unfinished = m.warps_per_cta;
    cta.index[0] = x * d[0] + r % d[0];
    cta.index[1] = y * d[1] + r / d[0] % d[1];
    cta.index[2] = z * d[2] + r / d[0] / d[1];
    warps.clear();
    warps.resize(m.warps_per_cta);
    cta.warps = std::move(warps);
    for (u32 k = 0; k < m.warps_per_cta; ++k) {
      Warp& w = cta.warps[k];
      w.cta = &cta, w.machine = &m, w.kernel = &kernel;
      w.id = int(k), w.agent = r * m.warps_per_cta + k, w.grid_id = c.serial * m.warps_per_cluster + w.agent;
      w.registers = base + stride * w.agent;
      u32 n = threads - k * 32;
      w.live = w.initial = n >= 32 ? ~0u : (1u << n) - 1;
      w.splits.push_back({w.live, 0});
      w.owned.assign(size_t(kernel.register_bytes / 64 + 4), 0);
      w.clock.local.assign(m.agents, 0);
      w.proxy_fence.assign(m.agents, 0);
      w.clock.local[w.agent] = 1;
      w.max_registers = registers;
      w.local.assign(size_t(kernel.local_bytes) * 32, char(0xFF));
      start_warp(w);
    }
  }
  c.unfinished = m.warps_per_cluster;
  m.active.push_back(std::move(owner));
}

// Whether the warp may execute an .aligned instruction now. It is one instruction for all 32 lanes: lanes elsewhere are waited
// for (compiled code lets lanes that have split reconverge before it), but lanes that have exited or are predicated off never come.
bool Scheduler::whole_warp(Warp& w, Split& s, u32 mask) {
  if (w.live != w.initial)
    m.stop("divergence", format("some lanes of the warp have exited (0x%08x is left) at an instruction that the whole warp has "
                                "to execute", w.live), &w);
  if (s.mask != w.live) {
    s.state = Split::Converge, s.waits_for = kOtherLanes;
    return false;
  }
  if (mask != s.mask)
    m.stop("divergence", format("some lanes are predicated off (0x%08x take part) at an instruction that the whole warp has to "
                                "execute", mask), &w);
  return true;
}

// The same for .sync instructions, which name their members. Lanes that name the same ones execute it together, once all of
// them that have not exited are here (for bar.warp.sync: or wait at another one). Lanes at one place may name different members.
// `mask` becomes the lanes that go on; the others wait.
bool Scheduler::members(Warp& w, size_t k, u32& mask) {
  auto naming = [&](const Split& s, u32 of, u32 member) {
    const u32* named = reg<u32>(w, kernel.code[size_t(s.pc)].member);
    u32 group = 0;
    for_lanes(of, [&](int l) { group |= u32(named[l] == member) << l; });
    return group;
  };
  const int pc = w.splits[k].pc;
  const Instr& i = kernel.code[size_t(pc)];
  if (mask != w.splits[k].mask) split(w, k, mask, pc + 1);
  for (u32 left = mask; left;) {
    const u32 member = reg<u32>(w, i.member)[__builtin_ctz(left)], group = naming(w.splits[k], left, member);
    left &= ~group;
    if (group & ~member)
      m.stop("divergence", format("lane %d executes an instruction whose member mask (0x%08x) does not name it",
                                  __builtin_ctz(group & ~member), member), &w);
    u32 missing = member & w.live & ~group;
    if (missing && i.flow == Flow::WarpSync) {
      auto waits = [&](const Split& o) {
        return o.pc != pc && o.state == Split::Converge && kernel.code[size_t(o.pc)].flow == Flow::WarpSync ? naming(o, o.mask, member) : 0;
      };
      for (auto& o : w.splits) missing &= ~waits(o);
      for (size_t q = 0; !missing && q < w.splits.size(); ++q)
        if (u32 there = waits(w.splits[q])) {
          split(w, q, there, w.splits[q].pc);
          ++w.splits[q].pc, w.splits[q].state = Split::Ready;
        }
    }
    if (missing) continue;
    mask = group;
    split(w, k, group, pc);
    return true;
  }
  w.splits[k].state = Split::Converge, w.splits[k].waits_for = kOtherLanes;
  return false;
}

// The lanes of split k that are not in `stay` become a split of their own, at `pc`.
void Scheduler::split(Warp& w, size_t k, u32 stay, int pc) {
  Split other{w.splits[k].mask & ~stay, pc};
  if (!other.mask) return;
  w.splits[k].mask = stay;
  w.splits.push_back(other);
}

void Scheduler::reconverge(Warp& w) {
  for (size_t a = 0; a < w.splits.size(); ++a)
    for (size_t b = a + 1; b < w.splits.size();) {
      Split &p = w.splits[a], &q = w.splits[b];
      if (p.pc != q.pc || p.state == Split::Blocked || q.state == Split::Blocked) { ++b; continue; }
      p.mask |= q.mask, p.state = Split::Ready;
      if (q.polled_at > p.polled_at || (q.polled_at == p.polled_at && q.polls > p.polls)) p.polls = q.polls, p.polled_at = q.polled_at;
      w.splits.erase(w.splits.begin() + long(b));
    }
}

void Scheduler::wake(Cluster& c) {
  c.changed = false;
  for (auto& cta : c.ctas)
    for (auto& w : cta.warps)
      for (auto& s : w.splits) if (s.state == Split::Blocked && s.waits_for) s.state = Split::Ready;
}

// Threads that a barrier without a count is for: all that have not exited.
int Scheduler::barrier_need(const Cta& cta) const {
  int n = 0;
  for (auto& w : cta.warps) n += __builtin_popcount(w.live);
  return n;
}

void Scheduler::complete_barrier(Cta& cta, NamedBarrier& b) {
  for (auto& x : b.waiting) {
    acquire(*x.warp, b.clock);
    for (auto& s : x.warp->splits) if (s.mask & x.mask) s.state = Split::Ready;
    if (x.instr->op == 2) write_lanes<u32>(*x.warp, x.instr->dst, x.mask, [&](int) { return u32(b.count); });
    if (x.instr->op > 2) set_pred(*x.warp, x.instr->dst, x.mask, (x.instr->op == 3 ? b.all : b.any) ? ~0u : 0);
  }
  b = NamedBarrier();
  cta.cluster->changed = true;
  ++m.progress;
}

bool Scheduler::arrive_at_barrier(Warp& w, const Instr& i, Split& s, u32 mask) {
  Cta& cta = *w.cta;
  u32 id = lane_value<u32>(w, i.a, mask);
  bool counted = i.b >= 0;
  int n = counted ? int(lane_value<u32>(w, i.b, mask)) : barrier_need(cta);
  if (id > 15) m.stop("barrier", format("barrier number %u; 0 to 15 exist", id), &w);
  if (counted && (n % 32 || n <= 0)) m.stop("barrier", format("barrier %u with a thread count of %d, which is no multiple of 32", id, n), &w);
  NamedBarrier& b = cta.barriers[id];
  if (!b.arrived) b.needed = counted ? n : -1;
  else if (b.needed != (counted ? n : -1))
    m.stop("barrier", format("barrier %u is used with thread counts %d and %d at once", id, b.needed, counted ? n : -1), &w);
  b.arrived += counted && mask == w.initial ? 32 : __builtin_popcount(mask);     // counts are of whole warps
  if (i.op >= 2) {
    u32 p = (pred(w, i.c) ^ (i.flags ? ~0u : 0)) & mask;
    b.count += __builtin_popcount(p), b.any |= p != 0, b.all &= p == mask;
  }
  release(w, b.clock);
  if (i.op != 1) b.waiting.push_back({&w, s.mask, &i});
  ++s.pc;
  if (b.arrived > n) m.stop("barrier", format("barrier %u gets more arrivals than its %d threads", id, n), &w);
  if (b.arrived == n) {
    complete_barrier(cta, b);
    return m.rng.below(2);
  }
  if (i.op != 1) s.state = Split::Blocked, s.waits_for = nullptr;
  return i.op != 1;
}

void Scheduler::complete_cluster_barrier(Cluster& c) {
  bool any = false;
  for (auto& cta : c.ctas)
    for (auto& w : cta.warps) {
      if (w.live & ~w.cluster_waiting) return;
      any |= w.live != 0;
    }
  if (!any) return;
  for (auto& cta : c.ctas)
    for (auto& w : cta.warps) w.cluster_waiting = 0;
  c.barrier_done = c.barrier_clock;
  c.changed = true;
  ++m.progress;
}

// Lanes have exited: barriers that waited for nobody else are complete.
void Scheduler::release_barriers(Warp& w) {
  Cta& cta = *w.cta;
  for (auto& b : cta.barriers)
    if (b.arrived && b.needed < 0 && b.arrived == barrier_need(cta)) complete_barrier(cta, b);
  complete_cluster_barrier(*cta.cluster);
}
void Scheduler::finish_warp(Warp& w) {
  check_in_flight(w);
  --w.cta->unfinished, --w.cta->cluster->unfinished;
  w.cta->cluster->changed = true;
  ++m.progress;
}

// An endless loop: very many instructions without a store, barrier or arrival anywhere.
void Scheduler::check_endless(Warp& w) {
  if (m.step_limit && m.statistics.instructions >= m.step_limit) m.halt("limit", "the run has executed as many warp instructions as were allowed", &w);
  if (m.progress == progress_at_check_)
    m.halt("limit", format("%llu warp instructions were executed without any effect (an endless loop?)", (unsigned long long)kEndless), &w);
  progress_at_check_ = m.progress;
  check_at_ = m.statistics.instructions + (m.step_limit ? std::min(m.step_limit, kEndless) : kEndless);
}

// The instruction that a finding has ended, where the run goes on.
void Scheduler::leave_out(Warp& w) {
  const Flow flow = kernel.code[size_t(w.pc)].flow;
  if (flow != Flow::Plain && flow != Flow::Yield && flow != Flow::Aligned && flow != Flow::Sync && flow != Flow::MbarrierWait) throw Stop();
  w.storing = 0, w.defers = false, ++m.progress;
  w.fresh.clear();
  for (auto& s : w.splits) if (s.pc == w.pc && s.mask & w.running) ++s.pc;
}
void Scheduler::land_one(Cluster& c) {
  try {
    land(c, m.rng.below(u32(c.in_flight.size())));
  } catch (const Skip&) {
  }
}

// Run split k of warp w for at most `quantum` instructions. The split with the lowest pc usually goes first, so that lanes
// reconverge after a branch.
void Scheduler::run(Warp& w, size_t k, int quantum) {
  try {
    run_split(w, k, quantum);
  } catch (const Skip&) {
    leave_out(w);
  }
}
void Scheduler::run_split(Warp& w, size_t k, int quantum) {
  const Instr* code = kernel.code.data();
  Cluster& c = *w.cta->cluster;
  auto& statistics = m.statistics;
  for (; quantum > 0; --quantum) {
    if (w.splits.size() > 1) {
      u32 mine = w.splits[k].mask & -w.splits[k].mask;
      reconverge(w);
      for (k = 0; !(w.splits[k].mask & mine); ++k) {}
      const bool idle = spinning(w.splits[k]);      // lanes that spin leave the warp to those that need not
      for (auto& o : w.splits) if (can_run(o) && (idle || o.pc < w.splits[k].pc) && m.rng.below(8)) return;
    }
    Split& s = w.splits[k];
    if (recorder && w.splits.size() == 1 && w.live == w.initial && recorder->idle(s.pc)) {
      const int passed = std::min(quantum, recorder->idle(s.pc));
      for (int q = 0; q < passed; ++q) ++counts[size_t(s.pc++)];
      statistics.instructions += u64(passed), quantum -= passed - 1;
      continue;
    }
    const Instr& i = code[s.pc];
    w.pc = s.pc;
    u32 mask = w.running = s.mask;
    if (i.guard >= 0) mask &= i.guard_negated ? ~pred(w, i.guard) : pred(w, i.guard);
    auto count = [&] {
      ++counts[size_t(w.pc)], ++statistics.instructions;
      statistics.lanes += u64(__builtin_popcount(mask));
    };
    auto block = [&](const char* on) { s.state = Split::Blocked, s.waits_for = on; };
    auto skip = [&] {           // predicated off for all lanes here
      if (!mask) count(), ++s.pc;
      return !mask;
    };
    auto execute = [&] {
      if (recorder && !recorder->before(w, i, mask)) return;
      if (w.owned_count) check_owned(w, i);
      if (w.taints) taint_step(w, i, mask);
      i.run(w, i, mask);
    };
    bool leave = false;         // others have their turn
    switch (i.flow) {
      case Flow::Plain:
      case Flow::Yield:
        count();
        if (mask) execute();
        ++s.pc;
        if (w.polled) note_poll(s), w.polled = false;
        leave = i.flow == Flow::Yield && m.rng.below(2);
        break;
      case Flow::Branch: {
        count();
        if (recorder) mask = recorder->branches(w, s.mask, mask);
        if (w.taints) taint_step(w, i, mask);
        if (mask == s.mask) { s.pc = i.target; break; }
        ++s.pc;
        if (mask) split(w, k, s.mask & ~mask, i.target);
        break;
      }
      case Flow::BranchIndex: {
        count();
        if (w.taints) taint_step(w, i, mask);
        std::map<int, u32> targets;
        if (s.mask & ~mask) targets[s.pc + 1] |= s.mask & ~mask;
        for_lanes(mask, [&](int l) {
          u32 index = reg<u32>(w, i.a)[l];
          if (index >= i.regs.size()) m.stop("bounds", format("brx.idx with index %u of %zu targets", index, i.regs.size()), &w);
          targets[i.regs[index]] |= 1u << l;
        });
        auto it = targets.begin();
        s.pc = it->first, s.mask = it->second;
        for (++it; it != targets.end(); ++it) w.splits.push_back({it->second, it->first});        // s is gone
        break;
      }
      case Flow::Return:
        if (skip()) break;
        count();
        w.live &= ~mask;
        s.mask &= ~mask;
        ++s.pc;
        if (!s.mask) w.splits.erase(w.splits.begin() + long(k));
        for (auto& o : w.splits) if (o.state == Split::Converge) o.state = Split::Ready;
        reconverge(w);
        if (w.finished()) finish_warp(w);
        release_barriers(w);
        leave = true;
        break;
      case Flow::Trap:
        count();
        if (mask) m.halt("trap", "the kernel executed trap", &w);
        ++s.pc;
        break;
      case Flow::Aligned:
        if (skip()) break;
        if (i.member < 0 ? !whole_warp(w, s, mask) : !members(w, k, mask)) return;
        count();
        execute();
        ++w.splits[k].pc;
        break;
      case Flow::WarpSync:
        if (skip()) break;
        if (!members(w, k, mask)) return;
        count();
        ++w.clock.local[w.agent];
        ++w.splits[k].pc;
        break;
      case Flow::Sync:
        if (skip()) break;
        if (!whole_warp(w, s, mask)) return;
        if (!i.sync(w, i, mask)) {
          block(i.mode ? "registers for setmaxnreg" : "wgmma groups of its warpgroup");
          return;
        }
        count();
        ++s.pc;
        break;
      case Flow::Barrier:
        if (skip()) break;
        if (i.aligned && !whole_warp(w, s, mask)) return;
        if (mask != s.mask) { split(w, k, mask, s.pc + 1); break; }    // lanes whose predicate is false go on
        count();
        leave = arrive_at_barrier(w, i, s, mask);
        break;
      case Flow::MbarrierWait: {
        if (skip()) break;
        if (recorder) { set_pred(w, i.dst, mask, ~0u), count(), ++s.pc; break; }
        bool done = i.sync(w, i, mask);
        if (!done && i.mode && m.rng.below(8)) { block("an mbarrier"); return; }
        count();
        ++s.pc;
        if (!done) note_poll(s);
        leave = !done;
        break;
      }
      case Flow::ClusterArrive:
        if (skip()) break;
        if (i.aligned && !whole_warp(w, s, mask)) return;
        if (w.cluster_arrived & mask) m.stop("barrier", "barrier.cluster.arrive twice without a wait between", &w);
        count();
        w.cluster_arrived |= mask, w.cluster_waiting |= mask;
        if (i.flags) ++w.clock.local[w.agent];
        else release(w, c.barrier_clock);
        complete_cluster_barrier(c);
        ++s.pc;
        break;
      case Flow::ClusterWait:
        if (skip()) break;
        if (i.aligned && !whole_warp(w, s, mask)) return;
        if (mask != s.mask) { split(w, k, mask, s.pc + 1); break; }
        if (mask & ~w.cluster_arrived) m.stop("barrier", "barrier.cluster.wait without an arrive before it", &w);
        if (w.cluster_waiting & mask) { block("the cluster barrier"); return; }
        count();
        w.cluster_arrived &= ~mask;
        acquire(w, c.barrier_done);
        ++s.pc;
        break;
    }
    if (c.changed) wake(c);
    if (leave) return;
    if (statistics.instructions > check_at_) check_endless(w);
  }
}

// A random one of those who are ready. For a while at a time one warp of every second cluster hardly ever gets its turn:
// what is right only because all proceed about equally fast does not stay hidden.
Warp* Scheduler::choose(const Cluster& c) {
  if (m.rng.below(256) == 0) starved_ = m.rng.below(2) ? m.rng.below(2 * m.warps_per_cluster) : ~0u;
  Warp* w = ready_[m.rng.below(u32(ready_.size()))];
  if (2 * w->agent + (c.serial & 1) == starved_ && m.rng.below(64)) w = ready_[m.rng.below(u32(ready_.size()))];
  return w;
}

Scheduler::Outcome Scheduler::step(Cluster& c) {
  if (c.unfinished == 0) return Finished;
  ready_.clear();
  bool active = false;
  for (auto& cta : c.ctas)
    for (auto& w : cta.warps) {
      bool ready = false, runs = false;
      for (auto& s : w.splits) ready |= s.state == Split::Ready, runs |= can_run(s);
      if (ready) ready_.push_back(&w);
      active |= runs;
    }
  if (!c.in_flight.empty() && (!active || (!m.late && m.rng.below(4) == 0))) {
    land_one(c);
    if (c.changed) wake(c);
    return Ran;
  }
  if (!active) return Stuck;
  Warp& w = *choose(c);
  size_t chosen = 0;
  int lowest = INT32_MAX;
  for (bool spin : {false, true})               // lanes that spin only when the warp has no others
    for (size_t k = 0; k < w.splits.size() && (!spin || lowest == INT32_MAX); ++k)
      if (w.splits[k].state == Split::Ready && spinning(w.splits[k]) == spin && w.splits[k].pc < lowest) lowest = w.splits[k].pc, chosen = k;
  if (w.splits.size() > 1 && m.rng.below(8) == 0) {
    size_t k = m.rng.below(u32(w.splits.size()));
    if (w.splits[k].state == Split::Ready) chosen = k;
  }
  run(w, chosen, 1 + int(m.rng.below(200)));
  return Ran;
}

void Scheduler::deadlock() {
  struct Place { u32 count = 0; Warp* warp; string text; bool waits_for_lanes; };
  std::map<std::pair<int, string>, Place> places;
  for (auto& c : m.active)
    for (auto& cta : c->ctas)
      for (auto& w : cta.warps)
        for (auto& s : w.splits) {
          const char* on = s.waits_for ? s.waits_for : "a barrier";
          if (s.state == Split::Ready) on = "a value that nobody changes";
          Place& p = places[{s.pc, on}];
          p.waits_for_lanes = s.state == Split::Converge;
          if (p.count++ == 0) p.warp = &w, p.text = on + (p.waits_for_lanes ? format(" (0x%08x are here)", s.mask) : "");
        }
  string message = "nobody can go on:";
  Warp* first = nullptr;         // whose place the finding names: one where lanes wait for others, when there is one
  bool diverged = false;
  int shown = 0;
  for (auto& entry : places) {
    Place& p = entry.second;
    const Instr& i = kernel.code[size_t(entry.first.first)];
    if (!first || (p.waits_for_lanes && !diverged)) first = p.warp, first->pc = entry.first.first, diverged = p.waits_for_lanes;
    if (++shown > 4) { message += shown == 5 ? " ..." : ""; continue; }
    string place = m.place(i);
    message += format("%s %u warp%s (first: block (%u,%u,%u) warp %d) wait%s for %s at %s%sPTX line %d", shown > 1 ? ";" : "", p.count,
                      p.count > 1 ? "s" : "", p.warp->cta->index[0], p.warp->cta->index[1], p.warp->cta->index[2], p.warp->id,
                      p.count > 1 ? "" : "s", p.text.c_str(), place.c_str(), place.empty() ? "" : ", ", i.line);
  }
  if (next < end) message += format("; %u of %u blocks are not resident yet", end - next, m.cluster_count);
  m.halt(diverged ? "divergence" : "deadlock", message, first);
}

void Scheduler::run_all() {
  constexpr u32 kActive = 3;          // more become resident only when those cannot go on: faster, and just as legal
  u32 wanted = std::min(m.resident_limit, kActive);
  if (recorder) next = std::min(recorder->cluster, end - 1), end = next + 1, recorder->begin(m, kernel, counts);
  for (;;) {
    while (m.active.size() < wanted && next < end) admit();
    if (m.active.empty()) return;
    size_t k = m.rng.below(u32(m.active.size()));
    Cluster& c = *m.active[k];
    u32 stay = 1 + m.rng.below(64);
    Outcome outcome = Ran;
    while (outcome == Ran && stay--) outcome = step(c);
    if (outcome == Finished) {
      if (!c.in_flight.empty()) {
        Transfer& t = c.in_flight[0];
        t.warp->pc = t.pc;
        m.report("asynchronous", format("the kernel ended with %zu asynchronous copies in flight", c.in_flight.size()), t.warp);
      }
      pool().push_back(std::move(m.active[k]));
      if (pool().size() > 4) pool().pop_back();
      m.active.erase(m.active.begin() + long(k));
      wanted = std::min(m.resident_limit, kActive);
    } else if (outcome == Stuck) {
      bool all = true;
      for (size_t q = 0; all && q < m.active.size(); ++q) {      // is there really nobody who can go on?
        auto& o = m.active[(k + q) % m.active.size()];
        bool can = !o->in_flight.empty();
        for (auto& cta : o->ctas)
          for (auto& w : cta.warps)
            for (auto& s : w.splits) can |= can_run(s);
        all &= !can;
      }
      if (!all) continue;
      if (m.active.size() < m.resident_limit && next < end) wanted = std::min(m.resident_limit, 2 * u32(m.active.size()));
      else if (!recorder || !recorder->release(m)) deadlock();
    }
  }
}

}  // namespace

void run_blocks(Machine& m, const Kernel& k) { Scheduler(m, k).run_all(); }


}  // namespace emu
