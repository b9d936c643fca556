// Recording of lane addresses, reduced at once to what they cost. Values do not matter here, only addresses: one block (or
// cluster) runs, its loops are left after a few rounds, tensor cores compute nothing, and nobody waits for other blocks.
//
// Shared memory has 32 banks of 4 bytes; a wavefront gives each bank one word, and lanes that read the same word share it.
// Accesses of 8 and 16 bytes take 2 and 4 wavefronts at least, for 16 and 8 lanes each; loads half as many where all active
// lanes n and n^1, or all n and n^2, read the same address (Greg Smith, NVIDIA, on the developer forum, topic 77228; said
// of compute capability 7.0 to 7.5). ldmatrix and stmatrix take one wavefront or more for each 8x8 matrix.
#include "lanes.hpp"

#include <algorithm>
#include <unordered_set>

namespace emu {

u32 bank_conflicts(const u32* addresses, u32 mask, int words) {
  u32 used = 0, in_bank[32], most = 1;
  bool conflict = false;
  for_lanes(mask, [&](int l) {
    for (int q = 0; q < words; ++q) {
      u32 word = addresses[l] / 4 + u32(q), bank = word & 31;
      if (!(used >> bank & 1)) used |= 1u << bank, in_bank[bank] = word;
      else conflict |= in_bank[bank] != word;
    }
  });
  if (!conflict) return most;
  u32 found[128], n = 0, per_bank[32] = {0};
  for_lanes(mask, [&](int l) {
    for (int q = 0; q < words; ++q) found[n++] = addresses[l] / 4 + u32(q);
  });
  std::sort(found, found + n);
  for (u32 k = 0; k < n; ++k)
    if (!k || found[k] != found[k - 1]) most = std::max(most, ++per_bank[found[k] & 31]);
  return most;
}
namespace {
// Whether all active lanes read what their partner reads, lane ^ `distance`, where that is active.
bool paired(const u32* addresses, u32 mask, int distance) {
  bool all = true;
  for_lanes(mask, [&](int l) { all &= !(mask >> (l ^ distance) & 1) || addresses[l] == addresses[l ^ distance]; });
  return all;
}
}  // namespace

u32 shared_wavefronts(const u32* addresses, u32 mask, int bytes, bool load) {
  if (!mask) return 0;
  int words = std::max(1, bytes / 4), lanes = 32 / words;
  if (words > 1 && load && (paired(addresses, mask, 1) || paired(addresses, mask, 2))) lanes *= 2;
  u32 total = 0;
  for (int first = 0; first < 32; first += lanes) {
    u32 part = mask & ((lanes == 32 ? ~0u : (1u << lanes) - 1) << first);
    if (part) total += bank_conflicts(addresses, part, words);
  }
  return total;
}

u32 matrix_wavefronts(const u32* rows) {
  u32 chunks = 0;
  for (int q = 0; q < 8; ++q) chunks |= 1u << (rows[q] / 16 % 8);
  return chunks == 0xFF ? 1 : bank_conflicts(rows, 0xFF, 4);      // usually each row has its banks for itself
}

void SectorCache::take_out(int at) {
  const Line& l = lines_[size_t(at)];
  (l.newer < 0 ? newest_ : lines_[size_t(l.newer)].older) = l.older;
  (l.older < 0 ? oldest_ : lines_[size_t(l.older)].newer) = l.newer;
}
void SectorCache::put_first(int at) {
  Line& l = lines_[size_t(at)];
  l.newer = -1, l.older = newest_;
  (newest_ < 0 ? oldest_ : lines_[size_t(newest_)].newer) = at;
  newest_ = at;
}
u32 SectorCache::touch(u64 line, u32 sectors) {
  for (int at = first_[line % kBuckets]; at >= 0; at = lines_[size_t(at)].next) {
    Line& known = lines_[size_t(at)];
    if (known.address != line) continue;
    if (at != newest_) take_out(at), put_first(at);
    const u32 there = known.sectors & sectors;
    known.sectors |= sectors;
    return there;
  }
  if (!most_) return 0;
  int at = int(lines_.size());
  if (lines_.size() < most_) {
    lines_.emplace_back();
  } else {
    at = oldest_;
    take_out(at);
    int* from = &first_[lines_[size_t(at)].address % kBuckets];
    while (*from != at) from = &lines_[size_t(*from)].next;
    *from = lines_[size_t(at)].next;
  }
  lines_[size_t(at)] = {line, sectors, first_[line % kBuckets], -1, -1};
  first_[line % kBuckets] = at;
  put_first(at);
  return 0;
}

Recorder::Named Recorder::named(const string& opcode) {
  auto starts = [&](std::initializer_list<const char*> with) {
    for (const char* w : with) if (opcode.rfind(w, 0) == 0) return true;
    return false;
  };
  auto holds = [&](const char* part) { return opcode.find(part) != string::npos; };
  Named n;
  static const std::unordered_set<string> pure = {
      "abs", "add", "and", "bfe", "bfi", "bfind", "brev", "clz", "cnot", "copysign", "cos", "cvt", "div", "dp2a", "dp4a", "ex2", "fma",
      "lg2", "lop3", "mad", "mad24", "max", "min", "mov", "mul", "mul24", "neg", "not", "or", "popc", "prmt", "rcp", "rem", "rsqrt",
      "sad", "selp", "set", "setp", "shf", "shfl", "shl", "shr", "sin", "slct", "sqrt", "sub", "tanh", "testp", "xor"};
  n.pure = pure.count(opcode.substr(0, opcode.find('.'))) && !holds(".cc");
  if (starts({"mma.", "wgmma.mma_async", "cp.async.bulk", "cp.reduce", "st.async", "red.async"})) n.kind = Skipped, n.work = true;
  else if (starts({"mbarrier.", "cp.async.mbarrier"})) n.kind = Skipped;
  else if (starts({"ldmatrix"})) n.kind = LoadMatrix;
  else if (starts({"stmatrix"})) n.kind = StoreMatrix;
  else if (starts({"cp.async.ca", "cp.async.cg"})) n.kind = Copy, n.cached = holds(".ca");
  else if (starts({"ld.", "ldu."})) n.kind = Load, n.cached = !holds(".cg") && !holds(".cv") && !holds("L1::no_allocate");
  else if (starts({"st."})) n.kind = Store;
  else if (starts({"atom.", "red."})) n.kind = Atomic;
  return n;
}

Recorder::Known Recorder::classify(const Named& by_name, const Instr& i) const {
  Known k;
  k.work = by_name.work;
  const bool plain = by_name.kind == Load || by_name.kind == Store || by_name.kind == Atomic;
  if (plain && (i.space == Space::Local || i.space == Space::Param || i.space == Space::Const)) return k;
  k.kind = by_name.kind;
  switch (by_name.kind) {
    case LoadMatrix: case StoreMatrix: k.width = 4 * int(i.regs.size()); break;
    case Copy: k.width = int(i.imm), k.cached = by_name.cached; break;
    case Load:
      k.width = type_size(i.type) * int(i.regs.size());
      k.poll = i.flow == Flow::Yield;
      k.cached = !k.poll && by_name.cached;
      break;
    case Store: k.width = type_size(i.type) * int(i.regs.size()); break;
    case Atomic: k.width = type_size(i.type) * i.mode; break;
    default: break;
  }
  k.work |= k.kind > Skipped && k.kind != Atomic && !k.poll;
  return k;
}

// Most of what a kernel computes is data, which nobody looks at here: only what an address, a predicate, a branch or a count of
// arrivals is made of has to be computed. Liveness without regard to order; stores live where a live load may see them.
void Recorder::find_dead(const Kernel& k, const vector<Named>& names) {
  enum { ReadsGlobal = 1, ReadsShared = 2 };
  const auto may_touch = [](const Instr& i) {
    return i.space == Space::Global ? ReadsGlobal : i.space == Space::Shared ? ReadsShared : ReadsGlobal | ReadsShared;
  };
  vector<u8> needed(size_t(k.register_bytes) / 64 + 1, 0);
  auto need = [&](int slot) { if (slot >= 0) needed[size_t(slot) / 64] = 1; };
  auto need_sources = [&](const Instr& i) {
    for (int slot : {i.a, i.b, i.c, i.e}) need(slot);
    for (int slot : i.reads) need(slot);
  };
  auto is_needed = [&](const Instr& i) {
    bool any = (i.dst >= 0 && needed[size_t(i.dst) / 64]) || (i.dst2 >= 0 && needed[size_t(i.dst2) / 64]);
    for (int slot : i.written) any |= slot >= 0 && needed[size_t(slot) / 64];
    return any;
  };
  int read = 0;
  for (size_t pc = 0; pc < k.code.size(); ++pc) {
    const Instr& i = k.code[pc];
    Known& known = known_[pc];
    need(i.guard), need(i.member);
    if (known.kind == Skipped) continue;
    for (const Address* at : {&i.mem, &i.mem2, &i.mem3}) need(at->slot);
    switch (known.kind) {
      case Copy: need(i.a), need(i.c); [[fallthrough]];
      case LoadMatrix: case Store: case StoreMatrix: known.dead = true; break;
      case Load: known.dead = !known.poll; break;
      case Atomic: known.dead = i.regs.size() == size_t(i.mode); break;      // red
      default: known.dead = names[size_t(i.opcode)].pure && i.run && (i.flow == Flow::Plain || i.flow == Flow::Aligned);
    }
    if (known.dead) continue;
    need_sources(i), need(i.dst), need(i.dst2);
    for (int slot : i.regs) if (i.flow != Flow::BranchIndex) need(slot);
    if (known.kind == Load || known.kind == Atomic) read |= may_touch(i);
  }
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t pc = k.code.size(); pc-- > 0;) {
      const Instr& i = k.code[pc];
      Known& known = known_[pc];
      if (!known.dead) continue;
      const bool stores = known.kind == Store || known.kind == StoreMatrix || known.kind == Copy || known.kind == Atomic;
      const int place = known.kind == Copy || known.kind == StoreMatrix || known.kind == LoadMatrix ? ReadsShared : may_touch(i);
      if (stores ? !(read & place) : !is_needed(i)) continue;
      known.dead = false, changed = true;
      need_sources(i);
      if (known.kind == Load || known.kind == LoadMatrix || known.kind == Atomic) read |= place;
      if (known.kind == Copy) read |= ReadsGlobal;
    }
  }
}

