// Values that nothing has written. A load of uninitialised memory is no error by itself: compilers move loads before the
// branches that decide whether they matter. What it gives is poison, which registers hand on, byte by byte where an instruction
// only moves data; reported is where it reaches a store, a branch, an address or a tensor instruction.
#include <algorithm>

#include "decoder.hpp"
#include "machine.hpp"

namespace emu {

// How an instruction hands poison on. A Move runs once more on the poisoned bytes; `steered` are its operands that are no data.
void set_taint(const string& name, Instr& i) {
  struct Way { Taint taint; u8 steered; };
  static const std::unordered_map<string, Way> known = {
      {"mov", {Taint::Move, 0}}, {"cvt", {Taint::Move, 0}}, {"prmt", {Taint::Move, kSteeredC}}, {"selp", {Taint::Move, kSteeredC}},
      {"shf", {Taint::Move, kSteeredC}}, {"shl", {Taint::Move, kSteeredB}}, {"shr", {Taint::Move, kSteeredB}},
      {"bfe", {Taint::Move, kSteeredB | kSteeredC}}, {"shfl", {Taint::Move, kSteeredB | kSteeredC | kSteeredMember}},
      {"and", {Taint::And, 0}}, {"or", {Taint::Or, 0}}, {"ld", {Taint::Load, 0}}, {"ldu", {Taint::Load, 0}},
      {"ldmatrix", {Taint::Load, 0}}, {"st", {Taint::Store, 0}}, {"red", {Taint::Store, 0}}, {"atom", {Taint::Store, 0}},
      {"stmatrix", {Taint::Store, 0}}, {"mma", {Taint::Tensor, 0}}, {"wgmma", {Taint::Tensor, 0}}, {"wmma", {Taint::Tensor, 0}}};
  auto it = known.find(name);
  if (it == known.end()) return;
  auto integer = [](Type t) { return t >= Type::U8 && t <= Type::B64; };
  if (name == "cvt" && !(integer(i.type) && integer(i.type2) && !(i.flags & 1))) return;
  if ((name == "mov" && i.type == Type::Pred) || (name == "st" && i.space == Space::Local)) return;
  i.taint = it->second.taint, i.steered = it->second.steered;
}

namespace {
bool is_tainted(const Warp& w, int slot) { return slot >= 0 && w.tainted[size_t(slot) / 64]; }
int width_of(const Warp& w, int slot) { return w.kernel->widths[size_t(slot) / 64]; }
u8* poison_at(Warp& w, int slot) { return reinterpret_cast<u8*>(w.poison.data()) + slot; }

// The lanes in which a register holds poison.
u32 lanes_in(Warp& w, int slot) {
  const int width = width_of(w, slot);
  const u8* p = poison_at(w, slot);
  u32 lanes = 0;
  if (width == 1) memcpy(&lanes, p, 4);
  else for (int l = 0; l < 32; ++l) for (int q = 0; q < width; ++q) lanes |= u32(p[l * width + q] != 0) << l;
  return lanes;
}
u32 poisoned_lanes(Warp& w, int slot) { return is_tainted(w, slot) ? lanes_in(w, slot) : 0; }
void set_tainted(Warp& w, int slot, u16 origin) {
  u16& t = w.tainted[size_t(slot) / 64];
  if (!t != !origin) origin ? ++w.taints : --w.taints;
  t = origin;
}
// All of a register in the lanes of `mask` becomes poison (origin > 0) or sound.
void fill(Warp& w, int slot, u32 mask, bool poisoned) {
  u8* p = poison_at(w, slot);
  const int width = width_of(w, slot);
  if (width == 1) {
    u32 bits;
    memcpy(&bits, p, 4);
    bits = poisoned ? bits | mask : bits & ~mask;
    memcpy(p, &bits, 4);
  } else {
    for_lanes(mask, [&](int l) { memset(p + l * width, poisoned ? 0xFF : 0, size_t(width)); });
  }
}
void settle(Warp& w, int slot, u16 origin) { set_tainted(w, slot, lanes_in(w, slot) ? origin : u16(0)); }
void clear(Warp& w, int slot, u32 mask) {
  if (!is_tainted(w, slot)) return;
  fill(w, slot, mask, false);
  settle(w, slot, w.tainted[size_t(slot) / 64]);
}
void mark(Warp& w, int slot, u32 lanes, u16 origin) {
  w.tainted[size_t(slot) / 64] ? void() : set_tainted(w, slot, origin);
  fill(w, slot, lanes, true);
}
void use(Warp& w, int slot, u32 mask, const char* where) {
  u32 lanes = poisoned_lanes(w, slot) & mask;
  if (!lanes) return;
  Machine& m = *w.machine;
  if (!m.seen_often("uninitialised", w))
    m.report("uninitialised", format("%s uses a value (lane %d) %s", where, __builtin_ctz(lanes),
                                     m.origins[w.tainted[size_t(slot) / 64] - 1u].c_str()), &w);
  clear(w, slot, ~0u);
}
template <class F>
void for_data(const Instr& i, F f) {
  for (int slot : {i.a, i.b, i.c, i.e}) f(slot);
  for (int slot : i.reads) f(slot);
}

// Runs the instruction on the poison; operands that steer it hold their real values meanwhile.
void move(Warp& w, const Instr& i, u32 mask, u16 origin) {
  vector<int> steered;
  if (i.steered & kSteeredB) steered.push_back(i.b);
  if (i.steered & kSteeredC) steered.push_back(i.c);
  if (i.steered & kSteeredMember) steered.push_back(i.member);
  u32 doubtful = 0;
  vector<std::pair<int, vector<char>>> kept;
  for (int slot : steered) {
    doubtful |= poisoned_lanes(w, slot);
    const size_t bytes = width_of(w, slot) == 8 ? 256 : width_of(w, slot) == 1 ? 64 : 128;
    kept.push_back({slot, vector<char>(w.poison.begin() + slot, w.poison.begin() + slot + long(bytes))});
    memcpy(w.poison.data() + slot, w.registers + slot, bytes);
  }
  char* real = w.registers;
  const auto told = w.machine->quiet;
  w.registers = w.poison.data(), w.machine->quiet = true;
  i.run(w, i, mask);
  w.registers = real, w.machine->quiet = told;
  for (auto& k : kept) std::copy(k.second.begin(), k.second.end(), w.poison.begin() + k.first);
  auto done = [&](int slot) {
    if (slot < 0) return;
    if (doubtful & mask) fill(w, slot, doubtful & mask, true);
    settle(w, slot, origin);
  };
  done(i.dst), done(i.dst2);
  for (int slot : i.written) done(slot);
}
// A bit of `and` is known where a sound operand has a 0 there, of `or` where it has a 1.
void logic(Warp& w, const Instr& i, u32 mask, u16 origin) {
  const int width = width_of(w, i.dst), bytes = width == 1 ? 4 : 32 * width;
  u8 *d = poison_at(w, i.dst), *a = poison_at(w, i.a), *b = poison_at(w, i.b);
  const u8 *va = reinterpret_cast<u8*>(w.registers + i.a), *vb = reinterpret_cast<u8*>(w.registers + i.b);
  const bool ands = i.taint == Taint::And;
  const u8 na = i.type == Type::Pred && i.flags & 1 ? 0xFF : 0, nb = i.type == Type::Pred && i.flags & 2 ? 0xFF : 0;
  for (int q = 0; q < bytes; ++q) {
    if (width > 1 && !(mask >> q / width & 1)) continue;
    u8 x = va[q] ^ na, y = vb[q] ^ nb, open_a = a[q] | (ands ? x : u8(~x)), open_b = b[q] | (ands ? y : u8(~y));
    u8 r = (a[q] | b[q]) & open_a & open_b, lanes = width > 1 ? u8(0xFF) : u8(mask >> 8 * q);
    d[q] = u8((d[q] & ~lanes) | (r & lanes));
  }
  settle(w, i.dst, origin);
}
}  // namespace

void taint_step(Warp& w, const Instr& i, u32 mask) {
  if (is_tainted(w, i.guard)) use(w, i.guard, w.running, "a branch");
  if (i.flow == Flow::Branch) return;
  for (const Address* at : {&i.mem, &i.mem2, &i.mem3}) if (is_tainted(w, at->slot)) use(w, at->slot, mask, "an address");
  u16 origin = 0;
  for_data(i, [&](int slot) { if (!origin && is_tainted(w, slot)) origin = w.tainted[size_t(slot) / 64]; });
  bool to_taint = is_tainted(w, i.dst) || is_tainted(w, i.dst2);
  for (int slot : i.written) to_taint |= is_tainted(w, slot);
  if (!origin && !to_taint) return;
  if (i.flow == Flow::BranchIndex) return use(w, i.a, mask, "a branch");
  if (i.taint == Taint::Move) return move(w, i, mask, origin);
  if (origin && (i.taint == Taint::And || i.taint == Taint::Or) && i.b >= 0) return logic(w, i, mask, origin);
  const char* sink = i.taint == Taint::Store ? "a store" : i.taint == Taint::Tensor ? "a tensor instruction" : nullptr;
  if (sink) for_data(i, [&](int slot) { if (is_tainted(w, slot)) use(w, slot, mask, sink); });
  u32 lanes = 0;
  if (!sink && i.taint != Taint::Load) for_data(i, [&](int slot) { lanes |= poisoned_lanes(w, slot) & mask; });
  if (i.taint == Taint::Union && i.flow == Flow::Aligned && lanes) lanes = mask;      // votes, reductions: every lane gets it
  auto give = [&](int slot) {
    if (slot < 0) return;
    clear(w, slot, mask & ~lanes);
    if (lanes) mark(w, slot, lanes, origin);
  };
  give(i.dst);
  if (i.taint != Taint::Tensor) give(i.dst2);
  for (int slot : i.written) give(slot);
}

void taint_loaded(Warp& w, const Instr& i, u32 element, bool sign) {
  vector<Unwritten> fresh;
  fresh.swap(w.fresh);
  Machine& m = *w.machine;
  if (w.poison.empty()) w.poison.assign(size_t(w.kernel->register_bytes), 0), w.tainted.assign(w.owned.size(), 0);
  for (auto& f : fresh) {
    u16& origin = m.origin_index[w.pc];
    if (!origin) {
      string place = m.place(i);
      m.origins.push_back(f.what + ", which nothing has written (loaded at " + place + (place.empty() ? "" : ", ") +
                          format("PTX line %d)", i.line));
      origin = u16(m.origins.size());
    }
    if (i.run == nullptr || element == 0) continue;
    u64 at = address_of(w, i.mem, f.lane);
    if (f.shared) at = shared_address_of(w, i.mem, f.lane) & 0xFFFFFF;
    for (size_t q = 0; q < i.regs.size(); ++q) {
      const u64 first = at + q * element, low = std::max(f.address, first), high = std::min(f.address + f.bytes, first + element);
      const int slot = i.regs[q];
      if (slot < 0 || low >= high) continue;
      u8* p = poison_at(w, slot) + f.lane * width_of(w, slot);
      memset(p + (low - first), 0xFF, high - low);
      if (sign && high == first + element) memset(p + element, 0xFF, size_t(width_of(w, slot)) - element);
      set_tainted(w, slot, origin);
    }
  }
}
// ldmatrix: what it gives each lane was read by other lanes; a matrix with an unwritten byte is poison as a whole.
void taint_matrices(Warp& w, const Instr& i) {
  vector<Unwritten> fresh = w.fresh;
  taint_loaded(w, i, 0, false);
  for (auto& f : fresh) mark(w, i.regs[size_t(f.lane) / 8], ~0u, w.machine->origin_index[w.pc]);
}

}  // namespace emu
