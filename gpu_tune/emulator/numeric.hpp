// Number formats: IEEE half, bfloat16, tf32, the two fp8 formats, and conversions between them.
#pragma once
#include <cmath>

#include "core.hpp"
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace emu {

template <class To, class From>
inline To bit_cast(From f) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To t;
  memcpy(&t, &f, sizeof t);
  return t;
}

inline float half_to_float(u16 h) {
#if defined(__F16C__)
  return _cvtsh_ss(h);
#else
  u32 sign = (h & 0x8000u) << 16, e = (h >> 10) & 31, m = h & 1023;
  if (e == 31) return bit_cast<float>(sign | 0x7F800000u | m << 13);
  if (e) return bit_cast<float>(sign | (e + 112) << 23 | m << 13);
  float f = std::ldexp(float(m), -24);
  return sign ? -f : f;
#endif
}

// Round to nearest even. Arithmetic results that are NaN become the canonical 0x7FFF.
inline u16 float_to_half(float f) {
  if (f != f) return 0x7FFF;
#if defined(__F16C__)
  return _cvtss_sh(f, 0);
#else
  u32 u = bit_cast<u32>(f), sign = (u >> 16) & 0x8000;
  u &= 0x7FFFFFFF;
  if (u >= 0x477FF000) return u16(sign | 0x7C00);
  if (u < 0x38800000) return u16(sign | u16(std::nearbyint(std::ldexp(bit_cast<float>(u), 24))));
  u -= 112u << 23;
  return u16(sign | (u + 0xFFF + ((u >> 13) & 1)) >> 13);
#endif
}

inline float bf16_to_float(u16 h) { return bit_cast<float>(u32(h) << 16); }
inline u16 float_to_bf16(float f) {
  if (f != f) return 0x7FFF;
  u32 u = bit_cast<u32>(f);
  return u16((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}

// The tensor cores read the upper 19 bits of a .tf32 register.
inline float tf32_to_float(u32 u) { return bit_cast<float>(u & 0xFFFFE000u); }

// e4m3: no infinities, 0x7F / 0xFF are NaN, largest 448. e5m2: like a half with 2 mantissa bits.
inline float e5m2_to_float(u8 v) { return half_to_float(u16(v << 8)); }
inline float e4m3_to_float(u8 v) {
  int e = (v >> 3) & 15, m = v & 7;
  float f = e == 15 && m == 7 ? NAN : e ? std::ldexp(float(8 + m), e - 10) : std::ldexp(float(m), -9);
  return v & 0x80 ? -f : f;
}

enum class Round : u8 { NearestEven, Zero, Down, Up, NearestAway };

inline double to_integral(double x, Round r) {
  switch (r) {
    case Round::NearestEven: return std::nearbyint(x);
    case Round::Zero: return std::trunc(x);
    case Round::Down: return std::floor(x);
    case Round::Up: return std::ceil(x);
    default: return std::round(x);
  }
}
// Round x to a format with `mantissa` explicit bits whose smallest normal exponent is `min_exponent`; exact for doubles.
inline double round_to(double x, int mantissa, int min_exponent, Round r) {
  if (x == 0 || !std::isfinite(x)) return x;
  int e = std::max(std::ilogb(x), min_exponent) - mantissa;
  return std::copysign(std::ldexp(to_integral(std::ldexp(x, -e), r), e), x);
}

// A double rounded to float in direction r (the double is taken as exact).
inline float round_float(double x, Round r) {
  if (r == Round::NearestEven || !std::isfinite(x)) return float(x);
  double y = round_to(x, 23, -126, r);
  if (std::fabs(y) > 3.4028234663852886e38) {
    bool away = r == Round::NearestAway || (r == Round::Up && y > 0) || (r == Round::Down && y < 0);
    return std::copysign(away ? INFINITY : 3.40282347e38f, float(y));
  }
  return float(y);
}
// The same for a 16-bit format; beyond its largest number comes infinity, or that number when r does not lead away from zero.
inline u16 round_small(double x, Round r, int mantissa, int min_exponent, double largest, u16 infinity) {
  if (x != x) return 0x7FFF;
  const u16 sign = x < 0 ? 0x8000 : 0;
  if (std::isinf(x)) return sign | infinity;
  double y = round_to(x, mantissa, min_exponent, r);
  if (std::fabs(y) <= largest) return mantissa == 7 ? u16(bit_cast<u32>(float(y)) >> 16) : float_to_half(float(y));
  bool to_zero = r == Round::Zero || (r == Round::Up && x < 0) || (r == Round::Down && x > 0);
  return u16(sign | (infinity - to_zero));
}
inline u16 round_half(double x, Round r) { return round_small(x, r, 10, -14, 65504, 0x7C00); }
inline u16 round_bf16(double x, Round r) { return round_small(x, r, 7, -126, 3.3895313892515355e38, 0x7F80); }
inline u32 round_tf32(float f, Round r) {
  u32 u = bit_cast<u32>(f);
  if (f != f) return 0x7FFFFFFF;
  if ((u & 0x7F800000) == 0x7F800000) return u;
  if (r == Round::NearestAway) u += 0x1000;
  else if (r == Round::NearestEven) u += 0xFFF + ((u >> 13) & 1);
  return u & 0xFFFFE000u;
}

// cvt.rn.satfinite to fp8: NaN stays NaN, everything beyond the largest finite value becomes it.
inline u8 float_to_e4m3(double x) {
  u8 sign = std::signbit(x) ? 0x80 : 0;
  if (x != x) return 0x7F;
  double y = std::fabs(std::isinf(x) ? x : round_to(x, 3, -6, Round::NearestEven));
  if (y >= 448) return sign | 0x7E;
  if (y < 0.015625) return u8(sign | u8(y * 512));
  int e = std::ilogb(y);
  return u8(sign | (e + 7) << 3 | (int(std::ldexp(y, 3 - e)) & 7));
}
inline u8 float_to_e5m2(double x) {
  u8 sign = std::signbit(x) ? 0x80 : 0;
  if (x != x) return 0x7F;
  double y = std::isinf(x) ? x : round_to(x, 2, -14, Round::NearestEven);
  if (std::fabs(y) > 57344) return sign | 0x7B;
  return u8(float_to_half(float(y)) >> 8);
}

template <class T> T relu(T x) { return x > 0 || x != x ? x : T(0); }    // NaN stays NaN

struct Rng {   // xorshift64: every choice of the run comes from here
  u64 state = 1;
  explicit Rng(u64 seed = 0) : state(0x9E3779B97F4A7C15ull * (seed + 1) | 1) {
    for (int i = 0; i < 4; ++i) next();
  }
  u32 next() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return u32(state >> 32);
  }
  u32 below(u32 n) { return u32(u64(next()) * n >> 32); }
};

}  // namespace emu
