// cvt between all types, and cvta between address windows.
#include <algorithm>

#include "decoder.hpp"
#include "machine.hpp"

namespace emu {
namespace {

// Instr fields: type destination, type2 source, mode rounding, flags below.
constexpr int kSat = 1, kFtz = 2, kRelu = 4, kToInteger = 8, kSatFinite = 16, kWideDst = 32, kWideSrc = 64;

double read_float(Warp& w, int slot, Type t, int l) {
  switch (t) {
    case Type::F32: return reg<float>(w, slot)[l];
    case Type::F64: return reg<double>(w, slot)[l];
    case Type::F16: return half_to_float(u16(reg<u32>(w, slot)[l]));
    default: return bf16_to_float(u16(reg<u32>(w, slot)[l]));
  }
}
void write_float(Warp& w, const Instr& i, int l, double x, Round r) {
  switch (i.type) {
    case Type::F32: {
      float f = round_float(x, r);
      if (i.flags & kFtz && std::fpclassify(f) == FP_SUBNORMAL) f = std::copysign(0.f, f);
      reg<float>(w, i.dst)[l] = f;
      break;
    }
    case Type::F64: reg<double>(w, i.dst)[l] = x; break;
    case Type::F16: reg<u32>(w, i.dst)[l] = round_half(x, r); break;
    default: reg<u32>(w, i.dst)[l] = round_bf16(x, r);
  }
}
struct Limits { double low, high; };
Limits limits(Type t) {
  const int bits = 8 * type_size(t);
  return is_signed(t) ? Limits{-std::ldexp(1, bits - 1), std::ldexp(1, bits - 1) - 1} : Limits{0, std::ldexp(1, bits) - 1};
}
u64 extended(Type t, u64 v) {       // a value of type t in a wider register
  const int above = 64 - 8 * type_size(t);
  return is_signed(t) ? u64(s64(v << above) >> above) : v << above >> above;
}
void write_integer(Warp& w, const Instr& i, int l, u64 v) {
  set_bits(w, i.dst, l, i.flags & kWideDst, extended(i.type, v));
}
u64 read_integer(Warp& w, const Instr& i, int l) { return extended(i.type2, bits_of(w, i.a, l, i.flags & kWideSrc)); }
void float_to_float(Warp& w, const Instr& i, u32 m) {
  for_lanes(m, [&](int l) {
    double x = read_float(w, i.a, i.type2, l);
    if (i.flags & kFtz && i.type2 == Type::F32 && std::fpclassify(float(x)) == FP_SUBNORMAL) x = std::copysign(0.0, x);
    if (i.flags & kToInteger) x = to_integral(x, Round(i.mode));
    if (i.flags & kSat) x = x > 0 ? (x < 1 ? x : 1) : 0;
    if (i.flags & kRelu) x = relu(x);
    write_float(w, i, l, x, i.flags & kToInteger ? Round::NearestEven : Round(i.mode));
  });
}
void float_to_integer(Warp& w, const Instr& i, u32 m) {
  Limits range = limits(i.type);
  for_lanes(m, [&](int l) {
    double x = to_integral(read_float(w, i.a, i.type2, l), Round(i.mode));
    u64 v;
    if (x != x) v = i.type == Type::U64 || i.type == Type::S64 ? 0x8000000000000000ull : 0;
    else if (x <= range.low) v = is_signed(i.type) ? u64(s64(range.low)) : 0;
    else if (x >= range.high)
      v = i.type == Type::U64 ? ~0ull : i.type == Type::S64 ? 0x7FFFFFFFFFFFFFFFull : u64(s64(range.high));
    else v = i.type == Type::U64 ? u64(x) : u64(s64(x));
    write_integer(w, i, l, v);
  });
}
void integer_to_float(Warp& w, const Instr& i, u32 m) {
  for_lanes(m, [&](int l) {
    u64 v = read_integer(w, i, l);
    bool sign = is_signed(i.type2);
    if (i.mode == int(Round::NearestEven)) {      // one rounding, straight from the integer
      if (i.type == Type::F32) { reg<float>(w, i.dst)[l] = sign ? float(s64(v)) : float(v); return; }
      if (i.type == Type::F64) { reg<double>(w, i.dst)[l] = sign ? double(s64(v)) : double(v); return; }
    }
    // a directed rounding: into a double in the same direction first, then into the type, is one rounding
    long double exact = sign ? (long double)s64(v) : (long double)v;
    double x = double(exact);
    Round r = Round(i.mode);
    if ((r == Round::Down && x > exact) || (r == Round::Zero && std::fabs(x) > std::fabs(exact)))
      x = std::nextafter(x, r == Round::Down ? -INFINITY : 0.0);
    if (r == Round::Up && x < exact) x = std::nextafter(x, INFINITY);
    write_float(w, i, l, x, r);
  });
}
void integer_to_integer(Warp& w, const Instr& i, u32 m) {
  Limits range = limits(i.type);
  for_lanes(m, [&](int l) {
    u64 v = read_integer(w, i, l);
    if (i.flags & kSat) {
      long double x = is_signed(i.type2) ? (long double)s64(v) : (long double)v;
      if (x < range.low) v = u64(s64(range.low));
      else if (i.type == Type::S64 ? x > 9223372036854775807.0L : x > range.high) v = i.type == Type::S64 ? 0x7FFFFFFFFFFFFFFFull : u64(s64(range.high));
    }
    write_integer(w, i, l, v);
  });
}
// the usual conversions, which the compiler vectorises
template <class To, class From, class F>
void convert_lanes(Warp& w, const Instr& i, u32 m, F f) {
  const From* a = reg<From>(w, i.a);
  write_lanes<To>(w, i.dst, m, [=](int l) { return To(f(a[l])); });
}
template <class To, class From>
void resize(Warp& w, const Instr& i, u32 m) { convert_lanes<To, From>(w, i, m, [](From x) { return x; }); }
void half_to_f32(Warp& w, const Instr& i, u32 m) { convert_lanes<float, u32>(w, i, m, [](u32 x) { return half_to_float(u16(x)); }); }
void f32_to_half(Warp& w, const Instr& i, u32 m) { convert_lanes<u32, float>(w, i, m, float_to_half); }
void f32_to_bf16(Warp& w, const Instr& i, u32 m) { convert_lanes<u32, float>(w, i, m, float_to_bf16); }

// cvt.{rn,rz}[.relu].{f16x2,bf16x2}.f32 d, high, low
void pack_halves(Warp& w, const Instr& i, u32 m) {
  const float *high = reg<float>(w, i.a), *low = reg<float>(w, i.b);
  bool bf16 = i.type == Type::BF16x2;
  if (i.flags == 0 && i.mode == 0) {
    if (bf16)
      write_lanes<u32>(w, i.dst, m, [=](int l) { return u32(float_to_bf16(low[l])) | u32(float_to_bf16(high[l])) << 16; });
    else
      write_lanes<u32>(w, i.dst, m, [=](int l) { return u32(float_to_half(low[l])) | u32(float_to_half(high[l])) << 16; });
    return;
  }
  for_lanes(m, [&](int l) {
    auto one = [&](double x) -> u32 {
      if (i.flags & kRelu) x = relu(x);
      return bf16 ? round_bf16(x, Round(i.mode)) : round_half(x, Round(i.mode));
    };
    reg<u32>(w, i.dst)[l] = one(low[l]) | one(high[l]) << 16;
  });
}
// cvt.rn.satfinite[.relu].{e4m3x2,e5m2x2}.{f32 d, high, low | f16x2 d, pair}
void pack_fp8(Warp& w, const Instr& i, u32 m) {
  for_lanes(m, [&](int l) {
    double x[2];
    if (i.type2 == Type::F32) x[0] = reg<float>(w, i.b)[l], x[1] = reg<float>(w, i.a)[l];
    else for (int q = 0; q < 2; ++q) x[q] = half_to_float(u16(reg<u32>(w, i.a)[l] >> 16 * q));
    u32 r = 0;
    for (int q = 0; q < 2; ++q) {
      if (i.flags & kRelu) x[q] = relu(x[q]);
      r |= u32(i.type == Type::E4M3x2 ? float_to_e4m3(x[q]) : float_to_e5m2(x[q])) << 8 * q;
    }
    reg<u32>(w, i.dst)[l] = r;
  });
}
void unpack_fp8(Warp& w, const Instr& i, u32 m) {    // cvt.rn[.relu].f16x2.{e4m3x2,e5m2x2}
  for_lanes(m, [&](int l) {
    u32 v = reg<u32>(w, i.a)[l], r = 0;
    for (int q = 0; q < 2; ++q) {
      float x = i.type2 == Type::E4M3x2 ? e4m3_to_float(u8(v >> 8 * q)) : e5m2_to_float(u8(v >> 8 * q));
      if (i.flags & kRelu) x = relu(x);
      r |= u32(float_to_half(x)) << 16 * q;
    }
    reg<u32>(w, i.dst)[l] = r;
  });
}
void to_tf32(Warp& w, const Instr& i, u32 m) {
  const float* a = reg<float>(w, i.a);
  write_lanes<u32>(w, i.dst, m, [=](int l) {
    float x = a[l];
    if (i.flags & kRelu) x = relu(x);
    return round_tf32(x, Round(i.mode));
  });
}

// cvt.pack.sat.{u16,s16}.s32 d, a, b and cvt.pack.sat.{u8,s8,u4,s4,u2,s2}.s32.b32 d, a, b, c: b below a, c above both
void pack_integers(Warp& w, const Instr& i, u32 m) {
  const int bits = i.op;
  const s64 low = i.flags ? -(1ll << (bits - 1)) : 0, high = (i.flags ? 1ll << (bits - 1) : 1ll << bits) - 1;
  const s32 *a = reg<s32>(w, i.a), *b = reg<s32>(w, i.b);
  const u32* c = i.c >= 0 ? reg<u32>(w, i.c) : nullptr;
  auto field = [=](s32 v) { return u32(std::clamp<s64>(v, low, high)) & ((1u << bits) - 1); };
  write_lanes<u32>(w, i.dst, m, [=](int l) { return field(b[l]) | field(a[l]) << bits | (c ? c[l] << 2 * bits : 0); });
}
void decode_pack(Decoder& d, Instr& i) {
  d.require("sat");
  Type to = d.type_in({Type::U16, Type::S16, Type::U8, Type::S8, Type::U4, Type::S4, Type::U2, Type::S2});
  d.type_in({Type::S32});
  i.op = to == Type::U16 || to == Type::S16 ? 16 : to == Type::U8 || to == Type::S8 ? 8 : to == Type::U4 || to == Type::S4 ? 4 : 2;
  i.flags = to == Type::S16 || to == Type::S8 || to == Type::S4 || to == Type::S2;
  if (i.op < 16) d.type_in({Type::B32});
  i.dst = d.destination(4), i.a = d.source(4), i.b = d.source(4);
  if (i.op < 16) i.c = d.source(4);
  i.run = pack_integers;
}

bool is_packed_fp8(Type t) { return t == Type::E4M3x2 || t == Type::E5M2x2; }

void decode_cvt(Decoder& d, Instr& i) {
  if (d.take("pack")) return decode_pack(d, i);
  i.type = d.type(), i.type2 = d.type();
  Type to = i.type, from = i.type2;
  int rounding = d.choose({"rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi"}, 9);
  if (rounding >= 5 && rounding < 9) i.flags |= kToInteger, i.mode = rounding - 5;
  else i.mode = rounding == 9 ? 0 : rounding;
  if (d.take("sat")) i.flags |= kSat;
  if (d.take("ftz")) i.flags |= kFtz;
  if (d.take("relu")) i.flags |= kRelu;
  if (d.take("satfinite")) i.flags |= kSatFinite;
  if (to == Type::F16x2 && is_packed_fp8(from)) {
    i.dst = d.destination(4), i.a = d.source(4), i.run = unpack_fp8;
  } else if (to == Type::F16x2 || to == Type::BF16x2) {
    if (from != Type::F32 || i.flags & ~kRelu) d.refuse("this conversion is not supported");
    i.dst = d.destination(4), i.a = d.source(4), i.b = d.source(4), i.run = pack_halves;
  } else if (is_packed_fp8(to)) {
    if (!(i.flags & kSatFinite) || i.mode || (from != Type::F32 && from != Type::F16x2))
      d.refuse("this conversion is not supported");
    i.dst = d.destination(4), i.a = d.source(4), i.run = pack_fp8;
    if (from == Type::F32) i.b = d.source(4);
  } else if (to == Type::TF32) {
    if (from != Type::F32) d.refuse("this conversion is not supported");
    i.dst = d.destination(4), i.a = d.source(4), i.run = to_tf32;
  } else {
    Operand destination = d.operand(), source = d.operand();
    if (destination.kind != Operand::Register || destination.width == 1 || destination.width > 8) d.refuse("the destination is not a register");
    i.dst = destination.slot;
    if (destination.width == 8) i.flags |= kWideDst;
    int width = source.kind == Operand::Register ? source.width : type_size(from) == 8 ? 8 : 4;
    if (width == 8) i.flags |= kWideSrc;
    if (width > 8) d.refuse("the source has the wrong width");
    i.a = d.slot_of(source, width);
    if (i.flags & kSatFinite || i.mode == int(Round::NearestAway)) d.refuse("this conversion is not supported");
    if ((is_float(from) && type_size(from) == 8) != (width == 8) && is_float(from)) d.refuse("the source has the wrong width");
    if (is_float(from) && is_float(to)) i.run = float_to_float;
    else if (is_float(from)) {
      if (!(i.flags & kToInteger)) d.refuse("a conversion to integer needs .rni, .rzi, .rmi or .rpi");
      i.run = float_to_integer;
    } else i.run = is_float(to) ? integer_to_float : integer_to_integer;
    if (type_size(to) == 0 || type_size(from) == 0 || to == Type::Pred || from == Type::Pred) d.refuse("type is not supported");
    int extra = i.flags & ~(kWideDst | kWideSrc);
    bool plain = extra == 0 && i.mode == 0;
    if (plain && to == Type::U64 && from == Type::U32 && width == 4) i.run = resize<u64, u32>;
    if (plain && to == Type::S64 && from == Type::S32 && width == 4) i.run = resize<s64, s32>;
    if (plain && to == Type::U32 && from == Type::U64 && destination.width == 4) i.run = resize<u32, u64>;
    if (plain && to == Type::F32 && from == Type::F16) i.run = half_to_f32;
    if (plain && to == Type::F16 && from == Type::F32) i.run = f32_to_half;
    if (plain && to == Type::BF16 && from == Type::F32) i.run = f32_to_bf16;
  }
}

// cvta: the windows of the generic space; global addresses and 64-bit ones of parameters are generic already
void convert_address(Warp& w, const Instr& i, u32 m) {
  u64 window = i.space == Space::Shared ? kSharedWindow : i.space == Space::Local ? kLocalWindow : 0;
  u64 base = i.space == Space::Param ? kParamWindow : 0;
  const u64* a = reg<u64>(w, i.a);
  bool to = i.op;
  write_lanes<u64>(w, i.dst, m, [=](int l) { return to ? a[l] - window : (a[l] + window) | base; });
}
void decode_cvta(Decoder& d, Instr& i) {
  i.op = d.take("to");
  i.space = d.space(Space::Generic);
  d.type_in({Type::U64});
  i.dst = d.destination(8), i.a = d.source(8);
  i.run = convert_address;
}
void is_space(Warp& w, const Instr& i, u32 m) {
  u32 r = 0;
  for_lanes(m, [&](int l) { r |= u32(space_of(reg<u64>(w, i.a)[l]) == i.space) << l; });
  set_pred(w, i.dst, m, r);
}
void decode_isspacep(Decoder& d, Instr& i) {
  i.space = d.space(Space::Generic);
  i.dst = d.predicate(), i.a = d.source(8), i.run = is_space;
}

}  // namespace

const Opcodes opcodes{{"cvt", decode_cvt}, {"cvta", decode_cvta}, {"isspacep", decode_isspacep}};

}  // namespace emu
