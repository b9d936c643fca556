// Arithmetic and logic: integer, float, packed half; predicates and selection; bit operations.
#include <algorithm>
#include <cfenv>

#include "decoder.hpp"
#include "machine.hpp"

namespace emu {
namespace {

// ---- generic shapes: one, two, three operands of one register type --------------------------------------------------
template <class T, class Op>
void unary(Warp& w, const Instr& i, u32 m) {
  const T* a = reg<T>(w, i.a);
  write_lanes<T>(w, i.dst, m, [=](int l) { return Op::f(a[l]); });
}
template <class T, class Op>
void binary(Warp& w, const Instr& i, u32 m) {
  const T *a = reg<T>(w, i.a), *b = reg<T>(w, i.b);
  write_lanes<T>(w, i.dst, m, [=](int l) { return Op::f(a[l], b[l]); });
}
template <class T, class Op>
void ternary(Warp& w, const Instr& i, u32 m) {
  const T *a = reg<T>(w, i.a), *b = reg<T>(w, i.b), *c = reg<T>(w, i.c);
  write_lanes<T>(w, i.dst, m, [=](int l) { return Op::f(a[l], b[l], c[l]); });
}
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
// 16-bit operands live in the low half of a 32-bit slot
template <class T, class Op>
void binary16(Warp& w, const Instr& i, u32 m) {
  const u32 *a = reg<u32>(w, i.a), *b = reg<u32>(w, i.b);
  write_lanes<u32>(w, i.dst, m, [=](int l) { return u32(u16(Op::f(T(a[l]), T(b[l])))); });
}

#define UNARY(name, expression) struct name { template <class T> static T f(T a) { return T(expression); } };
#define BINARY(name, expression) struct name { template <class T> static T f(T a, T b) { return T(expression); } };
#define TERNARY(name, expression) struct name { template <class T> static T f(T a, T b, T c) { return T(expression); } };
BINARY(Add, a + b) BINARY(Sub, a - b) BINARY(Mul, a * b) BINARY(And, a & b) BINARY(Or, a | b) BINARY(Xor, a ^ b)
BINARY(Min, b < a ? b : a) BINARY(Max, a < b ? b : a) BINARY(Div, a / b)
UNARY(Neg, T(0) - a) UNARY(FloatNeg, -a) UNARY(Not, ~a) UNARY(Abs, a < T(0) ? T(0) - a : a) UNARY(FloatAbs, std::fabs(a))
UNARY(Same, a) UNARY(Rcp, T(1) / a) UNARY(Sqrt, std::sqrt(a)) UNARY(Rsqrt, T(1) / std::sqrt(a))
UNARY(Ex2, std::exp2(a)) UNARY(Lg2, std::log2(a)) UNARY(Sin, std::sin(a)) UNARY(Cos, std::cos(a)) UNARY(Tanh, std::tanh(a))
TERNARY(Mad, a * b + c) TERNARY(Fma, std::fma(a, b, c))
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
void shift_right16(Warp& w, const Instr& i, u32 m) {
  const u32 *a = reg<u32>(w, i.a), *b = reg<u32>(w, i.b);
  write_lanes<u32>(w, i.dst, m, [=](int l) { return u32(u16(s32(T(a[l])) >> std::min(b[l], 16u))); });
}

// ---- floats with rounding, .ftz and .sat --------------------------------------------------------------------------------
enum FloatOp { kAdd, kSub, kMul, kDiv, kFma, kMin, kMax, kNanMin, kNanMax, kRcp, kSqrt, kRsqrt, kEx2, kLg2, kSin, kCos, kTanh,
               kNeg, kAbs };
constexpr int kFtz = 1, kSat = 2, kRelu = 4;

template <class T> T flush(T x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(T(0), x) : x; }

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

// ---- comparisons --------------------------------------------------------------------------------------------------------
enum Compare { EQ, NE, LT, LE, GT, GE, EQU, NEU, LTU, LEU, GTU, GEU, NUM, NANS };
template <class T>
bool compare(int c, T a, T b) {
  bool unordered = a != a || b != b;
  switch (c) {
    case EQ: return a == b;
    case NE: return !unordered && a != b;
    case LT: return a < b;
    case LE: return a <= b;
    case GT: return a > b;
    case GE: return a >= b;
    case EQU: return unordered || a == b;
    case NEU: return unordered || a != b;
    case LTU: return unordered || a < b;
    case LEU: return unordered || a <= b;
    case GTU: return unordered || a > b;
    case GEU: return unordered || a >= b;
    case NUM: return !unordered;
    default: return unordered;
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
struct Half { u16 bits; };
template <class T> T compare_operand(Warp& w, int slot, int l) { return reg<T>(w, slot)[l]; }
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
void setp(Warp& w, const Instr& i, u32 m) {
  u32 r = compare_any(w, i, m);
  if (i.dst >= 0) {
    u32 first = combine(w, i, r), second = combine(w, i, ~r);
    set_pred(w, i.dst, m, first);
    if (i.dst2 >= 0) set_pred(w, i.dst2, m, second);
  } else if (i.dst2 >= 0) set_pred(w, i.dst2, m, combine(w, i, ~r));
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
  u32 first = combine(w, i, r[0]), second = combine(w, i, r[1]);
  set_pred(w, i.dst, m, first);
  if (i.dst2 >= 0) set_pred(w, i.dst2, m, second);
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
void slct(Warp& w, const Instr& i, u32 m) {
  for_lanes(m, [&](int l) {
    bool first = i.type2 == Type::F32 ? reg<float>(w, i.c)[l] >= 0 : reg<s32>(w, i.c)[l] >= 0;
    if (type_size(i.type) == 8) reg<u64>(w, i.dst)[l] = reg<u64>(w, first ? i.a : i.b)[l];
    else reg<u32>(w, i.dst)[l] = reg<u32>(w, first ? i.a : i.b)[l];
  });
}
void pred_logic(Warp& w, const Instr& i, u32 m) {
  u32 a = pred(w, i.a) ^ (i.flags & 1 ? ~0u : 0), b = i.b >= 0 ? pred(w, i.b) ^ (i.flags & 2 ? ~0u : 0) : 0;
  set_pred(w, i.dst, m, i.op == 0 ? a & b : i.op == 1 ? a | b : i.op == 2 ? a ^ b : i.op == 3 ? ~a : a);
}

// ---- bits -----------------------------------------------------------------------------------------------------------------
template <class T>
void bfe(Warp& w, const Instr& i, u32 m) {
  constexpr u32 bits = sizeof(T) * 8;
  for_lanes(m, [&](int l) {
    T a = reg<T>(w, i.a)[l];
    u32 position = reg<u32>(w, i.b)[l] & 255, length = reg<u32>(w, i.c)[l] & 255;
    bool sign = T(-1) < T(0);
    using U = std::make_unsigned_t<T>;
    U r = 0;
    U fill = sign && length ? (U(a) >> std::min(position + length - 1, bits - 1) & 1 ? ~U(0) : U(0)) : U(0);
    for (u32 q = 0; q < bits; ++q) {
      U bit = q < length && position + q < bits ? U(a) >> (position + q) & 1 : fill & 1;
      r |= bit << q;
    }
    reg<T>(w, i.dst)[l] = T(r);
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
void prmt(Warp& w, const Instr& i, u32 m) {
  for_lanes(m, [&](int l) {
    u64 v = reg<u32>(w, i.a)[l] | u64(reg<u32>(w, i.b)[l]) << 32;
    u32 s = reg<u32>(w, i.c)[l], r = 0, n = s & 3;
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
    reg<u32>(w, i.dst)[l] = r;
  });
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
void funnel(Warp& w, const Instr& i, u32 m) {
  for_lanes(m, [&](int l) {
    u64 v = reg<u32>(w, i.a)[l] | u64(reg<u32>(w, i.b)[l]) << 32;
    u32 s = reg<u32>(w, i.c)[l];
    s = i.mode ? s & 31 : std::min(s, 32u);
    reg<u32>(w, i.dst)[l] = i.op ? u32(v >> s) : s == 32 ? u32(v) : u32(v << s >> 32);
  });
}
void bit_count(Warp& w, const Instr& i, u32 m) {
  bool wide = type_size(i.type) == 8;
  for_lanes(m, [&](int l) {
    u64 a = wide ? reg<u64>(w, i.a)[l] : reg<u32>(w, i.a)[l];
    int bits = wide ? 64 : 32;
    if (i.op == 2) {
      u64 r = 0;
      for (int q = 0; q < bits; ++q) r |= (a >> q & 1) << (bits - 1 - q);
      if (wide) reg<u64>(w, i.dst)[l] = r;
      else reg<u32>(w, i.dst)[l] = u32(r);
    } else if (i.op == 3) {   // bfind
      if (is_signed(i.type) && (a >> (bits - 1) & 1)) a = wide ? ~a : u32(~a);
      int top = a ? 63 - __builtin_clzll(a) : -1;
      reg<u32>(w, i.dst)[l] = top >= 0 && i.mode ? u32(bits - 1 - top) : u32(top);
    } else {
      reg<u32>(w, i.dst)[l] = i.op == 0 ? u32(__builtin_popcountll(a)) : a ? u32(__builtin_clzll(a) - (64 - bits)) : u32(bits);
    }
  });
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
void copysign_op(Warp& w, const Instr& i, u32 m) {   // copysign.f32 d, a, b: sign of a, magnitude of b
  const u32 *a = reg<u32>(w, i.a), *b = reg<u32>(w, i.b);
  write_lanes<u32>(w, i.dst, m, [=](int l) { return (a[l] & 0x80000000u) | (b[l] & 0x7FFFFFFFu); });
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
void pack(Warp& w, const Instr& i, u32 m) {          // mov.b32/.b64 d, {a, b, ...}
  int bits = int(i.imm);
  for_lanes(m, [&](int l) {
    u64 r = 0;
    u64 mask = bits == 64 ? ~0ull : (1ull << bits) - 1;
    for (size_t q = 0; q < i.regs.size(); ++q) r |= (reg<u32>(w, i.regs[q])[l] & mask) << (bits * int(q));
    if (i.flags) reg<u64>(w, i.dst)[l] = r;
    else reg<u32>(w, i.dst)[l] = u32(r);
  });
}
void unpack(Warp& w, const Instr& i, u32 m) {        // mov.b32/.b64 {a, b, ...}, s
  int bits = int(i.imm);
  for_lanes(m, [&](int l) {
    u64 v = i.flags ? reg<u64>(w, i.a)[l] : reg<u32>(w, i.a)[l];
    for (size_t q = 0; q < i.regs.size(); ++q)
      if (i.regs[q] >= 0) reg<u32>(w, i.regs[q])[l] = u32(v >> (bits * int(q)) & ((1ull << bits) - 1));
  });
}

// ---- decoding ---------------------------------------------------------------------------------------------------------------
int register_width(Type t) { return type_size(t) == 8 ? 8 : 4; }
void operands(Decoder& d, Instr& i, int width, int count) {
  i.dst = d.destination(width);
  int* slots[] = {&i.a, &i.b, &i.c};
  for (int k = 0; k < count; ++k) *slots[k] = d.source(width);
}
template <class Op>
Handler integer_handler(Type t) {
  switch (t) {
    case Type::U16: case Type::B16: return binary16<u16, Op>;
    case Type::S16: return binary16<s16, Op>;
    case Type::U32: case Type::B32: return binary<u32, Op>;
    case Type::S32: return binary<s32, Op>;
    case Type::U64: case Type::B64: return binary<u64, Op>;
    case Type::S64: return binary<s64, Op>;
    default: return nullptr;
  }
}
bool is_half(Type t) { return t == Type::F16 || t == Type::BF16 || t == Type::F16x2 || t == Type::BF16x2; }

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
  if (is_float(t) || is_half(t)) return decode_float(d, i, t, kOp, 2, binary<float, FloatOpT>, binary<double, FloatOpT>);
  i.type = t;
  if ((kOp == kAdd || kOp == kSub) && t == Type::S32 && d.take("sat"))
    i.run = kOp == kAdd ? Handler(binary<s32, SaturatingAdd>) : Handler(binary<s32, SaturatingSub>);
  else i.run = integer_handler<IntOp>(t);
  operands(d, i, register_width(t), 2);
}
void decode_mul(Decoder& d, Instr& i) {
  Type t = d.type();
  if (is_float(t) || is_half(t)) return decode_float(d, i, t, kMul, 2, binary<float, Mul>, binary<double, Mul>);
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
template <class Op, int kOp>
void decode_logic(Decoder& d, Instr& i) {
  i.type = d.type_in({Type::Pred, Type::B16, Type::B32, Type::B64});
  if (i.type == Type::Pred) {
    i.op = kOp, i.run = pred_logic;
    i.dst = d.predicate();
    bool na = false, nb = false;
    i.a = d.predicate(&na);
    if (kOp < 3) i.b = d.predicate(&nb);
    i.flags = na | nb << 1;
    return;
  }
  operands(d, i, register_width(i.type), kOp < 3 ? 2 : 1);
  if constexpr (kOp < 3) i.run = integer_handler<Op>(i.type);
  else i.run = i.type == Type::B64 ? unary<u64, Op> : unary<u32, Op>;
}
void decode_mov(Decoder& d, Instr& i) {
  i.type = d.type();
  if (i.type == Type::Pred) {
    i.op = 4, i.run = pred_logic;
    i.dst = d.predicate();
    bool negated = false;
    i.a = d.predicate(&negated);
    i.flags = negated;
    return;
  }
  int width = register_width(i.type);
  i.flags = width == 8;
  if (d.peek().kind == Operand::Vector) {
    i.regs = d.destinations(4);
    i.a = d.source(width);
    i.run = unpack, i.imm = type_size(i.type) * 8 / s64(i.regs.size());
    return;
  }
  i.dst = d.destination(width);
  if (d.peek().kind == Operand::Vector) {
    i.regs = d.sources(4);
    i.run = pack, i.imm = type_size(i.type) * 8 / s64(i.regs.size());
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
  switch (i.type) {
    case Type::S16: i.run = shift_right16<s16>; break;
    case Type::U16: case Type::B16: i.run = shift_right16<u16>; break;
    case Type::S32: i.run = shift_right<s32>; break;
    case Type::S64: i.run = shift_right<s64>; break;
    default: i.run = width == 8 ? shift_right<u64> : shift_right<u32>;
  }
}
void decode_combine(Decoder& d, Instr& i, bool has_logic) {
  if (!has_logic) return;
  bool negated = false;
  i.c = d.predicate(&negated);
  if (negated) i.flags |= 8;
}
void decode_setp(Decoder& d, Instr& i) {
  int logic = d.choose({"and", "or", "xor"}, 3);
  i.mode = logic;
  i.type = d.type();
  if (is_float(i.type) && d.take("ftz")) i.flags |= kFtz;
  i.op = decode_compare(d, i.type);
  auto parts = d.split_pair();
  auto slot = [&](const string& text) {
    Operand o = d.parse(text);
    if (o.kind == Operand::Absent) return -1;
    if (o.kind != Operand::Register || o.width != 1) d.refuse("destination " + text + " is not a predicate");
    return o.slot;
  };
  i.dst = slot(parts[0]);
  if (parts.size() > 1) i.dst2 = slot(parts[1]);
  int width = register_width(i.type);
  i.a = d.source(width), i.b = d.source(width);
  i.run = i.type == Type::F16x2 ? setp_packed<false> : i.type == Type::BF16x2 ? setp_packed<true> : setp;
  decode_combine(d, i, logic < 3);
}
void decode_set(Decoder& d, Instr& i) {
  int logic = d.choose({"and", "or", "xor"}, 3);
  i.mode = logic;
  i.type2 = d.type_in({Type::U32, Type::S32, Type::F32});
  i.type = d.type();
  if (i.type == Type::F16x2 || i.type == Type::BF16x2) d.refuse("packed operands are not supported");
  if (is_float(i.type) && d.take("ftz")) i.flags |= kFtz;
  i.op = decode_compare(d, i.type);
  i.dst = d.destination(4);
  int width = register_width(i.type);
  i.a = d.source(width), i.b = d.source(width);
  i.run = set_value;
  decode_combine(d, i, logic < 3);
}
void decode_selp(Decoder& d, Instr& i) {
  i.type = d.type();
  int width = register_width(i.type);
  i.dst = d.destination(width), i.a = d.source(width), i.b = d.source(width);
  bool negated = false;
  i.c = d.predicate(&negated);
  if (negated) std::swap(i.a, i.b);
  i.run = width == 8 ? selp<u64> : selp<u32>;
}
void decode_slct(Decoder& d, Instr& i) {
  i.type = d.type(), i.type2 = d.type_in({Type::S32, Type::F32});
  int width = register_width(i.type);
  i.dst = d.destination(width), i.a = d.source(width), i.b = d.source(width), i.c = d.source(4);
  i.run = slct;
}
void decode_bfe(Decoder& d, Instr& i) {
  i.type = d.type_in({Type::U32, Type::S32, Type::U64, Type::S64});
  int width = register_width(i.type);
  i.dst = d.destination(width), i.a = d.source(width), i.b = d.source(4), i.c = d.source(4);
  i.run = i.type == Type::U32 ? bfe<u32> : i.type == Type::S32 ? bfe<s32> : i.type == Type::U64 ? bfe<u64> : bfe<s64>;
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
  i.run = prmt;
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
  i.run = funnel;
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
void decode_testp(Decoder& d, Instr& i) {
  i.op = d.choose({"finite", "infinite", "number", "notanumber", "normal", "subnormal"}, -1);
  i.type = d.type_in({Type::F32, Type::F64});
  i.dst = d.predicate(), i.a = d.source(register_width(i.type));
  i.run = testp;
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
                    {"and", decode_logic<And, 0>}, {"or", decode_logic<Or, 1>}, {"xor", decode_logic<Xor, 2>},
                    {"not", decode_logic<Not, 3>}, {"mov", decode_mov}, {"shl shr", decode_shift}, {"setp", decode_setp},
                    {"set", decode_set}, {"selp", decode_selp}, {"slct", decode_slct}, {"bfe", decode_bfe},
                    {"bfi", decode_bfi}, {"prmt", decode_prmt}, {"lop3", decode_lop3}, {"shf", decode_shf},
                    {"popc clz brev bfind", decode_bit_count}, {"dp4a dp2a", decode_dp}, {"sad", decode_sad},
                    {"copysign", decode_copysign}, {"testp", decode_testp}});
}

}  // namespace emu
