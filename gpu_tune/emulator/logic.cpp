// Comparisons, predicates and selection; logic, shifts and other operations on bits; moves.
#include <algorithm>

#include "alu.hpp"

namespace emu {
namespace {

// ---- comparisons --------------------------------------------------------------------------------------------------------
enum Compare { EQ, NE, LT, LE, GT, GE, EQU, NEU, LTU, LEU, GTU, GEU, NUM, NANS };
template <class T>
bool compare(int c, T a, T b) {
  const bool unordered = a != a || b != b;
  if (c >= NUM) return unordered == (c == NANS);
  if (unordered) return c >= EQU;
  switch (c % EQU) {
    case EQ: return a == b;
    case NE: return a != b;
    case LT: return a < b;
    case LE: return a <= b;
    case GT: return a > b;
    default: return a >= b;
  }
}
int decode_compare(Decoder& d, Type t) {
  static const std::pair<const char*, int> names[] = {
      {"eq", EQ}, {"ne", NE}, {"lt", LT}, {"le", LE}, {"gt", GT}, {"ge", GE}, {"equ", EQU}, {"neu", NEU}, {"ltu", LTU},
      {"leu", LEU}, {"gtu", GTU}, {"geu", GEU}, {"num", NUM}, {"nan", NANS}, {"lo", LT}, {"ls", LE}, {"hi", GT}, {"hs", GE}};
  for (auto& n : names) {
    if (!d.take(n.first)) continue;
    if (n.second >= EQU && n.second <= NANS && !is_float(t) && t != Type::F16x2 && t != Type::BF16x2)
      d.refuse(string(".") + n.first + " compares floats only");
    return n.second;
  }
  d.refuse("the comparison is missing or not supported");
}
template <class T, class Read>
u32 compare_lanes(int op, u32 m, Read read) {
  u32 r = 0;
  if (op == EQ) for (int l = 0; l < 32; ++l) r |= u32(read(0, l) == read(1, l)) << l;
  else if (op == LT) for (int l = 0; l < 32; ++l) r |= u32(read(0, l) < read(1, l)) << l;
  else if (op == GE) for (int l = 0; l < 32; ++l) r |= u32(read(0, l) >= read(1, l)) << l;
  else for_lanes(m, [&](int l) { r |= u32(compare<T>(op, read(0, l), read(1, l))) << l; });
  return r;
}
u32 compare_any(Warp& w, const Instr& i, u32 m) {
  auto run = [&](auto tag) {
    using T = decltype(tag);
    const T *a = reg<T>(w, i.a), *b = reg<T>(w, i.b);
    return compare_lanes<T>(i.op, m, [=](int which, int l) { return which ? b[l] : a[l]; });
  };
  auto run16 = [&](auto convert) {
    const u32 *a = reg<u32>(w, i.a), *b = reg<u32>(w, i.b);
    using T = decltype(convert(0u));
    return compare_lanes<T>(i.op, m, [=](int which, int l) { return convert(which ? b[l] : a[l]); });
  };
  switch (i.type) {
    case Type::U32: case Type::B32: return run(u32());
    case Type::S32: return run(s32());
    case Type::U64: case Type::B64: return run(u64());
    case Type::S64: return run(s64());
    case Type::F32:
      if (i.flags & kFtz) return run16([](u32 v) { return flush(bit_cast<float>(v)); });
      return run(float());
    case Type::F64: return run(double());
    case Type::S16: return run16([](u32 v) { return s32(s16(v)); });
    case Type::F16: return run16([](u32 v) { return half_to_float(u16(v)); });
    case Type::BF16: return run16([](u32 v) { return bf16_to_float(u16(v)); });
    default: return run16([](u32 v) { return u32(u16(v)); });
  }
}
u32 combine(Warp& w, const Instr& i, u32 r) {     // setp.CmpOp.BoolOp
  if (i.c < 0) return r;
  u32 c = pred(w, i.c) ^ (i.flags & 8 ? ~0u : 0);
  return i.mode == 0 ? r & c : i.mode == 1 ? r | c : r ^ c;
}
void set_preds(Warp& w, const Instr& i, u32 m, u32 r, u32 other) {
  const u32 first = combine(w, i, r), second = combine(w, i, other);
  if (i.dst >= 0) set_pred(w, i.dst, m, first);
  if (i.dst2 >= 0) set_pred(w, i.dst2, m, second);
}
void setp(Warp& w, const Instr& i, u32 m) {
  const u32 r = compare_any(w, i, m);
  set_preds(w, i, m, r, ~r);
}
// setp.f16x2 / bf16x2: one predicate for each half
template <bool BF16>
void setp_packed(Warp& w, const Instr& i, u32 m) {
  u32 r[2] = {0, 0};
  for_lanes(m, [&](int l) {
    for (int q = 0; q < 2; ++q) {
      auto get = [&](int slot) { u16 v = u16(reg<u32>(w, slot)[l] >> 16 * q); return BF16 ? bf16_to_float(v) : half_to_float(v); };
      r[q] |= u32(compare<float>(i.op, get(i.a), get(i.b))) << l;
    }
  });
  set_preds(w, i, m, r[0], r[1]);
}
void set_value(Warp& w, const Instr& i, u32 m) {   // set.CmpOp.dtype.stype
  u32 r = combine(w, i, compare_any(w, i, m));
  u32 one = i.type2 == Type::F32 ? 0x3F800000u : ~0u;
  write_lanes<u32>(w, i.dst, m, [=](int l) { return r >> l & 1 ? one : 0u; });
}
template <class T>
void selp(Warp& w, const Instr& i, u32 m) {
  const T *a = reg<T>(w, i.a), *b = reg<T>(w, i.b);
  u32 p = pred(w, i.c);
  write_lanes<T>(w, i.dst, m, [=](int l) { return p >> l & 1 ? a[l] : b[l]; });
}
template <class T>
void slct(Warp& w, const Instr& i, u32 m) {
  const T *a = reg<T>(w, i.a), *b = reg<T>(w, i.b);
  write_lanes<T>(w, i.dst, m, [=, &w, &i](int l) { return (i.type2 == Type::F32 ? reg<float>(w, i.c)[l] >= 0 : reg<s32>(w, i.c)[l] >= 0) ? a[l] : b[l]; });
}
void pred_logic(Warp& w, const Instr& i, u32 m) {
  u32 a = pred(w, i.a) ^ (i.flags & 1 ? ~0u : 0), b = i.b >= 0 ? pred(w, i.b) ^ (i.flags & 2 ? ~0u : 0) : 0;
  set_pred(w, i.dst, m, i.op == 0 ? a & b : i.op == 1 ? a | b : i.op == 2 ? a ^ b : i.op == 3 ? ~a : a);
}

// ---- bits -----------------------------------------------------------------------------------------------------------------
BINARY(And, a & b) BINARY(Or, a | b) BINARY(Xor, a ^ b) UNARY(Not, ~a) UNARY(Same, a)
template <class T>
void shift_left(Warp& w, const Instr& i, u32 m) {
  const T* a = reg<T>(w, i.a);
  const u32* b = reg<u32>(w, i.b);
  const u32 bits = u32(i.imm);
  write_lanes<T>(w, i.dst, m, [=](int l) { return b[l] >= bits ? T(0) : T(a[l] << b[l]); });
}
template <class T>
void shift_right(Warp& w, const Instr& i, u32 m) {
  const T* a = reg<T>(w, i.a);
  const u32* b = reg<u32>(w, i.b);
  write_lanes<T>(w, i.dst, m, [=](int l) {
    if (b[l] >= sizeof(T) * 8) return a[l] < T(0) ? T(-1) : T(0);
    return T(a[l] >> b[l]);
  });
}
template <class T>
u32 shift_right16(const Instr&, u32 a, u32 b, u32) { return u32(u16(s32(T(a)) >> std::min(b, 16u))); }
template <class T>
void bfe(Warp& w, const Instr& i, u32 m) {
  constexpr u32 bits = sizeof(T) * 8;
  for_lanes(m, [&](int l) {
    T a = reg<T>(w, i.a)[l];
    u32 position = reg<u32>(w, i.b)[l] & 255, length = reg<u32>(w, i.c)[l] & 255;
    using U = std::make_unsigned_t<T>;
    const bool fills = T(-1) < T(0) && length && U(a) >> std::min(position + length - 1, bits - 1) & 1;     // with the sign
    const U field = (length < bits ? (U(1) << length) - 1 : ~U(0)) & (position < bits ? ~U(0) >> position : U(0));
    reg<T>(w, i.dst)[l] = T((position < bits ? U(a) >> position & field : U(0)) | (fills ? ~field : U(0)));
  });
}
template <class T>
void bfi(Warp& w, const Instr& i, u32 m) {
  constexpr u32 bits = sizeof(T) * 8;
  for_lanes(m, [&](int l) {
    T a = reg<T>(w, i.a)[l], b = reg<T>(w, i.b)[l];
    u32 position = reg<u32>(w, i.c)[l] & 255, length = reg<u32>(w, i.e)[l] & 255;
    T mask = length == 0 || position >= bits ? T(0) : T((length >= bits ? ~T(0) : (T(1) << length) - 1) << position);
    reg<T>(w, i.dst)[l] = (b & ~mask) | ((position < bits ? T(a << position) : T(0)) & mask);
  });
}
u32 prmt(const Instr& i, u32 low, u32 high, u32 s) {
  const u64 v = low | u64(high) << 32;
  u32 r = 0, n = s & 3;
  for (u32 q = 0; q < 4; ++q) {
    u32 k;
    bool sign = false;
    switch (i.mode) {
      case 0: k = s >> (4 * q) & 7, sign = s >> (4 * q) & 8; break;
      case 1: k = n + q; break;                            // f4e
      case 2: k = (8 + n - q) & 7; break;                  // b4e
      case 3: k = n; break;                                // rc8
      case 4: k = std::max(n, q); break;                   // ecl
      case 5: k = std::min(n, q); break;                   // ecr
      default: k = (n & 1) * 2 + (q & 1);                  // rc16
    }
    u8 byte = u8(v >> (8 * k));
    if (sign) byte = byte & 128 ? 255 : 0;
    r |= u32(byte) << (8 * q);
  }
  return r;
}
void lop3(Warp& w, const Instr& i, u32 m) {
  const u32 *a = reg<u32>(w, i.a), *b = reg<u32>(w, i.b), *c = reg<u32>(w, i.c);
  const int table = int(i.imm);
  write_lanes<u32>(w, i.dst, m, [=](int l) {
    u32 r = 0;
    for (int k = 0; k < 8; ++k)
      if (table >> k & 1) r |= (k & 4 ? a[l] : ~a[l]) & (k & 2 ? b[l] : ~b[l]) & (k & 1 ? c[l] : ~c[l]);
    return r;
  });
}
u32 funnel(const Instr& i, u32 low, u32 high, u32 shift) {
  const u64 v = low | u64(high) << 32;
  const u32 s = i.mode ? shift & 31 : std::min(shift, 32u);
  return i.op ? u32(v >> s) : s == 32 ? u32(v) : u32(v << s >> 32);
}
void bit_count(Warp& w, const Instr& i, u32 m) {
  bool wide = type_size(i.type) == 8;
  for_lanes(m, [&](int l) {
    u64 a = bits_of(w, i.a, l, wide);
    int bits = wide ? 64 : 32;
    if (i.op == 2) {
      u64 r = 0;
      for (int q = 0; q < bits; ++q) r |= (a >> q & 1) << (bits - 1 - q);
      set_bits(w, i.dst, l, wide, r);
    } else if (i.op == 3) {   // bfind
      if (is_signed(i.type) && (a >> (bits - 1) & 1)) a = wide ? ~a : u32(~a);
      int top = a ? 63 - __builtin_clzll(a) : -1;
      reg<u32>(w, i.dst)[l] = top >= 0 && i.mode ? u32(bits - 1 - top) : u32(top);
    } else {
      reg<u32>(w, i.dst)[l] = i.op == 0 ? u32(__builtin_popcountll(a)) : a ? u32(__builtin_clzll(a) - (64 - bits)) : u32(bits);
    }
  });
}
void testp(Warp& w, const Instr& i, u32 m) {
  u32 r = 0;
  for_lanes(m, [&](int l) {
    double x = i.type == Type::F64 ? reg<double>(w, i.a)[l] : double(reg<float>(w, i.a)[l]);
    int c = i.type == Type::F64 ? std::fpclassify(x) : std::fpclassify(reg<float>(w, i.a)[l]);
    bool is[] = {std::isfinite(x), std::isinf(x), !std::isnan(x), std::isnan(x), c == FP_NORMAL, c == FP_SUBNORMAL};
    r |= u32(is[i.op]) << l;
  });
  set_pred(w, i.dst, m, r);
}
// fns: the position of the n-th set bit from `base` on (n < 0: downwards; 0: at base itself), ~0 when there is none
u32 find_nth_set(const Instr&, u32 bits, u32 base, u32 count) {
  const s32 n = s32(count), step = n < 0 ? -1 : 1;
  s32 left = n ? std::abs(s64(n)) > 32 ? 33 : std::abs(n) : 1;
  for (s64 q = base; q >= 0 && q < 32 && (n || q == s64(base)); q += step)
    if (bits >> q & 1 && --left == 0) return u32(q);
  return ~0u;
}
// bmsk: b ones from position a on. szext: the low b bits of a, sign- or zero-extended. Both clamp or wrap at 32.
u32 bit_mask(const Instr& i, u32 a, u32 b, u32) {
  const u32 x = i.mode ? a & 31 : std::min(a, 32u), n = i.mode ? b & 31 : std::min(b, 32u);
  return u32(((1ull << n) - 1) << x);
}
u32 sign_extend(const Instr& i, u32 a, u32 b, u32) {
  const u32 n = i.mode ? b & 31 : std::min(b, 32u), low = u32((1ull << n) - 1), v = a & low;
  return i.type == Type::S32 && n && v >> (n - 1) ? v | ~low : v;
}
void pack(Warp& w, const Instr& i, u32 m) {          // mov.b32/.b64 d, {a, b, ...}
  int bits = int(i.imm);
  for_lanes(m, [&](int l) {
    u64 r = 0;
    u64 mask = bits == 64 ? ~0ull : (1ull << bits) - 1;
    for (size_t q = 0; q < i.regs.size(); ++q) r |= (reg<u32>(w, i.regs[q])[l] & mask) << (bits * int(q));
    set_bits(w, i.dst, l, i.flags, r);
  });
}
void unpack(Warp& w, const Instr& i, u32 m) {        // mov.b32/.b64 {a, b, ...}, s
  int bits = int(i.imm);
  for_lanes(m, [&](int l) {
    u64 v = bits_of(w, i.a, l, i.flags);
    for (size_t q = 0; q < i.regs.size(); ++q)
      if (i.regs[q] >= 0) reg<u32>(w, i.regs[q])[l] = u32(v >> (bits * int(q)) & ((1ull << bits) - 1));
  });
}
void move_pair(Warp& w, const Instr& i, u32 m) {     // mov.b128: halves of destination, then of source
  for_lanes(m, [&](int l) {
    const u64 low = reg<u64>(w, i.regs[2])[l], high = reg<u64>(w, i.regs[3])[l];
    reg<u64>(w, i.regs[0])[l] = low, reg<u64>(w, i.regs[1])[l] = high;
  });
}

// ---- decoding ---------------------------------------------------------------------------------------------------------------
template <class Op, int kOp>
void decode_logic(Decoder& d, Instr& i) {
  i.type = d.type_in({Type::Pred, Type::B16, Type::B32, Type::B64});
  if (i.type == Type::Pred) {
    i.op = kOp, i.run = pred_logic;
    i.dst = d.predicate(), i.a = d.predicate(i.flags, 1);
    if (kOp < 3) i.b = d.predicate(i.flags, 2);
    return;
  }
  operands(d, i, register_width(i.type), kOp < 3 ? 2 : 1);
  if constexpr (kOp < 3) i.run = integer_handler<Op>(i.type);
  else i.run = i.type == Type::B64 ? unary<u64, Op> : unary<u32, Op>;
}
int part_bits(Decoder& d, const Instr& i) {
  const size_t n = i.regs.size();
  if ((n != 2 && n != 4) || type_size(i.type) < int(n)) d.refuse("a vector of this length is not supported");
  return type_size(i.type) * 8 / int(n);
}
void decode_mov(Decoder& d, Instr& i) {
  i.type = d.type();
  if (i.type == Type::Pred) {
    i.op = 4, i.run = pred_logic;
    i.dst = d.predicate(), i.a = d.predicate(i.flags, 1);
    return;
  }
  if (i.type == Type::B128) {
    i.regs = d.destinations(8, 2);
    d.more_sources(i, 8, 2), i.run = move_pair;
    return;
  }
  int width = register_width(i.type);
  i.flags = width == 8;
  if (d.peek().kind == Operand::Vector) {
    i.regs = d.destinations(4);
    i.a = d.source(width);
    i.run = unpack, i.imm = part_bits(d, i);
    return;
  }
  i.dst = d.destination(width);
  if (d.peek().kind == Operand::Vector) {
    i.regs = d.sources(4);
    i.run = pack, i.imm = part_bits(d, i);
    return;
  }
  i.a = d.source(width);
  i.run = width == 8 ? unary<u64, Same> : unary<u32, Same>;
}
void decode_shift(Decoder& d, Instr& i) {
  i.type = d.type();
  int width = register_width(i.type);
  i.dst = d.destination(width), i.a = d.source(width), i.b = d.source(4);
  i.imm = type_size(i.type) * 8;
  if (d.name() == "shl") {
    i.run = width == 8 ? shift_left<u64> : shift_left<u32>;
    return;
  }
  if (i.type == Type::S16) i.run = each<u32, shift_right16<s16>>;
  else if (i.type == Type::U16 || i.type == Type::B16) i.run = each<u32, shift_right16<u16>>;
  else i.run = by_integer(i.type, [](auto value) -> Handler { return shift_right<decltype(value)>; });
}
// The comparison of setp and set, with the predicate that it is combined with; their destinations come before the operands.
template <class Destination>
void decode_comparison(Decoder& d, Instr& i, Destination destination) {
  i.mode = d.choose({"and", "or", "xor"}, 3);
  i.type = d.type();
  if (is_float(i.type) && d.take("ftz")) i.flags |= kFtz;
  i.op = decode_compare(d, i.type);
  destination();
  int width = register_width(i.type);
  i.a = d.source(width), i.b = d.source(width);
  if (i.mode < 3) i.c = d.predicate(i.flags, 8);
}
void decode_setp(Decoder& d, Instr& i) {
  decode_comparison(d, i, [&] { d.destination_pair(i, 1); });
  i.run = i.type == Type::F16x2 ? setp_packed<false> : i.type == Type::BF16x2 ? setp_packed<true> : setp;
}
void decode_set(Decoder& d, Instr& i) {
  i.type2 = d.type_in({Type::U32, Type::S32, Type::F32});
  decode_comparison(d, i, [&] { i.dst = d.destination(4); });
  if (i.type == Type::F16x2 || i.type == Type::BF16x2) d.refuse("packed operands are not supported");
  i.run = set_value;
}
void decode_selp(Decoder& d, Instr& i) {
  i.type = d.type();
  int width = register_width(i.type);
  operands(d, i, width, 2);
  i.c = d.predicate(i.flags, 1);
  if (i.flags) std::swap(i.a, i.b);
  i.run = width == 8 ? selp<u64> : selp<u32>;
}
void decode_slct(Decoder& d, Instr& i) {
  i.type = d.type(), i.type2 = d.type_in({Type::S32, Type::F32});
  int width = register_width(i.type);
  operands(d, i, width, 2), i.c = d.source(4);
  i.run = width == 8 ? slct<u64> : slct<u32>;
}
void decode_bfe(Decoder& d, Instr& i) {
  i.type = d.type_in({Type::U32, Type::S32, Type::U64, Type::S64});
  int width = register_width(i.type);
  i.dst = d.destination(width), i.a = d.source(width), i.b = d.source(4), i.c = d.source(4);
  i.run = by_integer(i.type, [](auto value) -> Handler { return bfe<decltype(value)>; });
}
void decode_bfi(Decoder& d, Instr& i) {
  i.type = d.type_in({Type::B32, Type::B64});
  int width = register_width(i.type);
  i.dst = d.destination(width), i.a = d.source(width), i.b = d.source(width), i.c = d.source(4), i.e = d.source(4);
  i.run = width == 8 ? bfi<u64> : bfi<u32>;
}
void decode_prmt(Decoder& d, Instr& i) {
  d.type_in({Type::B32});
  i.mode = d.choose({"", "f4e", "b4e", "rc8", "ecl", "ecr", "rc16"}, 0);
  operands(d, i, 4, 3);
  i.run = each<u32, prmt>;
}
void decode_bits(Decoder& d, Instr& i) {
  const string& n = d.name();
  if (n != "fns") i.mode = d.choose({"clamp", "wrap"}, -1);
  i.type = d.type_in({Type::B32, Type::U32, Type::S32});
  operands(d, i, 4, n == "fns" ? 3 : 2);
  i.run = n == "fns" ? each<u32, find_nth_set> : n == "bmsk" ? each<u32, bit_mask> : each<u32, sign_extend>;
}
void decode_lop3(Decoder& d, Instr& i) {
  d.type_in({Type::B32});
  operands(d, i, 4, 3);
  i.imm = d.immediate(), i.run = lop3;
}
void decode_shf(Decoder& d, Instr& i) {
  d.type_in({Type::B32});
  i.op = d.choose({"l", "r"}, -1), i.mode = d.choose({"clamp", "wrap"}, -1);
  operands(d, i, 4, 3);
  i.run = each<u32, funnel>;
}
void decode_bit_count(Decoder& d, Instr& i) {
  const string& n = d.name();
  i.type = d.type();
  i.op = n == "popc" ? 0 : n == "clz" ? 1 : n == "brev" ? 2 : 3;
  if (i.op == 3) i.mode = d.take("shiftamt");
  int width = register_width(i.type);
  i.dst = d.destination(i.op == 2 ? width : 4), i.a = d.source(width);
  i.run = bit_count;
}
void decode_testp(Decoder& d, Instr& i) {
  i.op = d.choose({"finite", "infinite", "number", "notanumber", "normal", "subnormal"}, -1);
  i.type = d.type_in({Type::F32, Type::F64});
  i.dst = d.predicate(), i.a = d.source(register_width(i.type));
  i.run = testp;
}

}  // namespace

const Opcodes opcodes{{"and", decode_logic<And, 0>}, {"or", decode_logic<Or, 1>}, {"xor", decode_logic<Xor, 2>},
                    {"not", decode_logic<Not, 3>}, {"mov", decode_mov}, {"shl shr", decode_shift}, {"setp", decode_setp},
                    {"set", decode_set}, {"selp", decode_selp}, {"slct", decode_slct}, {"bfe", decode_bfe},
                    {"bfi", decode_bfi}, {"prmt", decode_prmt}, {"lop3", decode_lop3}, {"shf", decode_shf},
                    {"popc clz brev bfind", decode_bit_count}, {"testp", decode_testp}, {"fns bmsk szext", decode_bits}};

}  // namespace emu
