// Loads, stores, atomics: address windows, cache hints, vectors; every access goes through shadow.cpp.
#include <algorithm>

#include "decoder.hpp"
#include "machine.hpp"

namespace emu {

// ---- loads and stores -----------------------------------------------------------------------------------------------------------
namespace {
constexpr int kNonCoherent = 16, kPoll = 32;

Space resolve(Space s, u64& a) {
  if (s == Space::Param) a |= kParamWindow;
  if (s == Space::Generic) {
    s = space_of(a);
    if (s == Space::Local) a -= kLocalWindow;
  }
  if (s == Space::Shared && a >= kSharedWindow) a -= kSharedWindow;   // 64-bit shared addresses may be generic values
  return s;
}

// Host pointer of one lane's access, after every check; of a vector load of which only some elements are used (kPartialLoad),
// after those of bounds and alignment.
u8* locate(Warp& w, Space s, u64 a, u32 bytes, bool write, int lane, int flags, const char* what) {
  Machine& m = *w.machine;
  s = resolve(s, a);
  if (a & (bytes - 1))
    m.stop("alignment", format("%s of %u bytes at address 0x%llx (lane %d) is misaligned", what, bytes, (unsigned long long)a, lane), &w);
  switch (s) {
    case Space::Shared: {
      u32 address = u32(a);
      Cta& cta = shared_target(w, address);
      const bool strong = flags & kStrong;
      if (flags & kPartialLoad) check_bounds(cta, address, bytes, what, w);
      else check_access(cta, address, bytes, write, {&w, lane, w.agent, &w.clock, false, what, strong});
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
      if (!p || flags & kPartialLoad) return p;
      if (flags & kNonCoherent && m.checks.global_races) {
        Buffer& b = *buffer_at(m, a);
        u64 g = u64(m.global_granularity);
        if (!b.shadow.empty() && b.shadow[size_t((a - b.base + (b.base & 15)) / g)].write_warp)
          m.report("global_race", format("ld.global.nc of buffer `%s`, which the kernel writes", b.name.c_str()), &w);
      }
      check_global_access(w, a, bytes, write, lane, flags & kStrong, w.clock);
      return p;
    }
  }
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

// The usual case: every lane within the own block's shared memory and aligned. Returns its base, after all checks but the
// shadow's; null sends the access down the general path, which names what is wrong.
u8* plain_shared(Warp& w, const Span& s, u32 bytes) {
  return s.low < kSharedStart || s.high + bytes > w.cta->top || s.bits & (bytes - 1) ? nullptr : w.cta->shared.data();
}
// Likewise for global memory: all lanes in one buffer that needs no shadow. Returns what to add to an address.
u8* plain_global(Warp& w, const Instr& i, u32 m, u32 bytes) {
  u64 low = ~0ull, high = 0, bits = 0;
  for_lanes(m, [&](int l) {
    u64 a = address_of(w, i.mem, l);
    low = std::min(low, a), high = std::max(high, a), bits |= a;
  });
  const Buffer* b = buffer_at(*w.machine, low);
  if (!b || b->writable || bits & (bytes - 1) || low < b->base || high + bytes > b->base + b->size) return nullptr;
  return b->data - b->base;
}

template <class T, class S, Space kSpace>
void load_lanes(Warp& w, const Instr& i, u32 m) {
  const size_t n = i.regs.size();
  const u32 bytes = u32(sizeof(T) * n);
  if (kSpace == Space::Param && i.mem.slot < 0) {
    for (size_t q = 0; q < n; ++q) {
      if (size_t(i.mem.offset) + bytes > w.machine->params.size()) w.machine->stop("bounds", "load outside the kernel's parameters", &w);
      const T t = load_from<T>(w.machine->params.data() + i.mem.offset + q * sizeof(T));
      if (i.regs[q] >= 0) write_lanes<S>(w, i.regs[q], m, [=](int) { return S(t); });
    }
    return;
  }
  constexpr int kSlow = kPartialLoad | kAcquire | kStrong;
  if (kSpace == Space::Shared) {
    u32 addresses[32];
    for (int l = 0; l < 32; ++l) addresses[l] = u32(address_of(w, i.mem, l));
    const Span span = span_of(addresses, m);
    count_banks(w, addresses, m, span, int(bytes), false);
    const u8* base = i.mem.wide || i.flags & kSlow ? nullptr : plain_shared(w, span, bytes);
    if (base) {
      check_lanes(*w.cta, addresses, m, bytes, false, {&w, 0, w.agent, &w.clock, false, "load"});
      for (size_t q = 0; q < n; ++q)
        if (i.regs[q] >= 0)
          write_lanes<S>(w, i.regs[q], m, [=, &addresses](int l) { return S(load_from<T>(base + addresses[l] + q * sizeof(T))); });
      return;
    }
  }
  if (kSpace == Space::Global && !(i.flags & kSlow)) {
    const u8* base = plain_global(w, i, m, bytes);
    if (base) {
      for_lanes(m, [&](int l) {
        u64 a = address_of(w, i.mem, l);
        for (size_t q = 0; q < n; ++q)
          if (i.regs[q] >= 0) reg<S>(w, i.regs[q])[l] = S(load_from<T>(base + a + q * sizeof(T)));
      });
      return;
    }
  }
  for_lanes(m, [&](int l) {
    u64 a = address_of(w, i.mem, l);
    const u8* p = locate(w, kSpace, a, bytes, false, l, i.flags, "load");
    for (size_t q = 0; q < n; ++q) {
      if (i.regs[q] < 0) continue;
      if (i.flags & kPartialLoad) locate(w, kSpace, a + q * sizeof(T), sizeof(T), false, l, i.flags & ~kPartialLoad, "load");
      reg<S>(w, i.regs[q])[l] = p ? S(load_from<T>(p + q * sizeof(T))) : S(T());
    }
    if (i.flags & (kAcquire | kStrong)) synchronise(w, i, l, true, false);
  });
  if (i.flags & kPoll) w.polled = true;
}
template <class T, class S, Space kSpace>
void load(Warp& w, const Instr& i, u32 m) {
  w.defers = true;
  load_lanes<T, S, kSpace>(w, i, m);
  w.defers = false;
  if (!w.fresh.empty()) taint_loaded(w, i, u32(sizeof(T)), T(-1) < T(0));
}
template <class T, class S, Space kSpace>
void store(Warp& w, const Instr& i, u32 m) {
  const size_t n = i.regs.size();
  const u32 bytes = u32(sizeof(T) * n);
  w.storing = m;
  if (kSpace == Space::Shared) {
    u32 addresses[32];
    for (int l = 0; l < 32; ++l) addresses[l] = u32(address_of(w, i.mem, l));
    const Span span = span_of(addresses, m);
    count_banks(w, addresses, m, span, int(bytes), true);
    u8* base = i.mem.wide || i.flags & (kRelease | kStrong) ? nullptr : plain_shared(w, span, bytes);
    if (base) {
      check_lanes(*w.cta, addresses, m, bytes, true, {&w, 0, w.agent, &w.clock, false, "store"});
      for_lanes(m, [&](int l) {
        for (size_t q = 0; q < n; ++q) {
          T t = T(reg<S>(w, i.regs[q])[l]);
          memcpy(base + addresses[l] + q * sizeof(T), &t, sizeof t);
        }
      });
      ++w.machine->progress;
      w.storing = 0;
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
  w.storing = 0;
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
int decode_vector(Decoder& d, Instr& i) {        // elements; also the type: one of 128 bits is two elements of 64
  int k = d.choose({"v2", "v4", "v8"}, 3), count = k == 3 ? 1 : 2 << k;
  i.type = d.type();
  if (i.type != Type::B128) return count;
  if (count > 1) d.refuse("a vector of 128-bit elements is not supported");
  i.type = Type::B64;
  return 2;
}
// The address. Parameters by name: the kernel's at their offset, a call's in local memory.
void decode_place(Decoder& d, Instr& i) {
  Operand o = d.peek();
  bool named = i.space == Space::Param && o.kind == Operand::Symbol;
  int param = named ? d.param_offset(o.symbol) : -1, local = named ? d.call_param(o.symbol) : -1;
  if (local < 0) i.mem = d.address();
  else d.skip(), i.space = Space::Local, i.mem = {-1, false, o.offset + local};
  if (param >= 0) i.mem = {-1, false, o.offset + param};
}
void decode_load_or_store(Decoder& d, Instr& i) {
  const bool store = d.name() == "st";
  if (store && d.take("async")) return decode_async_store(d, i, false);
  i.flags = decode_order(d, false);
  i.space = d.space(Space::Generic);
  bool hint = decode_cache(d, store);
  if (!store && d.take("nc")) i.flags |= kNonCoherent;
  if (!store && i.flags & kStrong) i.flags |= kPoll, i.flow = Flow::Yield;
  int count = decode_vector(d, i);
  if (store) decode_place(d, i);
  const Operand first = d.peek(), element = first.kind == Operand::Vector ? first.parts[0] : first;
  // registers may be wider than the type
  int width = element.kind == Operand::Register ? (element.width >= 8 ? 8 : 4) : type_size(i.type) == 8 ? 8 : 4;
  if (type_size(i.type) == 8 && width != 8) d.refuse(store ? "the source is too narrow" : "the destination is too narrow");
  i.regs = store ? d.sources(width, count) : d.destinations(width, count), i.op = width;
  if (!store) decode_place(d, i);
  const bool elements = count > 1 && first.kind == Operand::Vector;
  if (!store && elements && i.space != Space::Param) i.flags |= kPartialLoad;     // the parser looks which are used
  if (hint) d.source(8);
  d.kernel().note_access(i.space, type_size(i.type) * count);
  i.run = width == 8 ? by_type<u64>(i.type, i.space, store) : by_type<u32>(i.type, i.space, store);
  if (!store && i.space == Space::Param && i.mem.slot < 0) i.flow = Flow::Plain;
}

// ---- atomics -------------------------------------------------------------------------------------------------------------------------
enum AtomicOp { kAdd, kMin, kMax, kExch, kCas, kAnd, kOr, kXor, kInc, kDec };
u64 mask_of(Type t) { return type_size(t) == 8 ? ~0ull : (1ull << type_size(t) * 8) - 1; }

void atomic(Warp& w, const Instr& i, u32 m) {
  int size = type_size(i.type);
  const bool wide = size == 8;
  const u64 mask = mask_of(i.type);
  bool changed = false;
  size_t n = size_t(i.mode);             // regs: the operands, then what receives the old values
  for_lanes(m, [&](int l) {
    synchronise(w, i, l, true, true);
    u64 a = address_of(w, i.mem, l);
    u8* p = locate(w, i.space, a, u32(size * int(n)), true, l, i.flags | kStrong, "atomic");
    if (!p) return;
    bool differs = false;                // the comparison of 128 bits is one
    for (size_t q = 0; i.b >= 0 && q < 2; ++q) differs |= memcmp(p + 8 * q, &reg<u64>(w, q ? i.b : i.c)[l], 8) != 0;
    for (size_t q = 0; q < n; ++q) {
      const int compared = q ? i.b : i.c;
      u64 old = 0, value = bits_of(w, i.regs[q], l, wide), other = compared < 0 ? 0 : bits_of(w, compared, l, wide);
      memcpy(&old, p + q * size_t(size), size_t(size));
      u64 result = differs ? old : combine_atomic(i.op, i.type, old, value, other);
      memcpy(p + q * size_t(size), &result, size_t(size));
      changed |= (old ^ result) & mask;
      const int d = i.regs.size() > n ? i.regs[n + q] : -1;
      if (d >= 0) set_bits(w, d, l, wide, old);
    }
  });
  if (changed) ++w.machine->progress;
  if (i.regs.size() > n) w.polled = true;
}
void decode_atomic(Decoder& d, Instr& i) {
  bool returns = d.name() == "atom";
  if (!returns && d.take("async")) return decode_async_store(d, i, true);
  i.flags = decode_order(d, true);
  i.space = d.space(Space::Generic);
  i.op = decode_atomic_operation(d);
  bool hint = d.take("L2::cache_hint");
  d.take("noftz");
  int count = decode_vector(d, i);
  int size = type_size(i.type), width = size == 8 ? 8 : 4;
  bool floating = is_float(i.type) || i.type == Type::F16x2 || i.type == Type::BF16x2;
  if (size < 2 || (floating && i.op != kAdd && i.op != kMin && i.op != kMax && i.op != kExch) || (size == 2 && !floating && i.op != kCas))
    d.refuse("this operation and type are not supported");
  const bool pair = size == 8 && count == 2 && d.position("b128") >= 0;
  if (pair ? i.op != kExch && i.op != kCas : count > 1 && (size > 4 || size * count > 16 || !floating))
    d.refuse("this operation on this type is not supported: vector");
  vector<int> old;
  if (returns) old = d.destinations(width, count);
  i.mem = d.address();
  i.mode = count, i.regs = d.sources(width, count);
  if (i.op == kCas) {         // atom.cas d, [a], compare, value
    i.c = i.regs[0];
    if (pair) i.b = i.regs[1];
    i.regs = d.sources(width, count);
  }
  if (hint) d.source(8);
  i.regs.insert(i.regs.end(), old.begin(), old.end());
  d.kernel().note_access(i.space, size * count);
  i.run = atomic;
  if (returns) i.flow = Flow::Yield;
}

// ---- hints and address mapping ---------------------------------------------------------------------------------------------------------------
void decode_prefetch(Decoder& d, Instr& i) {       // prefetch, prefetchu, discard, applypriority: no effect on values
  const bool map = d.take("tensormap");
  d.space(Space::Generic);
  const bool level = map || d.take("L1") || d.take("L2") || d.take("L2::evict_last") || d.take("L2::evict_normal");
  if (!level) d.refuse("a cache level is missing");
  i.mem = d.address(), i.run = nothing;
  if (!map && d.left()) d.immediate();
}
void policy(Warp& w, const Instr& i, u32 m) { write_lanes<u64>(w, i.dst, m, [](int) { return 0x1000000000000000ull; }); }
void decode_createpolicy(Decoder& d, Instr& i) {
  const bool range = d.take("range");
  if (range) d.take("global");
  else if (!d.take("fractional")) d.refuse("this form is not supported");
  d.modifier_starting("L2::evict_"), d.modifier_starting("L2::evict_");
  d.type_in({Type::B64});
  i.dst = d.destination(8), i.run = policy;
  if (range) i.mem = d.address(), d.source(4), d.source(4);
  else if (d.left()) d.source(4);
}
void map_address(Warp& w, const Instr& i, u32 m) {
  auto& ctas = w.cta->cluster->ctas;
  for_lanes(m, [&](int l) {
    u32 rank = reg<u32>(w, i.b)[l];
    if (rank >= ctas.size())
      w.machine->stop("bounds", format("mapa names CTA %u of a cluster of %zu", rank, ctas.size()), &w);
    const u64 a = bits_of(w, i.a, l, i.flags), window = a >= kSharedWindow ? kSharedWindow : 0;
    set_bits(w, i.dst, l, i.flags, window + (((a - window) & 0xFFFFFF) | u64(rank + 1) << 24));
  });
}
void cta_rank(Warp& w, const Instr& i, u32 m) {
  for_lanes(m, [&](int l) {
    u32 rank = u32(bits_of(w, i.a, l, i.flags)) >> 24;
    reg<u32>(w, i.dst)[l] = rank ? rank - 1 : w.cta->rank;
  });
}
void decode_rank(Decoder& d, Instr& i) {         // mapa, getctarank
  const bool maps = d.name() == "mapa";
  d.space(Space::Generic);
  i.type = d.type_in({Type::U32, Type::U64});
  const int width = type_size(i.type);
  i.flags = width == 8;
  i.dst = d.destination(maps ? width : 4), i.a = d.source(width);
  if (maps) i.b = d.source(4);
  i.run = maps ? map_address : cta_rank;
}

template <class T> u64 combine_number(int op, T a, T b) {
  T r = op == kAdd ? T(a + b) : op == kMin ? (b < a ? b : a) : (a < b ? b : a);
  u64 bits = 0;
  memcpy(&bits, &r, sizeof r);
  return bits;
}
const char* stored(Warp& w, const Instr& i, int slot, int lane) { return w.registers + slot + lane * i.op; }
}  // namespace
bool stores_the_same(Warp& w, int other, int lane) {
  if (other >= lane || !(w.storing >> other & 1)) return false;      // lanes write in order
  const Instr& i = w.kernel->code[size_t(w.pc)];
  bool same = address_of(w, i.mem, other) == address_of(w, i.mem, lane);
  for (int slot : i.regs) same = same && !memcmp(stored(w, i, slot, other), stored(w, i, slot, lane), size_t(type_size(i.type)));
  return same;
}

bool stores_again(Warp& w, int lane, u64 address, const u8* there, u32 bytes, bool shared) {
  if (lane >= 32 || !(w.storing >> lane & 1)) return false;
  const Instr& i = w.kernel->code[size_t(w.pc)];
  const size_t size = size_t(type_size(i.type));
  u8 value[64];
  for (size_t q = 0; q < i.regs.size(); ++q) memcpy(value + q * size, stored(w, i, i.regs[q], lane), size);
  const u64 start = shared ? shared_address_of(w, i.mem, lane) & 0xFFFFFF : address_of(w, i.mem, lane), end = start + size * i.regs.size();
  return address >= start && address + bytes <= end && !memcmp(value + (address - start), there, bytes);
}

u8* access(Warp& w, Space s, u64 a, u32 bytes, bool write, int lane, const char* what) {
  return locate(w, s, a, bytes, write, lane, 0, what);
}
int decode_atomic_operation(Decoder& d) {
  return d.choose({"add", "min", "max", "exch", "cas", "and", "or", "xor", "inc", "dec"}, -1);
}
void reduce_at(u8* at, const u8* operand, int op, Type t) {
  const size_t size = size_t(type_size(t));
  u64 old = 0, value = 0;
  memcpy(&old, at, size), memcpy(&value, operand, size);
  old = combine_atomic(op, t, old, value, 0);
  memcpy(at, &old, size);
}
u64 combine_atomic(int op, Type t, u64 old, u64 operand, u64 compare) {
  switch (op) {
    case kExch: return operand;
    case kCas: return (old ^ compare) & mask_of(t) ? old : operand;
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

const Opcodes opcodes{{"ld ldu st", decode_load_or_store}, {"atom red", decode_atomic},
                    {"prefetch prefetchu discard applypriority", decode_prefetch}, {"createpolicy", decode_createpolicy},
                    {"mapa getctarank", decode_rank}};

}  // namespace emu