// From where each instruction is reached.
Predecessors::Predecessors(const Kernel& k) : begin_(k.code.size() + 1, 0) {
  const int n = int(k.code.size());
  const auto ways = [&](auto found) {
    for (int pc = 0; pc < n; ++pc) {
      const Instr& i = k.code[size_t(pc)];
      if (i.flow == Flow::Branch) found(i.target, pc);
      if (i.flow == Flow::BranchIndex) for (int target : i.regs) found(target, pc);
      const bool ends = i.guard < 0 && (i.flow == Flow::Branch || i.flow == Flow::Return || i.flow == Flow::Trap);
      if (!ends && pc + 1 < n) found(pc + 1, pc);
    }
  };
  ways([&](int to, int) { ++begin_[size_t(to) + 1]; });
  for (size_t pc = 0; pc < k.code.size(); ++pc) begin_[pc + 1] += begin_[pc];
  from_.resize(size_t(begin_.back()));
  vector<int> next(begin_.begin(), begin_.end() - 1);
  ways([&](int to, int pc) { from_[size_t(next[size_t(to)]++)] = pc; });
}

// What nobody executed although it is wanted (the sum over splits is the last block's, say) is looked at by going, where a branch
// that was reached has a side that nobody took, to that side if it leads there.
void Recorder::find_unvisited(const Kernel& k, const vector<u64>& counts, const Predecessors& before) {
  visited_.assign(k.code.size(), 0), leads_.assign(k.code.size(), 0);
  vector<int> open;
  for (size_t pc = 0; pc < k.code.size(); ++pc) {
    visited_[pc] = counts[pc] > 0;
    if (!visited_[pc] && !known_[pc].rows.empty()) open.push_back(int(pc));
  }
  while (!open.empty()) {
    const size_t at = size_t(open.back());
    open.pop_back();
    if (visited_[at] || leads_[at]) continue;
    leads_[at] = 1;
    before.add(at, open);
  }
}

