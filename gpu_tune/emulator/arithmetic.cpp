// Arithmetic on integers, floats and packed halves.
#include <algorithm>
#include <cfenv>

#include "alu.hpp"

namespace emu {
namespace {

BINARY(Add, a + b) BINARY(Sub, a - b) BINARY(Mul, a * b)
BINARY(Min, b < a ? b : a) BINARY(Max, a < b ? b : a) BINARY(Div, a / b)
UNARY(Neg, T(0) - a) UNARY(FloatNeg, -a) UNARY(Abs, a < T(0) ? T(0) - a : a) UNARY(FloatAbs, std::fabs(a))
UNARY(Rcp, T(1) / a) UNARY(Sqrt, std::sqrt(a)) UNARY(Rsqrt, T(1) / std::sqrt(a))
UNARY(Ex2, std::exp2(a)) UNARY(Lg2, std::log2(a)) UNARY(Sin, std::sin(a)) UNARY(Cos, std::cos(a)) UNARY(Tanh, std::tanh(a))
TERNARY(Mad, a * b + c) TERNARY(Fma, std::fma(a, b, c))

// ---- integers -----------------------------------------------------------------------------------------------------------
struct IntDiv {
  template <class T> static T f(T a, T b) {
    if (b == T(0)) return T(-1);
    if (T(-1) < T(0) && b == T(-1)) return T(0) - a;
    return T(a / b);
  }
};
struct IntRem {
  template <class T> static T f(T a, T b) {
    if (b == T(0)) return a;
    if (T(-1) < T(0) && b == T(-1)) return T(0);
    return T(a % b);
  }
};
struct MulHi {
  static u32 f(u32 a, u32 b) { return u32(u64(a) * b >> 32); }
  static s32 f(s32 a, s32 b) { return s32(s64(a) * b >> 32); }
  static u64 f(u64 a, u64 b) { return u64((unsigned __int128)a * b >> 64); }
  static s64 f(s64 a, s64 b) { return s64((__int128)a * b >> 64); }
};
struct MulHi16 { template <class T> static s32 f(T a, T b) { return (s32(a) * s32(b)) >> 16; } };
template <class Hi> struct MadHi { template <class T> static T f(T a, T b, T c) { return T(Hi::f(a, b) + c); } };
struct SaturatingAdd { static s32 f(s32 a, s32 b) {
  s64 r = s64(a) + b;
  return s32(std::clamp<s64>(r, INT32_MIN, INT32_MAX)); } };
struct SaturatingSub { static s32 f(s32 a, s32 b) {
  s64 r = s64(a) - b;
  return s32(std::clamp<s64>(r, INT32_MIN, INT32_MAX)); } };
// add, sub, mad with .cc (the carry goes to the thread's condition code) and addc, subc, madc (it is added)
constexpr int kCarryIn = 1, kCarryOut = 2;
template <class T>
void extended(Warp& w, const Instr& i, u32 m) {
  using Wide = unsigned __int128;
  using Product = std::conditional_t<(T(-1) < T(0)), __int128, Wide>;
  using U = std::make_unsigned_t<T>;
  constexpr int bits = sizeof(T) * 8;
  for_lanes(m, [&](int l) {
    T a = reg<T>(w, i.a)[l], b = reg<T>(w, i.b)[l];
    bool multiplies = i.c >= 0;
    U x = multiplies ? U(Product(a) * Product(b) >> (i.op ? bits : 0)) : U(a), y = multiplies ? U(reg<T>(w, i.c)[l]) : U(b);
    u32 in = i.flags & kCarryIn ? w.carry >> l & 1 : 0;
    Wide r = i.mode ? Wide(x) - y - in : Wide(x) + y + in;
    reg<U>(w, i.dst)[l] = U(r);
    if (i.flags & kCarryOut) w.carry = (w.carry & ~(1u << l)) | u32(r >> bits & 1) << l;
  });
}
template <class T, class W>
void mul_wide(Warp& w, const Instr& i, u32 m) {
  const u32 *a = reg<u32>(w, i.a), *b = reg<u32>(w, i.b);
  write_lanes<W>(w, i.dst, m, [=](int l) { return W(W(T(a[l])) * W(T(b[l]))); });
}
template <class T, class W>
void mad_wide(Warp& w, const Instr& i, u32 m) {
  const u32 *a = reg<u32>(w, i.a), *b = reg<u32>(w, i.b);
  const W* c = reg<W>(w, i.c);
  write_lanes<W>(w, i.dst, m, [=](int l) { return W(W(T(a[l])) * W(T(b[l])) + c[l]); });
}
// 24-bit operands: bits 31..0 (lo) or 47..16 (hi) of the product, plus c
template <class T>
void mul24(Warp& w, const Instr& i, u32 m) {
  const T *a = reg<T>(w, i.a), *b = reg<T>(w, i.b);
  const T* c = i.c >= 0 ? reg<T>(w, i.c) : nullptr;
  write_lanes<T>(w, i.dst, m, [=](int l) {
    s64 x = T(u32(a[l]) << 8) >> 8, y = T(u32(b[l]) << 8) >> 8, part = i.op ? x * y >> 16 : x * y;
    s64 sum = s64(T(part)) + (c ? s64(c[l]) : 0);
    return T(i.flags ? std::clamp<s64>(sum, INT32_MIN, INT32_MAX) : sum);
  });
}
template <class T>
void mad16(Warp& w, const Instr& i, u32 m) {
  const u32 *a = reg<u32>(w, i.a), *b = reg<u32>(w, i.b), *c = reg<u32>(w, i.c);
  write_lanes<u32>(w, i.dst, m, [=](int l) { return u32(u16(a[l] * b[l] + c[l])); });
}
void dot_product(Warp& w, const Instr& i, u32 m) {   // dp4a, dp2a
  for_lanes(m, [&](int l) {
    u32 a = reg<u32>(w, i.a)[l], b = reg<u32>(w, i.b)[l], sum = reg<u32>(w, i.c)[l];
    auto byte = [](u32 v, int q, bool sign) { return sign ? s32(s8(v >> 8 * q)) : s32(u8(v >> 8 * q)); };
    auto half = [](u32 v, int q, bool sign) { return sign ? s32(s16(v >> 16 * q)) : s32(u16(v >> 16 * q)); };
    bool sa = i.type == Type::S32, sb = i.type2 == Type::S32;
    if (i.op == 0) for (int q = 0; q < 4; ++q) sum += u32(byte(a, q, sa) * byte(b, q, sb));
    else for (int q = 0; q < 2; ++q) sum += u32(half(a, q, sa) * byte(b, q + 2 * i.mode, sb));
    reg<u32>(w, i.dst)[l] = sum;
  });
}
void sad(Warp& w, const Instr& i, u32 m) {
  for_lanes(m, [&](int l) {
    s64 a = i.type == Type::S32 ? s64(reg<s32>(w, i.a)[l]) : s64(reg<u32>(w, i.a)[l]);
    s64 b = i.type == Type::S32 ? s64(reg<s32>(w, i.b)[l]) : s64(reg<u32>(w, i.b)[l]);
    reg<u32>(w, i.dst)[l] = reg<u32>(w, i.c)[l] + u32(a < b ? b - a : a - b);
  });
}

// ---- floats with rounding, .ftz and .sat --------------------------------------------------------------------------------
// PTX min/max return the operand that is a number; the NaN forms return the canonical NaN
template <class T> T number_min(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? a : b;
  return a < b ? a : b;
}
template <class T> T number_max(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? b : a;
  return a < b ? b : a;
}
struct FloatMin { template <class T> static T f(T a, T b) { return number_min(a, b); } };
struct FloatMax { template <class T> static T f(T a, T b) { return number_max(a, b); } };
struct NanMin { template <class T> static T f(T a, T b) { return a != a || b != b ? T(NAN) : number_min(a, b); } };
struct NanMax { template <class T> static T f(T a, T b) { return a != a || b != b ? T(NAN) : number_max(a, b); } };

enum FloatOp { kAdd, kSub, kMul, kDiv, kFma, kMin, kMax, kNanMin, kNanMax, kRcp, kSqrt, kRsqrt, kEx2, kLg2, kSin, kCos, kTanh,
               kNeg, kAbs };

template <class T>
__attribute__((noinline)) T float_op(int op, T a, T b, T c) {
  volatile T x = a, y = b, z = c;    // keeps the operation between the changes of rounding mode
  switch (op) {
    case kAdd: return x + y;
    case kSub: return x - y;
    case kMul: return x * y;
    case kDiv: return x / y;
    case kFma: return std::fma(T(x), T(y), T(z));
    case kMin: return number_min(T(x), T(y));
    case kMax: return number_max(T(x), T(y));
    case kNanMin: return NanMin::f(T(x), T(y));
    case kNanMax: return NanMax::f(T(x), T(y));
    case kRcp: return T(1) / x;
    case kSqrt: return std::sqrt(T(x));
    case kRsqrt: return T(1) / std::sqrt(T(x));
    case kEx2: return std::exp2(T(x));
    case kLg2: return std::log2(T(x));
    case kSin: return std::sin(T(x));
    case kCos: return std::cos(T(x));
    case kTanh: return std::tanh(T(x));
    case kNeg: return -x;
    default: return std::fabs(T(x));
  }
}
template <class T>
void float_general(Warp& w, const Instr& i, u32 m) {
  static const int modes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
  int before = std::fegetround();
  std::fesetround(modes[i.mode]);
  bool ftz = i.flags & kFtz;
  for_lanes(m, [&](int l) {
    auto get = [&](int slot) { T x = slot >= 0 ? reg<T>(w, slot)[l] : T(0); return ftz ? flush(x) : x; };
    T r = float_op<T>(i.op, get(i.a), get(i.b), get(i.c));
    if (ftz) r = flush(r);
    if (i.flags & kSat) r = r > T(0) ? (r < T(1) ? r : T(1)) : T(0);
    reg<T>(w, i.dst)[l] = r;
  });
  std::fesetround(before);
}

// f16, bf16 and their packed pairs: computed in double, rounded once
template <bool BF16>
void half_general(Warp& w, const Instr& i, u32 m) {
  int parts = i.imm ? 2 : 1;
  for_lanes(m, [&](int l) {
    u32 r = 0;
    for (int q = 0; q < parts; ++q) {
      auto get = [&](int slot) {
        u16 v = slot >= 0 ? u16(reg<u32>(w, slot)[l] >> (16 * q)) : u16(0);
        float f = BF16 ? bf16_to_float(v) : half_to_float(v);
        return i.flags & kFtz && std::fabs(f) < 6.103515625e-05f ? std::copysign(0.f, f) : f;
      };
      u16 bits;
      if (i.op == kNeg || i.op == kAbs) {
        u16 v = u16(reg<u32>(w, i.a)[l] >> (16 * q));
        bits = i.op == kNeg ? v ^ 0x8000 : v & 0x7FFF;
      } else {
        double x = float_op<double>(i.op, get(i.a), get(i.b), get(i.c));
        if (i.flags & kSat) x = x > 0 ? (x < 1 ? x : 1) : 0;
        if (i.flags & kRelu) x = relu(x);
        bits = BF16 ? round_bf16(x, Round::NearestEven) : round_half(x, Round::NearestEven);
      }
      r |= u32(bits) << (16 * q);
    }
    reg<u32>(w, i.dst)[l] = r;
  });
}
// f32x2: two floats of a 64-bit register; each is rounded on its own
void float_pairs(Warp& w, const Instr& i, u32 m) {
  for_lanes(m, [&](int l) {
    u64 r = 0;
    for (int q = 0; q < 64; q += 32) {
      auto get = [&](int slot) { float x = slot < 0 ? 0 : bit_cast<float>(u32(reg<u64>(w, slot)[l] >> q)); return i.flags & kFtz ? flush(x) : x; };
      float x = float_op<float>(i.op, get(i.a), get(i.b), get(i.c));
      r |= u64(bit_cast<u32>(i.flags & kFtz ? flush(x) : x)) << q;
    }
    reg<u64>(w, i.dst)[l] = r;
  });
}
void copysign_op(Warp& w, const Instr& i, u32 m) {   // copysign.f32 d, a, b: sign of a, magnitude of b
  const u32 *a = reg<u32>(w, i.a), *b = reg<u32>(w, i.b);
  write_lanes<u32>(w, i.dst, m, [=](int l) { return (a[l] & 0x80000000u) | (b[l] & 0x7FFFFFFFu); });
}

// ---- decoding ---------------------------------------------------------------------------------------------------------------
// add, sub, mul, fma, div, min, max, neg, abs and the transcendental functions on floats. `exact` is the handler used when
// no modifier changes the result.
void decode_float(Decoder& d, Instr& i, Type t, int op, int count, Handler f32, Handler f64) {
  i.type = t, i.op = op;
  bool rounds = op <= kFma || op == kRcp || op == kSqrt;
  if (rounds) i.mode = d.choose({"rn", "rz", "rm", "rp"}, 0);
  bool approximate = false;
  if (op >= kRcp && op <= kTanh) approximate = d.take("approx");
  if (op == kDiv) approximate = d.take("approx") || d.take("full");
  (void)approximate;    // the emulator always computes the correctly rounded value
  if (d.take("ftz")) i.flags |= kFtz;
  if ((op <= kMul || op == kFma) && d.take("sat")) i.flags |= kSat;
  if (op == kMin || op == kMax) {
    if (d.take("NaN")) i.op = op == kMin ? kNanMin : kNanMax;
    else op = i.op;
  }
  if (t == Type::F32x2) {
    if (i.mode || i.flags & ~kFtz || (op > kMul && op != kFma)) d.refuse("this form is not supported");
    i.run = float_pairs;
    return operands(d, i, 8, count);
  }
  if (is_half(t)) {
    if (i.mode) d.refuse("half precision rounds to nearest only");
    if (op == kFma && d.take("relu")) i.flags |= kRelu;
    if (op > kFma && op != kMin && op != kMax && op != kNeg && op != kAbs && op != kEx2 && op != kTanh)
      d.refuse("type is not supported");
    i.imm = type_size(t) == 4;
    i.run = t == Type::BF16 || t == Type::BF16x2 ? half_general<true> : half_general<false>;
    operands(d, i, 4, count);
    return;
  }
  if (t != Type::F32 && t != Type::F64) d.refuse("type is not supported");
  bool plain = i.mode == 0 && i.flags == 0 && i.op == op;
  if (plain) i.run = t == Type::F32 ? f32 : f64;
  else i.run = t == Type::F32 ? float_general<float> : float_general<double>;
  operands(d, i, register_width(t), count);
}

void decode_extended(Decoder& d, Instr& i) {
  const string& n = d.name();
  i.flags = (n.back() == 'c' ? kCarryIn : 0) | (d.take("cc") ? kCarryOut : 0);
  i.mode = n[0] == 's';
  if (n[0] == 'm') i.op = d.choose({"lo", "hi"}, -1);
  i.type = d.type_in({Type::U32, Type::S32, Type::U64, Type::S64});
  operands(d, i, register_width(i.type), n[0] == 'm' ? 3 : 2);
  i.run = i.type == Type::U32 ? extended<u32> : i.type == Type::S32 ? extended<s32> : i.type == Type::U64 ? extended<u64> : extended<s64>;
}
template <class IntOp, class FloatOpT, int kOp>
void decode_add_like(Decoder& d, Instr& i) {
  if (d.position("cc") >= 0) return decode_extended(d, i);
  Type t = d.type();
  if (is_float(t) || is_half(t) || t == Type::F32x2) return decode_float(d, i, t, kOp, 2, binary<float, FloatOpT>, binary<double, FloatOpT>);
  i.type = t;
  if ((kOp == kAdd || kOp == kSub) && t == Type::S32 && d.take("sat"))
    i.run = kOp == kAdd ? Handler(binary<s32, SaturatingAdd>) : Handler(binary<s32, SaturatingSub>);
  else i.run = integer_handler<IntOp>(t);
  operands(d, i, register_width(t), 2);
}
void decode_mul(Decoder& d, Instr& i) {
  Type t = d.type();
  if (is_float(t) || is_half(t) || t == Type::F32x2) return decode_float(d, i, t, kMul, 2, binary<float, Mul>, binary<double, Mul>);
  int part = d.choose({"lo", "hi", "wide"}, 0);
  i.type = t;
  if (part == 2) {
    i.dst = d.destination(type_size(t) == 4 ? 8 : 4);
    i.a = d.source(4), i.b = d.source(4);
    i.run = t == Type::U32 ? mul_wide<u32, u64> : t == Type::S32 ? mul_wide<s32, s64> : t == Type::U16 ? mul_wide<u16, u32>
            : t == Type::S16 ? mul_wide<s16, s32> : Handler(nullptr);
    return;
  }
  operands(d, i, register_width(t), 2);
  if (part == 0) i.run = integer_handler<Mul>(t);
  else switch (t) {
    case Type::U32: i.run = binary<u32, MulHi>; break;
    case Type::S32: i.run = binary<s32, MulHi>; break;
    case Type::U64: i.run = binary<u64, MulHi>; break;
    case Type::S64: i.run = binary<s64, MulHi>; break;
    case Type::U16: i.run = binary16<u16, MulHi16>; break;
    case Type::S16: i.run = binary16<s16, MulHi16>; break;
    default: break;
  }
}
void decode_fma(Decoder& d, Instr& i) {
  Type t = d.type();
  decode_float(d, i, t, kFma, 3, ternary<float, Fma>, ternary<double, Fma>);
}
void decode_mad(Decoder& d, Instr& i) {
  if (d.position("cc") >= 0) return decode_extended(d, i);
  Type t = d.type();
  if (is_float(t)) return decode_float(d, i, t, kFma, 3, ternary<float, Fma>, ternary<double, Fma>);
  int part = d.choose({"lo", "hi", "wide"}, -1);
  i.type = t;
  if (part == 2) {
    int wide = type_size(t) == 4 ? 8 : 4;
    i.dst = d.destination(wide);
    i.a = d.source(4), i.b = d.source(4), i.c = d.source(wide);
    i.run = t == Type::U32 ? mad_wide<u32, u64> : t == Type::S32 ? mad_wide<s32, s64> : t == Type::U16 ? mad_wide<u16, u32>
            : t == Type::S16 ? mad_wide<s16, s32> : Handler(nullptr);
    return;
  }
  operands(d, i, register_width(t), 3);
  switch (t) {
    case Type::U16: case Type::S16: i.run = part ? Handler(nullptr) : mad16<u16>; break;
    case Type::U32: i.run = part ? ternary<u32, MadHi<MulHi>> : ternary<u32, Mad>; break;
    case Type::S32: i.run = part ? ternary<s32, MadHi<MulHi>> : ternary<u32, Mad>; break;
    case Type::U64: i.run = part ? ternary<u64, MadHi<MulHi>> : ternary<u64, Mad>; break;
    case Type::S64: i.run = part ? ternary<s64, MadHi<MulHi>> : ternary<u64, Mad>; break;
    default: break;
  }
}
void decode_mul24(Decoder& d, Instr& i) {
  bool add = d.name() == "mad24";
  i.op = d.choose({"lo", "hi"}, -1);
  i.type = d.type_in({Type::U32, Type::S32});
  if (add && i.op && i.type == Type::S32) i.flags = d.take("sat");
  operands(d, i, 4, add ? 3 : 2);
  i.run = i.type == Type::U32 ? mul24<u32> : mul24<s32>;
}
void decode_div(Decoder& d, Instr& i) {
  Type t = d.type();
  if (is_float(t)) return decode_float(d, i, t, kDiv, 2, binary<float, Div>, binary<double, Div>);
  i.type = t, i.run = integer_handler<IntDiv>(t);
  operands(d, i, register_width(t), 2);
}
void decode_rem(Decoder& d, Instr& i) {
  i.type = d.type(), i.run = integer_handler<IntRem>(i.type);
  operands(d, i, register_width(i.type), 2);
}
template <bool kIsMin>
void decode_min_max(Decoder& d, Instr& i) {
  Type t = d.type();
  if (is_float(t) || is_half(t)) {
    if (kIsMin) return decode_float(d, i, t, kMin, 2, binary<float, FloatMin>, binary<double, FloatMin>);
    return decode_float(d, i, t, kMax, 2, binary<float, FloatMax>, binary<double, FloatMax>);
  }
  i.type = t, i.run = kIsMin ? integer_handler<Min>(t) : integer_handler<Max>(t);
  if (d.take("relu")) d.refuse("modifier .relu is not supported");
  operands(d, i, register_width(t), 2);
}
void decode_neg(Decoder& d, Instr& i) {
  Type t = d.type();
  if (is_float(t) || is_half(t)) return decode_float(d, i, t, kNeg, 1, unary<float, FloatNeg>, unary<double, FloatNeg>);
  i.type = t;
  i.run = type_size(t) == 8 ? unary<u64, Neg> : unary<u32, Neg>;
  operands(d, i, register_width(t), 1);
}
void decode_abs(Decoder& d, Instr& i) {
  Type t = d.type();
  if (is_float(t) || is_half(t)) return decode_float(d, i, t, kAbs, 1, unary<float, FloatAbs>, unary<double, FloatAbs>);
  i.type = t;
  i.run = t == Type::S32 ? unary<s32, Abs> : t == Type::S64 ? unary<s64, Abs> : Handler(nullptr);
  operands(d, i, register_width(t), 1);
}
template <class Op, int kOp>
void decode_function(Decoder& d, Instr& i) {
  Type t = d.type();
  decode_float(d, i, t, kOp, 1, unary<float, Op>, unary<double, Op>);
}
void decode_dp(Decoder& d, Instr& i) {
  i.op = d.name() == "dp4a" ? 0 : 1;
  if (i.op) i.mode = d.choose({"lo", "hi"}, -1);
  i.type = d.type_in({Type::U32, Type::S32}), i.type2 = d.type_in({Type::U32, Type::S32});
  operands(d, i, 4, 3);
  i.run = dot_product;
}
void decode_sad(Decoder& d, Instr& i) {
  i.type = d.type_in({Type::U32, Type::S32});
  operands(d, i, 4, 3);
  i.run = sad;
}
void decode_copysign(Decoder& d, Instr& i) {
  d.type_in({Type::F32});
  operands(d, i, 4, 2);
  i.run = copysign_op;
}

}  // namespace

void register_arithmetic() {
  register_opcodes({{"add", decode_add_like<Add, Add, kAdd>}, {"sub", decode_add_like<Sub, Sub, kSub>},
                    {"addc subc madc", decode_extended}, {"mul", decode_mul}, {"mul24 mad24", decode_mul24},
                    {"fma", decode_fma}, {"mad", decode_mad}, {"div", decode_div}, {"rem", decode_rem},
                    {"min", decode_min_max<true>}, {"max", decode_min_max<false>}, {"neg", decode_neg}, {"abs", decode_abs},
                    {"rcp", decode_function<Rcp, kRcp>}, {"sqrt", decode_function<Sqrt, kSqrt>},
                    {"rsqrt", decode_function<Rsqrt, kRsqrt>}, {"ex2", decode_function<Ex2, kEx2>},
                    {"lg2", decode_function<Lg2, kLg2>}, {"sin", decode_function<Sin, kSin>},
                    {"cos", decode_function<Cos, kCos>}, {"tanh", decode_function<Tanh, kTanh>},
                    {"dp4a dp2a", decode_dp}, {"sad", decode_sad}, {"copysign", decode_copysign}});
}

}  // namespace emu
