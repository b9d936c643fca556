// Arithmetic on integers, floats and packed halves.
#include <algorithm>
#include <cfenv>

#include "alu.hpp"

namespace emu {
namespace {

// ---- integers -----------------------------------------------------------------------------------------------------------
BINARY(Add, a + b) BINARY(Sub, a - b) BINARY(Mul, a * b) BINARY(Min, b < a ? b : a) BINARY(Max, a < b ? b : a)
BINARY(Div, b == T(0) ? T(-1) : T(-1) < T(0) && b == T(-1) ? T(0) - a : a / b)
BINARY(Rem, b == T(0) ? a : T(-1) < T(0) && b == T(-1) ? T(0) : a % b)
UNARY(Neg, T(std::make_unsigned_t<T>(0) - std::make_unsigned_t<T>(a))) UNARY(Abs, a < T(0) ? T(0) - a : a)
TERNARY(Mad, a * b + c)
template <class T> struct Doubled;
template <> struct Doubled<u16> { using type = u32; };
template <> struct Doubled<s16> { using type = s32; };
template <> struct Doubled<u32> { using type = u64; };
template <> struct Doubled<s32> { using type = s64; };
template <> struct Doubled<u64> { using type = unsigned __int128; };
template <> struct Doubled<s64> { using type = __int128; };
struct MulHi { template <class T> static T f(T a, T b) { return T(typename Doubled<T>::type(a) * b >> 8 * sizeof(T)); } };
TERNARY(MadHi, MulHi::f(a, b) + c)
s32 saturated(s64 x) { return s32(std::clamp<s64>(x, INT32_MIN, INT32_MAX)); }
BINARY(SaturatingAdd, saturated(s64(a) + b)) BINARY(SaturatingSub, saturated(s64(a) - b))
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
template <class T>
void mad_wide(Warp& w, const Instr& i, u32 m) {      // mul.wide, and mad.wide, which has a c
  using W = typename Doubled<T>::type;
  static const W none[32] = {};
  const u32 *a = reg<u32>(w, i.a), *b = reg<u32>(w, i.b);
  const W* c = i.c < 0 ? none : reg<W>(w, i.c);
  write_lanes<W>(w, i.dst, m, [=](int l) { return W(W(T(a[l])) * W(T(b[l])) + c[l]); });
}
// 24-bit operands: bits 31..0 (lo) or 47..16 (hi) of the product, plus c
template <class T>
T mul24(const Instr& i, T a, T b, T c) {
  const s64 x = T(u32(a) << 8) >> 8, y = T(u32(b) << 8) >> 8, sum = s64(T(i.op ? x * y >> 16 : x * y)) + s64(c);
  return T(i.flags ? saturated(sum) : sum);
}
u32 mad16(const Instr&, u32 a, u32 b, u32 c) { return u32(u16(a * b + c)); }
u32 dot_product(const Instr& i, u32 a, u32 b, u32 sum) {   // dp4a, dp2a
  auto byte = [](u32 v, int q, bool sign) { return sign ? s32(s8(v >> 8 * q)) : s32(u8(v >> 8 * q)); };
  auto half = [](u32 v, int q, bool sign) { return sign ? s32(s16(v >> 16 * q)) : s32(u16(v >> 16 * q)); };
  bool sa = i.type == Type::S32, sb = i.type2 == Type::S32;
  if (i.op == 0) for (int q = 0; q < 4; ++q) sum += u32(byte(a, q, sa) * byte(b, q, sb));
  else for (int q = 0; q < 2; ++q) sum += u32(half(a, q, sa) * byte(b, q + 2 * i.mode, sb));
  return sum;
}
u32 sad(const Instr& i, u32 x, u32 y, u32 sum) {
  const s64 a = i.type == Type::S32 ? s64(s32(x)) : s64(x), b = i.type == Type::S32 ? s64(s32(y)) : s64(y);
  return sum + u32(a < b ? b - a : a - b);
}

// ---- floats with rounding, .ftz and .sat --------------------------------------------------------------------------------
// PTX min/max return the operand that is a number; the NaN forms return the canonical NaN
template <class T> T number_min(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? a : b;
  return a < b ? a : b;
}
template <class T> T number_max(T a, T b) { return -number_min(-a, -b); }

// What each operation computes of a, b and c, as far as it has them.
#define FLOAT_OPERATIONS(F) \
  F(Add, a + b) F(Sub, a - b) F(Mul, a * b) F(Div, a / b) F(Fma, std::fma(a, b, c)) F(Min, number_min(a, b)) F(Max, number_max(a, b)) \
  F(NanMin, a != a || b != b ? T(NAN) : number_min(a, b)) F(NanMax, a != a || b != b ? T(NAN) : number_max(a, b)) \
  F(Rcp, T(1) / a) F(Sqrt, std::sqrt(a)) F(Rsqrt, T(1) / std::sqrt(a)) F(Ex2, std::exp2(a)) F(Lg2, std::log2(a)) \
  F(Sin, std::sin(a)) F(Cos, std::cos(a)) F(Tanh, std::tanh(a)) F(Neg, -a) F(Abs, std::fabs(a))
#define FLOAT_NUMBER(name, expression) k##name,
#define FLOAT_STRUCT(name, expression) \
  struct Float##name { \
    static constexpr int number = k##name; \
    template <class T> static T f(T a, T b = T(0), T c = T(0)) { return T(expression); } \
  };
#define FLOAT_CASE(name, expression) case k##name: return Float##name::f<T>(x, y, z);
enum FloatOp { FLOAT_OPERATIONS(FLOAT_NUMBER) };
FLOAT_OPERATIONS(FLOAT_STRUCT)

template <class T>
__attribute__((noinline)) T float_op(int op, T a, T b, T c) {
  volatile T x = a, y = b, z = c;    // keeps the operation between the changes of rounding mode
  switch (op) { FLOAT_OPERATIONS(FLOAT_CASE) }
  return x;
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
// copysign.f32 d, a, b: sign of a, magnitude of b
u32 copy_sign(const Instr&, u32 a, u32 b, u32) { return (a & 0x80000000u) | (b & 0x7FFFFFFFu); }

// ---- decoding ---------------------------------------------------------------------------------------------------------------
// add, sub, mul, fma, div, min, max, neg, abs and the transcendental functions on floats; f32 and f64 are the handlers used when
// no modifier changes the result.
void decode_float(Decoder& d, Instr& i, Type t, int op, int count, Handler f32, Handler f64) {
  i.type = t, i.op = op;
  bool rounds = op <= kFma || op == kRcp || op == kSqrt;
  if (rounds) i.mode = d.choose({"rn", "rz", "rm", "rp"}, 0);
  if (op == kDiv || (op >= kRcp && op <= kTanh)) d.take("approx");      // computed here is always the correctly rounded value
  if (op == kDiv) d.take("full");
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
    return operands(d, i, 4, count);
  }
  if (t != Type::F32 && t != Type::F64) d.refuse("type is not supported");
  bool plain = i.mode == 0 && i.flags == 0 && i.op == op;
  if (plain) i.run = t == Type::F32 ? f32 : f64;
  else i.run = t == Type::F32 ? float_general<float> : float_general<double>;
  operands(d, i, register_width(t), count);
}

template <class Op, int kCount>
void decode_float(Decoder& d, Instr& i, Type t) {
  if constexpr (kCount == 1) decode_float(d, i, t, Op::number, 1, unary<float, Op>, unary<double, Op>);
  else if constexpr (kCount == 2) decode_float(d, i, t, Op::number, 2, binary<float, Op>, binary<double, Op>);
  else decode_float(d, i, t, Op::number, 3, ternary<float, Op>, ternary<double, Op>);
}
void decode_extended(Decoder& d, Instr& i) {
  const string& n = d.name();
  i.flags = (n.back() == 'c' ? kCarryIn : 0) | (d.take("cc") ? kCarryOut : 0);
  i.mode = n[0] == 's';
  if (n[0] == 'm') i.op = d.choose({"lo", "hi"}, -1);
  i.type = d.type_in({Type::U32, Type::S32, Type::U64, Type::S64});
  operands(d, i, register_width(i.type), n[0] == 'm' ? 3 : 2);
  i.run = by_integer(i.type, [](auto value) -> Handler { return extended<decltype(value)>; });
}
bool has_float(Type t) { return is_float(t) || is_half(t) || t == Type::F32x2; }
template <class IntOp, class FloatOp>
void decode_add_like(Decoder& d, Instr& i) {
  constexpr int op = FloatOp::number;
  if (d.position("cc") >= 0) return decode_extended(d, i);
  Type t = d.type();
  if (has_float(t)) return decode_float<FloatOp, 2>(d, i, t);
  i.type = t;
  if ((op == kAdd || op == kSub) && t == Type::S32 && d.take("sat"))
    i.run = op == kAdd ? Handler(binary<s32, SaturatingAdd>) : Handler(binary<s32, SaturatingSub>);
  else i.run = integer_handler<IntOp>(t);
  operands(d, i, register_width(t), 2);
}
void decode_wide(Decoder& d, Instr& i, bool add) {
  const int wide = type_size(i.type) == 4 ? 8 : 4;
  i.dst = d.destination(wide), i.a = d.source(4), i.b = d.source(4);
  if (add) i.c = d.source(wide);
  i.run = i.type == Type::U32 ? mad_wide<u32> : i.type == Type::S32 ? mad_wide<s32> : i.type == Type::U16 ? mad_wide<u16>
          : i.type == Type::S16 ? mad_wide<s16> : Handler(nullptr);
}
void decode_mul(Decoder& d, Instr& i) {
  Type t = d.type();
  if (has_float(t)) return decode_float<FloatMul, 2>(d, i, t);
  int part = d.choose({"lo", "hi", "wide"}, 0);
  i.type = t;
  if (part == 2) return decode_wide(d, i, false);
  operands(d, i, register_width(t), 2);
  i.run = part ? integer_handler<MulHi>(t) : integer_handler<Mul>(t);
}
void decode_mad(Decoder& d, Instr& i) {
  if (d.position("cc") >= 0) return decode_extended(d, i);
  Type t = d.type();
  if (is_float(t)) return decode_float<FloatFma, 3>(d, i, t);
  int part = d.choose({"lo", "hi", "wide"}, -1);
  i.type = t;
  if (part == 2) return decode_wide(d, i, true);
  operands(d, i, register_width(t), 3);
  switch (t) {
    case Type::U16: case Type::S16: i.run = part ? Handler(nullptr) : each<u32, mad16>; break;
    case Type::U32: i.run = part ? ternary<u32, MadHi> : ternary<u32, Mad>; break;
    case Type::S32: i.run = part ? ternary<s32, MadHi> : ternary<u32, Mad>; break;
    case Type::U64: i.run = part ? ternary<u64, MadHi> : ternary<u64, Mad>; break;
    case Type::S64: i.run = part ? ternary<s64, MadHi> : ternary<u64, Mad>; break;
    default: break;
  }
}
void decode_mul24(Decoder& d, Instr& i) {
  bool add = d.name() == "mad24";
  i.op = d.choose({"lo", "hi"}, -1);
  i.type = d.type_in({Type::U32, Type::S32});
  if (add && i.op && i.type == Type::S32) i.flags = d.take("sat");
  operands(d, i, 4, add ? 3 : 2);
  i.run = i.type == Type::U32 ? each<u32, mul24<u32>> : each<s32, mul24<s32>>;
}
void decode_rem(Decoder& d, Instr& i) {
  i.type = d.type(), i.run = integer_handler<Rem>(i.type);
  operands(d, i, register_width(i.type), 2);
}
template <class IntOp, class FloatOp>
void decode_sign(Decoder& d, Instr& i) {        // neg, abs
  Type t = d.type();
  if (is_float(t) || is_half(t)) return decode_float<FloatOp, 1>(d, i, t);
  i.type = t;
  if (FloatOp::number == kNeg || t == Type::S32 || t == Type::S64) i.run = type_size(t) == 8 ? unary<s64, IntOp> : unary<s32, IntOp>;
  operands(d, i, register_width(t), 1);
}
template <class Op, int kCount = 1>
void decode_function(Decoder& d, Instr& i) { decode_float<Op, kCount>(d, i, d.type()); }
void decode_dp(Decoder& d, Instr& i) {
  i.op = d.name() == "dp4a" ? 0 : 1;
  if (i.op) i.mode = d.choose({"lo", "hi"}, -1);
  i.type = d.type_in({Type::U32, Type::S32}), i.type2 = d.type_in({Type::U32, Type::S32});
  operands(d, i, 4, 3);
  i.run = each<u32, dot_product>;
}
void decode_sad(Decoder& d, Instr& i) {
  i.type = d.type_in({Type::U32, Type::S32});
  operands(d, i, 4, 3);
  i.run = each<u32, sad>;
}
void decode_copysign(Decoder& d, Instr& i) {
  d.type_in({Type::F32});
  operands(d, i, 4, 2);
  i.run = each<u32, copy_sign>;
}

}  // namespace

const Opcodes opcodes{{"add", decode_add_like<Add, FloatAdd>}, {"sub", decode_add_like<Sub, FloatSub>}, {"addc subc madc", decode_extended},
                      {"mul", decode_mul}, {"mul24 mad24", decode_mul24}, {"fma", decode_function<FloatFma, 3>}, {"mad", decode_mad},
                      {"div", decode_add_like<Div, FloatDiv>}, {"rem", decode_rem}, {"min", decode_add_like<Min, FloatMin>},
                      {"max", decode_add_like<Max, FloatMax>}, {"neg", decode_sign<Neg, FloatNeg>}, {"abs", decode_sign<Abs, FloatAbs>},
                      {"rcp", decode_function<FloatRcp>}, {"sqrt", decode_function<FloatSqrt>}, {"rsqrt", decode_function<FloatRsqrt>},
                      {"ex2", decode_function<FloatEx2>}, {"lg2", decode_function<FloatLg2>}, {"sin", decode_function<FloatSin>},
                      {"cos", decode_function<FloatCos>}, {"tanh", decode_function<FloatTanh>}, {"dp4a dp2a", decode_dp},
                      {"sad", decode_sad}, {"copysign", decode_copysign}};

}  // namespace emu