// Natural loops: a branch backwards is the latch of the loop of its target, which is all that reaches the latch without passing
// the target. A loop that works, or polls what only other blocks change, is left at its next exit after some rounds.
void Recorder::find_loops(const Kernel& k, const Predecessors& before) {
  const int n = int(k.code.size());
  std::map<int, int> loop_of;                     // by target
  vector<vector<u8>> bodies;
  counted_.clear();
  for (int pc = 0; pc < n; ++pc) {
    const Instr& i = k.code[size_t(pc)];
    if (i.flow != Flow::Branch || i.target > pc) continue;
    auto known = loop_of.emplace(i.target, int(bodies.size()));
    if (known.second) bodies.emplace_back(k.code.size(), u8(0)), counted_.push_back(0);
    const int loop = known.first->second;
    auto& body = bodies[size_t(loop)];
    known_[size_t(pc)].latch = loop;
    body[size_t(i.target)] = 1;
    for (vector<int> open{pc}; !open.empty();) {
      const int at = open.back();
      open.pop_back();
      if (body[size_t(at)]) continue;
      body[size_t(at)] = 1;
      counted_[size_t(loop)] |= u8(known_[size_t(at)].work || known_[size_t(at)].poll);
      before.add(size_t(at), open);
    }
    counted_[size_t(loop)] |= u8(known_[size_t(i.target)].work || known_[size_t(i.target)].poll);
  }
  for (int pc = 0; pc < n; ++pc) {
    const Instr& i = k.code[size_t(pc)];
    if (i.flow != Flow::Branch || i.guard < 0) continue;
    for (size_t loop = 0; loop < bodies.size(); ++loop) {
      auto& body = bodies[loop];
      if (!body[size_t(pc)]) continue;
      if (!body[size_t(pc + 1)]) known_[size_t(pc)].left[0].push_back(int(loop));
      if (!body[size_t(i.target)]) known_[size_t(pc)].left[1].push_back(int(loop));
    }
  }
}

