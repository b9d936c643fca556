// wmma: whole-warp matrices in fragments. PTX leaves open which lane holds which element; here accumulators of m16n16 lie as those
// of mma.m16n8 do, and all others in order of rows.
#include <algorithm>

#include "decoder.hpp"
#include "machine.hpp"

namespace emu {
namespace {

// Instr: type = element, op = role (0 a, 1 b, 2 c or d), imm = memory is column-major, flags = rows << 8 | columns, regs = fragment.
struct Layout {
  int rows, columns, per, count;                 // elements a register; registers
  bool accumulator;
  Layout(int role, int flags, Type t, size_t registers)
      : rows(flags >> 8), columns(flags & 255), per(type_size(t) >= 4 ? 1 : 4 / type_size(t)), count(int(registers)),
        accumulator(role == 2 && rows == 16 && columns == 16) {}
  int element(int lane, int q) const {           // row * columns + column of a lane's q-th element
    if (accumulator) return ((lane >> 2) + 8 * (q >> 1 & 1)) * columns + (q >> 2) * 8 + 2 * (lane & 3) + (q & 1);
    return (lane * count * per + q) % (rows * columns);
  }
};
double number(Type t, u64 bits) {
  switch (t) {
    case Type::F16: return half_to_float(u16(bits));
    case Type::BF16: return bf16_to_float(u16(bits));
    case Type::TF32: return tf32_to_float(u32(bits));
    case Type::F32: return bit_cast<float>(u32(bits));
    case Type::F64: return bit_cast<double>(bits);
    case Type::S8: return s8(bits);
    case Type::U8: return u8(bits);
    default: return s32(bits);
  }
}
template <class F>
void for_fragment(Warp& w, const Instr& i, int first, int count, int role, int flags, Type t, F f) {   // f(element, lane, bits&)
  const Layout layout(role, flags, t, size_t(count));
  const int bits = 8 * type_size(t);
  for (int l = 0; l < 32; ++l)
    for (int q = 0; q < count * layout.per; ++q) {
      const int slot = i.regs[size_t(first + q / layout.per)], shift = q % layout.per * bits;
      const u64 all = bits_of(w, slot, l, bits == 64), old = all >> shift & (bits == 64 ? ~0ull : (1ull << bits) - 1);
      u64 value = old;
      f(layout.element(l, q), l, value);
      if (value != old) set_bits(w, slot, l, bits == 64, all ^ (value ^ old) << shift);
    }
}
void transfer(Warp& w, const Instr& i, u32) {      // wmma.load, wmma.store
  const bool store = i.mode;
  const int rows = i.flags >> 8, columns = i.flags & 255, size = type_size(i.type);
  for_fragment(w, i, 0, int(i.regs.size()), i.op, i.flags, i.type, [&](int at, int lane, u64& value) {
    const u32 stride = i.b >= 0 ? reg<u32>(w, i.b)[lane] : u32(i.imm ? rows : columns), row = u32(at / columns), column = u32(at % columns);
    const u64 address = address_of(w, i.mem, lane) + u64(i.imm ? column * stride + row : row * stride + column) * u64(size);
    u8* p = access(w, i.space, address, u32(size), store, lane, store ? "wmma.store" : "wmma.load");
    if (!p) value = store ? value : 0;
    else if (store) memcpy(p, &value, size_t(size));
    else value = 0, memcpy(&value, p, size_t(size));
  });
  if (store) ++w.machine->progress;
}
// Instr: regs = D, A, B, C; op = m << 16 | n << 8 | k; type = A and B, type2 = D, imm = C's type; a, b, c = registers of A, B, C
void multiply(Warp& w, const Instr& i, u32) {
  const int M = i.op >> 16, N = i.op >> 8 & 255, K = i.op & 255, nd = i.mode, na = i.flags >> 16, nb = i.flags >> 8 & 255;
  const Type tc = Type(i.imm);
  double a[32 * 16], b[16 * 32], sum[32 * 32];
  for_fragment(w, i, nd, na, 0, M << 8 | K, i.type, [&](int at, int, u64& v) { a[at] = number(i.type, v); });
  for_fragment(w, i, nd + na, nb, 1, K << 8 | N, i.type, [&](int at, int, u64& v) { b[at] = number(i.type, v); });
  for_fragment(w, i, nd + na + nb, int(i.regs.size()) - nd - na - nb, 2, M << 8 | N, tc, [&](int at, int, u64& v) { sum[at] = number(tc, v); });
  for (int r = 0; r < M; ++r)
    for (int c = 0; c < N; ++c)
      for (int k = 0; k < K; ++k) sum[r * N + c] = std::fma(a[r * K + k], b[k * N + c], sum[r * N + c]);
  for_fragment(w, i, 0, nd, 2, M << 8 | N, i.type2, [&](int at, int, u64& v) {
    const double x = sum[at];
    v = i.type2 == Type::F16 ? round_half(x, Round::NearestEven) : i.type2 == Type::F32 ? bit_cast<u32>(float(x)) : i.type2 == Type::F64
        ? bit_cast<u64>(x) : u32(i.flags & 1 ? s64(std::clamp(x, -2147483648.0, 2147483647.0)) : s64(x));
  });
}
void decode_wmma(Decoder& d, Instr& i) {
  const int form = d.choose({"load", "store", "mma"}, -1);
  int role = form == 0 ? d.choose({"a", "b", "c"}, -1) : 2;
  if (form == 1) d.require("d");
  d.require("sync"), d.require("aligned");
  const bool column_major = d.choose({"row", "col"}, -1);
  if (form == 2 && !d.take("row")) d.require("col");     // fragments hold matrices: how they lay in memory is past
  int m = 0, n = 0, k = 0;
  string shape = d.modifier_starting("m");
  if (sscanf(shape.c_str(), "m%dn%dk%d", &m, &n, &k) != 3 || m > 32 || n > 32 || k > 16 || m < 8 || n < 8 || k < 4) d.refuse("the shape is not supported");
  auto count = [&](int which, Type t) {            // registers of a fragment
    const int elements = which == 0 ? m * k : which == 1 ? k * n : m * n;
    return t == Type::F16 && which < 2 ? 8 : elements * type_size(t) / (t == Type::F64 ? 256 : 128);
  };
  i.flow = Flow::Aligned;
  if (form < 2) {
    i.space = d.space(Space::Generic);
    i.type = d.type_in({Type::F16, Type::BF16, Type::TF32, Type::F32, Type::F64, Type::S8, Type::U8, Type::S32});
    const int width = i.type == Type::F64 ? 8 : 4;
    i.op = role, i.mode = form, i.imm = column_major;
    i.flags = role == 0 ? m << 8 | k : role == 1 ? k << 8 | n : m << 8 | n;
    if (form == 0) i.regs = d.destinations(width, count(role, i.type));
    i.mem = d.address();
    if (form == 1) i.regs = d.sources(width, count(2, i.type));
    if (d.left()) i.b = d.source(4);
    d.kernel().note_access(i.space, type_size(i.type));
    i.run = transfer;
    return;
  }
  d.take("rn");
  i.type2 = d.type_in({Type::F16, Type::F32, Type::F64, Type::S32}), i.type = d.type();
  Type tb = d.maybe_type(), tc = tb == Type::None ? i.type : d.type();
  if (tb == Type::None) i.type = tb = Type::F16;    // .dtype.ctype: of f16
  if (i.type != tb || m * n * k == 0 || type_size(i.type) == 0 || type_size(tc) == 0) d.refuse("this combination of types is not supported");
  const int na = count(0, i.type), nb = count(1, tb), width = i.type == Type::F64 ? 8 : 4;
  i.op = m << 16 | n << 8 | k, i.imm = s64(tc), i.mode = count(2, i.type2);
  i.flags = na << 16 | nb << 8 | int(d.take("satfinite"));
  i.regs = d.destinations(width, i.mode);
  for (int c : {na, nb, count(2, tc)}) d.more_sources(i, width, c);
  i.run = multiply;
}

}  // namespace

const Opcodes opcodes{{"wmma", decode_wmma}};

}  // namespace emu
