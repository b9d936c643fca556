// What arithmetic and logic share: handlers of one, two or three operands of one register type, and their decoding.
#pragma once
#include <cmath>

#include "decoder.hpp"
#include "machine.hpp"

namespace emu {

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
// 16-bit operands live in the low half of a 32-bit slot
template <class T, class Op>
void binary16(Warp& w, const Instr& i, u32 m) {
  const u32 *a = reg<u32>(w, i.a), *b = reg<u32>(w, i.b);
  write_lanes<u32>(w, i.dst, m, [=](int l) { return u32(u16(Op::f(T(a[l]), T(b[l])))); });
}

// What f says lane by lane, of operands a, b and c (0 where there is none).
template <class T, T (*f)(const Instr&, T, T, T)>
void each(Warp& w, const Instr& i, u32 m) {
  static const T none[32] = {};
  auto at = [&](int slot) { return slot < 0 ? none : reg<T>(w, slot); };
  const T *a = at(i.a), *b = at(i.b), *c = at(i.c);
  write_lanes<T>(w, i.dst, m, [=, &i](int l) { return f(i, a[l], b[l], c[l]); });
}

#define UNARY(name, expression) struct name { template <class T> static T f(T a) { return T(expression); } };
#define BINARY(name, expression) struct name { template <class T> static T f(T a, T b) { return T(expression); } };
#define TERNARY(name, expression) struct name { template <class T> static T f(T a, T b, T c) { return T(expression); } };

// Instr::flags of operations on floats
constexpr int kFtz = 1, kSat = 2, kRelu = 4;
template <class T> T flush(T x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(T(0), x) : x; }

inline int register_width(Type t) { return type_size(t) == 8 ? 8 : 4; }
inline void operands(Decoder& d, Instr& i, int width, int count) {
  i.dst = d.destination(width);
  int* slots[] = {&i.a, &i.b, &i.c};
  for (int k = 0; k < count; ++k) *slots[k] = d.source(width);
}
// The handler that f gives for a value of the integer type; null for other types.
template <class F>
Handler by_integer(Type t, F f) {
  switch (t) {
    case Type::U32: case Type::B32: return f(u32());
    case Type::S32: return f(s32());
    case Type::U64: case Type::B64: return f(u64());
    case Type::S64: return f(s64());
    default: return nullptr;
  }
}
template <class Op>
Handler integer_handler(Type t) {
  if (t == Type::S16) return binary16<s16, Op>;
  if (t == Type::U16 || t == Type::B16) return binary16<u16, Op>;
  return by_integer(t, [](auto value) -> Handler { return binary<decltype(value), Op>; });
}
inline bool is_half(Type t) { return t == Type::F16 || t == Type::BF16 || t == Type::F16x2 || t == Type::BF16x2; }

}  // namespace emu