// Long stretches of a kernel only compute data: whole warps pass them at once.
void Recorder::find_idle(const Kernel& k) {
  does_.assign(k.code.size(), 0), idle_.assign(k.code.size(), 0);
  for (size_t pc = k.code.size(); pc-- > 0;) {
    const Instr& i = k.code[pc];
    const Known& known = known_[pc];
    const bool runs = known.kind != Skipped && !known.dead, notes = known.kind > Skipped && !known.rows.empty();
    does_[pc] = u8((runs ? Runs : 0) | (notes ? Notes : 0));
    const bool alike = i.flow == Flow::Plain || (i.flow == Flow::Aligned && i.member < 0 && i.guard < 0);
    if (!does_[pc] && alike) idle_[pc] = 1 + (pc + 1 < k.code.size() ? idle_[pc + 1] : 0);
  }
}

void Recorder::begin(Machine& m, const Kernel& k, const vector<u64>& counts) {
  kernel_ = &k;
  known_.assign(k.code.size(), Known());
  auto& rows = rows_[&k];
  std::map<std::pair<int, int>, int> row_of;      // several instructions of one line (an inlined function) share a row
  for (auto& f : rows) row_of[{f.line, f.width}] = int(&f - rows.data());
  static thread_local std::unordered_map<string, Named> by_opcode;
  vector<Named> names;
  if (by_opcode.size() > 4096) by_opcode.clear();
  for (const string& opcode : m.module.opcodes) {
    auto at = by_opcode.find(opcode);
    names.push_back((at == by_opcode.end() ? by_opcode.emplace(opcode, named(opcode)).first : at)->second);
  }
  for (size_t pc = 0; pc < k.code.size(); ++pc) {
    const Instr& i = k.code[pc];
    Known& known = known_[pc] = classify(names[size_t(i.opcode)], i);
    if (known.kind <= Skipped) continue;
    auto want = [&](int width) {
      auto it = row_of.emplace(std::make_pair(i.line, width), int(rows.size()));
      if (it.second) rows.push_back(Figures()), rows.back().line = i.line, rows.back().width = width, rows.back().kind = known.kind;
      if (!explore || !rows[size_t(it.first->second)].count) known.rows.push_back(it.first->second);
    };
    if (wanted.empty()) want(known.width);
    auto from = std::lower_bound(wanted.begin(), wanted.end(), i.line, [](const Wanted& a, int line) { return a.line < line; });
    for (; from != wanted.end() && from->line == i.line; ++from) want(from->width);
  }
  if (std::none_of(m.module.opcodes.begin(), m.module.opcodes.end(), [](const string& s) { return s.find("b128") != string::npos; }))
    find_dead(k, names);                          // registers of 128 bits are two, which instructions do not say
  const Predecessors before(k);
  find_loops(k, before);
  if (explore) find_unvisited(k, counts, before);
  find_idle(k);
  patterns_.assign(rows.size(), {});
  rounds_.assign(counted_.size() * m.warps_per_cluster, 0);
  seen_.assign(k.code.size() * m.warps_per_cluster, 0);
  caches_.assign(m.warps_per_cluster / m.warps_per_cta, SectorCache(l1_bytes));
}

u32 Recorder::branches(Warp& w, u32 all, u32 mask) {
  const Known& known = known_[size_t(w.pc)];
  if (explore && visited_[size_t(w.pc)] && (!mask || mask == all)) {
    const int other = mask ? w.pc + 1 : w.kernel->code[size_t(w.pc)].target;
    if (leads_[size_t(other)]) return mask ? 0 : all;
  }
  u32* rounds_of = rounds_.data() + w.agent * counted_.size();
  if (known.latch >= 0 && mask) ++rounds_of[known.latch];
  for (int taken = 0; taken < 2; ++taken) {
    auto& left = known.left[taken];
    bool due = !left.empty();
    for (int loop : left) due &= counted_[size_t(loop)] && rounds_of[loop] >= rounds;
    if (due) mask = taken ? all : 0;
    if (taken ? mask == all : !mask) for (int loop : left) rounds_of[loop] = 0;
  }
  return mask;
}

bool Recorder::release(Machine& m) {
  bool any = false;
  auto wake = [&](Warp& w, u32 mask) {
    for (auto& s : w.splits)
      if (s.state == Split::Blocked && s.mask & mask) s.state = Split::Ready, any = true;
  };
  for (auto& c : m.active)
    for (auto& cta : c->ctas) {
      for (auto& barrier : cta.barriers) {
        for (auto& x : barrier.waiting) wake(*x.warp, x.mask);
        if (!barrier.waiting.empty()) barrier = NamedBarrier();
      }
      for (auto& w : cta.warps)
        if (w.cluster_waiting) wake(w, w.cluster_waiting), w.cluster_waiting = 0;
    }
  if (any) ++m.progress;
  return any;
}

bool Recorder::before(Warp& w, const Instr& i, u32 mask) {
  if (w.machine->statistics.instructions > limit)
    w.machine->halt("limit", "enough warp instructions were executed to know what the lanes' addresses cost", &w);
  const u8 does = does_[size_t(w.pc)];
  if (does & Notes && mask) note_lanes(w, i, mask, known_[size_t(w.pc)]);
  return does & Runs;
}

namespace {
void addresses_of(Warp& w, const Address& a, u64* out) {
  const u64 offset = u64(a.offset);
  if (a.slot < 0) for (int l = 0; l < 32; ++l) out[l] = offset;
  else if (a.wide) for (int l = 0; l < 32; ++l) out[l] = reg<u64>(w, a.slot)[l] + offset;
  else for (int l = 0; l < 32; ++l) out[l] = reg<u32>(w, a.slot)[l] + offset;
}
}  // namespace

const Pattern& Recorder::pattern(Pattern& last, const u64* addresses, u32 mask, int width, Kind kind, u64& base) const {
  const u64 start = ~u64(width - 1);              // merged accesses are aligned to what they move
  u64 offsets[32];
  base = ~u64(0);
  for (int l = 0; l < 32; ++l) base = std::min(base, mask >> l & 1 ? addresses[l] & start : ~u64(0));
  base &= ~u64(127);
  for (int l = 0; l < 32; ++l) offsets[l] = mask >> l & 1 ? (addresses[l] & start) - base : 0;
  if (last.mask == mask && !memcmp(last.offsets, offsets, sizeof offsets)) return last;
  last.mask = mask, std::copy(offsets, offsets + 32, last.offsets);
  if (kind != None) {                             // shared memory
    u32 places[32];
    std::copy(offsets, offsets + 32, places);
    last.wavefronts = 0;
    if (kind == LoadMatrix || kind == StoreMatrix) for (int q = 0; q < width / 4; ++q) last.wavefronts += matrix_wavefronts(places + 8 * q);
    else last.wavefronts = shared_wavefronts(places, mask, width, kind == Load);
    return last;
  }
  u64 sectors[64];
  u32 n = 0;
  for_lanes(mask, [&](int l) {
    if (!n || sectors[n - 1] != offsets[l] / 32) sectors[n++] = offsets[l] / 32;
    if (width > 32) sectors[n++] = offsets[l] / 32 + 1;
  });
  if (!std::is_sorted(sectors, sectors + n)) std::sort(sectors, sectors + n);
  last.sectors = u32(std::unique(sectors, sectors + n) - sectors);
  last.lines.clear();
  for (u32 k = 0; k < last.sectors; ++k) {
    if (!k || sectors[k] / 4 != sectors[k - 1] / 4) last.lines.push_back({sectors[k] / 4, 0});
    last.lines.back().second |= 1u << (sectors[k] & 3);
  }
  return last;
}

void Recorder::note_lanes(Warp& w, const Instr& i, u32 mask, const Known& known) {
  auto& rows = rows_[kernel_];
  u8& seen = seen_[w.agent * known_.size() + size_t(w.pc)];
  const bool again = seen, matrix = known.kind == LoadMatrix || known.kind == StoreMatrix;
  seen = 1;
  u64 places[32], sources[32], base;
  addresses_of(w, i.mem, places);
  if (matrix) mask = ~0u;
  const u64 window = places[__builtin_ctz(mask)] >> kWindowBits << kWindowBits;
  if (!matrix && (window == kLocalWindow || window == kParamWindow)) return;
  const bool shared = matrix || i.space == Space::Shared || window == kSharedWindow || known.kind == Copy;
  u32 reading = mask;                             // lanes of a copy that read global memory
  if (known.kind == Copy) {
    addresses_of(w, i.mem2, sources);
    for_lanes(mask, [&](int l) {
      bool ignored = i.c >= 0 && (pred(w, i.c) ^ (i.flags ? ~0u : 0)) >> l & 1;
      if (ignored || (i.a >= 0 && !reg<u32>(w, i.a)[l])) reading &= ~(1u << l);
    });
  }
  for (int row : known.rows) {
    Figures& f = rows[size_t(row)];
    auto& patterns = patterns_[size_t(row)];
    ++f.count, f.lanes += u64(__builtin_popcount(mask));
    if (shared) f.shared = true, f.wavefronts += pattern(patterns[matrix], places, mask, matrix ? known.width : f.width, known.kind, base).wavefronts;
    if (!shared || known.kind == Copy) {
      const Pattern& p = pattern(patterns[2], known.kind == Copy ? sources : places, reading, f.width, None, base);
      note_global(w, f, p, base, known, again);
    }
  }
}

void Recorder::note_global(Warp& w, Figures& f, const Pattern& p, u64 base, const Known& known, bool again) {
  u32 hits = 0;
  SectorCache& cache = caches_[w.cta->rank];
  if (known.cached) for (auto& line : p.lines) hits += u32(__builtin_popcount(cache.touch(base / 128 + line.first, line.second)));
  f.global = true, f.sectors += p.sectors, f.lines += p.lines.size(), f.hits += hits;
  if (again) ++f.again, f.again_sectors += p.sectors, f.again_hits += hits;
}

}  // namespace emu

extern "C" {
void emu_record(void* run, emu::u32 cluster, emu::u32 rounds, emu::u64 limit, emu::u64 l1_bytes, const int* wanted, int count);
void emu_explore(void* run);
int emu_recorded(void* run, const char* kernel, emu::u64* out, int capacity);
int emu_launch(void* run, const char* kernel, const emu::u32* grid, const emu::u32* block, const emu::u32* cluster, emu::u32 shared,
               const emu::u8* params, emu::u64 size, emu::u32 resident, int cooperative);

// One cluster of a launch, recorded; a second time where something that is wanted was not reached. how: grid, block, cluster, bytes
// of shared memory, the cluster that runs, rounds. The others as for emu_record, emu_launch and emu_recorded, whose result it
// returns.
int emu_count(void* run, const char* kernel, const emu::u32* how, emu::u64 limit, emu::u64 l1_bytes, const int* wanted, int count,
              const emu::u8* params, emu::u64 size, emu::u64* out, int capacity) {
  enum { Columns = 14, Count = 3 };
  emu_record(run, how[10], how[11], limit, l1_bytes, wanted, count);
  emu_launch(run, kernel, how, how + 3, how + 6, how[9], params, size, 1, 0);
  const int found = emu_recorded(run, kernel, out, capacity);
  std::vector<emu::u64> more(found > capacity ? size_t(found) * Columns : 0);
  if (found > capacity) emu_recorded(run, kernel, more.data(), found);
  const emu::u64* rows = found > capacity ? more.data() : out;
  bool all = true;
  for (int k = 0; k < found; ++k) all &= rows[k * Columns + Count] > 0;
  if (all) return found;
  emu_explore(run);
  emu_launch(run, kernel, how, how + 3, how + 6, how[9], params, size, 1, 0);
  return emu_recorded(run, kernel, out, capacity);
}
}
