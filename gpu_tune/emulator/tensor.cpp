// Tensor cores: ldmatrix, stmatrix, mma.sync, wgmma. Products are exact, sums are float (the device's order and rounding of
// sums is not specified); integers are exact.
#include <algorithm>

#include "decoder.hpp"
#include "lanes.hpp"
#if defined(__FMA__) && defined(__AVX2__)
#include <immintrin.h>
#endif

namespace emu {
namespace {

// ---- ldmatrix, stmatrix -------------------------------------------------------------------------------------------------------
// Each 8x8 matrix of 16-bit elements comes from 8 row addresses of 16 bytes; lane l holds row l/4, columns 2*(l%4), +1.
void count_rows(Warp& w, const u32* rows, bool store) { w.machine->statistics.count(store, matrix_wavefronts(rows), 1); }
// Addresses of `count` rows, those of matrix k by lanes 8k .. 8k+7, after all checks.
void matrix_rows(Warp& w, const Instr& i, u32 count, bool write, const char* what, u32* rows, u8** at) {
  bool own = true;
  for (u32 lane = 0; lane < count; ++lane) {
    rows[lane] = shared_address_of(w, i.mem, int(lane));
    if (rows[lane] & 15) w.machine->stop("alignment", format("%s row address (lane %u) is no multiple of 16", what, lane), &w);
    Cta& cta = shared_target(w, rows[lane]);
    own &= &cta == w.cta, at[lane] = cta.shared.data() + rows[lane];
    if (&cta != w.cta) check_access(cta, rows[lane], 16, write, {&w, int(lane), w.agent, &w.clock, false, what});
  }
  if (own) check_lanes(*w.cta, rows, count < 32 ? (1u << count) - 1 : ~0u, 16, write, {&w, 0, w.agent, &w.clock, false, what});
}
// Lane l's register of a transposed matrix.
u32 pair_of_column(const u16 (*matrix)[8], int l) { return matrix[(l & 3) * 2][l >> 2] | u32(matrix[(l & 3) * 2 + 1][l >> 2]) << 16; }
void load_matrix(Warp& w, const Instr& i, u32) {
  const u32 n = u32(i.regs.size());
  u32 rows[32];
  u8* at[32];
  w.defers = true;
  matrix_rows(w, i, 8 * n, false, "ldmatrix", rows, at);
  w.defers = false;
  if (!w.fresh.empty()) taint_matrices(w, i);
  for (u32 k = 0; k < n; ++k) {
    u16 matrix[8][8];
    for (int q = 0; q < 8; ++q) memcpy(matrix[q], at[8 * k + u32(q)], 16);
    count_rows(w, rows + 8 * k, false);
    u32* d = reg<u32>(w, i.regs[k]);
    if (!i.op) memcpy(d, matrix, sizeof matrix);
    else for (int l = 0; l < 32; ++l) d[l] = pair_of_column(matrix, l);
  }
}
void store_matrix(Warp& w, const Instr& i, u32) {
  const u32 n = u32(i.regs.size());
  u32 rows[32];
  u8* at[32];
  matrix_rows(w, i, 8 * n, true, "stmatrix", rows, at);
  for (u32 k = 0; k < n; ++k) {
    u16 matrix[8][8];
    const u32* s = reg<u32>(w, i.regs[k]);
    if (!i.op) memcpy(matrix, s, sizeof matrix);
    else for (int l = 0; l < 32; ++l) matrix[(l & 3) * 2][l >> 2] = u16(s[l]), matrix[(l & 3) * 2 + 1][l >> 2] = u16(s[l] >> 16);
    for (int q = 0; q < 8; ++q) memcpy(at[8 * k + u32(q)], matrix[q], 16);
    count_rows(w, rows + 8 * k, true);
  }
  ++w.machine->progress;
}
void transpose_matrix(Warp& w, const Instr& i, u32) {
  u16 matrix[8][8];
  memcpy(matrix, reg<u32>(w, i.a), sizeof matrix);
  for (int l = 0; l < 32; ++l) reg<u32>(w, i.dst)[l] = pair_of_column(matrix, l);
}
void decode_movmatrix(Decoder& d, Instr& i) {
  d.require("sync"), d.require("aligned"), d.require("m8n8"), d.require("trans"), d.type_in({Type::B16});
  i.dst = d.destination(4), i.a = d.source(4);
  i.flow = Flow::Aligned, i.run = transpose_matrix;
}
void decode_matrix(Decoder& d, Instr& i) {
  bool load = d.name() == "ldmatrix";
  d.require("sync"), d.require("aligned"), d.require("m8n8");
  int count = 1 << d.choose({"x1", "x2", "x4"}, -1);
  i.op = d.take("trans");
  d.space(Space::Generic);
  d.type_in({Type::B16});
  if (load) i.regs = d.destinations(4, count), i.mem = d.address();
  else i.mem = d.address(), i.regs = d.sources(4, count);
  i.flow = Flow::Aligned, i.run = load ? load_matrix : store_matrix;
}

// ---- element formats of fragments -----------------------------------------------------------------------------------------------
int element_bits(Type t) { return type_size(t) * 8; }
struct Fp8Table {
  float value[2][256];
  Fp8Table() {
    for (int v = 0; v < 256; ++v) value[0][v] = e4m3_to_float(u8(v)), value[1][v] = e5m2_to_float(u8(v));
  }
};
// n consecutive elements packed in bytes at p, as floats; n is a multiple of 4, and of 8 for 16-bit types
void unpack_elements(Type t, const u8* p, int n, float* out) {
  static const Fp8Table table;
  switch (t) {
    case Type::F16:
#if defined(__F16C__)
      for (int q = 0; q < n; q += 8)
        _mm256_storeu_ps(out + q, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 2 * q))));
#else
      for (int q = 0; q < n; ++q) out[q] = half_to_float(load_from<u16>(p + 2 * q));
#endif
      break;
    case Type::BF16:
#if defined(__AVX2__)
      for (int q = 0; q < n; q += 8) {
        const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 2 * q)));
        _mm256_storeu_ps(out + q, _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
      }
      break;
#endif
      for (int q = 0; q < n; ++q) out[q] = bf16_to_float(load_from<u16>(p + 2 * q));
      break;
    case Type::TF32: for (int q = 0; q < n; ++q) out[q] = tf32_to_float(load_from<u32>(p + 4 * q)); break;
    case Type::E4M3: for (int q = 0; q < n; ++q) out[q] = table.value[0][p[q]]; break;
    case Type::E5M2: for (int q = 0; q < n; ++q) out[q] = table.value[1][p[q]]; break;
    case Type::S8: for (int q = 0; q < n; ++q) out[q] = float(s8(p[q])); break;
    default: for (int q = 0; q < n; ++q) out[q] = float(p[q]);
  }
}
// Fragment A of a 16 x K tile: register r of lane l holds row l/4 + 8*(r%2), and E = 32/bits columns from
// E*(l%4) + 4*E*(r/2). B of a K x 8 tile: column l/4, rows from E*(l%4) + 4*E*r. So the four lanes of a group hold 4*E
// neighbours.
template <class F>
void for_group(Type t, F f) {      // with 4*E as a constant
  switch (type_size(t)) {
    case 1: return f(std::integral_constant<int, 16>());
    case 2: return f(std::integral_constant<int, 8>());
    default: return f(std::integral_constant<int, 4>());
  }
}
void fragment_a(Type t, const u32* const* regs, int count, float (*a)[32]) {
  for_group(t, [=](auto size) {
    constexpr int group = decltype(size)::value;
    float values[8][group];
    for (int r = 0; r < count; ++r) {
      unpack_elements(t, reinterpret_cast<const u8*>(regs[r]), 8 * group, values[0]);
      for (int g = 0; g < 8; ++g) memcpy(&a[g + 8 * (r & 1)][group * (r >> 1)], values[g], sizeof values[g]);
    }
  });
}
inline float multiply_add(float x, float y, float z) {
#if defined(__FMA__)
  return __builtin_fmaf(x, y, z);
#else
  return x * y + z;
#endif
}
// out[r][0..width) += sum over k of a[r][k] * b[k][0..width) for some rows at once, with the sums in registers
template <int rows, int width, int stride>
void multiply_rows(const float* a, int a_stride, int K, const float* b, float* out, int out_stride) {
#if defined(__FMA__) && defined(__AVX2__)
  constexpr int parts = width / 8;
  __m256 sums[rows][parts];
  for (int r = 0; r < rows; ++r) for (int q = 0; q < parts; ++q) sums[r][q] = _mm256_loadu_ps(out + r * out_stride + 8 * q);
  for (int k = 0; k < K; ++k, b += stride)
    for (int q = 0; q < parts; ++q)
      for (int r = 0; r < rows; ++r)
        sums[r][q] = _mm256_fmadd_ps(_mm256_set1_ps(a[r * a_stride + k]), _mm256_loadu_ps(b + 8 * q), sums[r][q]);
  for (int r = 0; r < rows; ++r) for (int q = 0; q < parts; ++q) _mm256_storeu_ps(out + r * out_stride + 8 * q, sums[r][q]);
#else
  for (int r = 0; r < rows; ++r)
    for (int k = 0; k < K; ++k)
      for (int n = 0; n < width; ++n) out[r * out_stride + n] = multiply_add(a[r * a_stride + k], b[k * stride + n], out[r * out_stride + n]);
#endif
}

// out[k][0..4) = rows[0..4)[k], in rows of 256; K is a multiple of 4
void transpose_rows(const float (*rows)[64], int K, float* out) {
  for (int k = 0; k < K; k += 4, out += 4 * 256) {
#if defined(__AVX2__)
    __m128 x[4];
    for (int q = 0; q < 4; ++q) x[q] = _mm_loadu_ps(rows[q] + k);
    _MM_TRANSPOSE4_PS(x[0], x[1], x[2], x[3]);
    for (int q = 0; q < 4; ++q) _mm_storeu_ps(out + 256 * q, x[q]);
#else
    for (int q = 0; q < 16; ++q) out[256 * (q / 4) + q % 4] = rows[q % 4][k + q / 4];
#endif
  }
}

// ---- mma.sync -----------------------------------------------------------------------------------------------------------------------
// Instr: regs = D, A, B, C in order; op = K, mode = number of A registers, type = A's, type2 = D's type, imm = B's type,
// flags: .satfinite, and 8 rows instead of 16; of mma.sp: e = metadata, flags >> 4 = selector.
constexpr int kMmaSaturates = 1, kEightRows = 2;
// Sparse products: of four neighbours along K (for tf32: of two, each of which counts twice) A holds two (one), and the metadata says
// which: two bits each, in ascending order. The metadata of rows r and r + 8 lies in the four lanes from 4r on: 16-bit and
// larger elements have both rows in one word, r below, and 16 bits a row and lane; 8-bit elements have a word a row and lane.
// The selector names the lanes that count where not all do. A warp of a sparse wgmma holds the metadata of its 16 rows alike.
void expand_rows(Warp& w, const Instr& i, int K, int selector, const u32* words, const float (*a)[32], float (*wide)[64]) {
  const int size = type_size(i.type), bits = size == 4 ? 4 : 2, group = size == 4 ? 1 : 2;
  const int lanes = K * size == 32 ? size == 1 ? 2 : 1 : size == 1 ? 4 : 2, first = selector * lanes;
  for (int r = 0; r < 16; ++r)
    for (int p = 0; p < K / 2; p += group) {
      const int at = p * bits, lane = size == 1 ? at / 32 * 2 + r / 8 : at / 16, shift = size == 1 ? at % 32 : at % 16 + r / 8 * 16;
      const u32 which = words[r % 8 * 4 + first + lane] >> shift, one = which & 3, two = which >> 2 & 3;
      if (one >= two || (size == 4 && (one & 1 || two != one + 1)))
        w.machine->stop("metadata", format("the metadata of row %d, column %d names elements %u and %u of four, which a sparse product "
                                           "does not allow", r, 2 * p, one, two), &w, &i);
      float* out = wide[r] + 2 * p;
      std::fill_n(out, 2 * group, 0.f);
      if (size == 4) out[one / 2] = a[r][p];
      else out[one] = a[r][p], out[two] = a[r][p + 1];
    }
}
void mma_sync(Warp& w, const Instr& i, u32) {
  const int K = i.op, na = i.mode, nb = 8 * K * element_bits(Type(i.imm)) / 1024;
  const int cells = i.flags & kEightRows ? 2 : 4, nd = i.type2 == Type::F16 ? 2 : cells;
  const Type ta = i.type, tb = Type(i.imm);
  float a[16][32], wide[16][64], b[64][8], product[16][8];
  const bool sparse = i.e >= 0;
  const u32* regs[4];
  const int* slots = i.regs.data();
  for (int r = 0; r < na; ++r) regs[r] = reg<u32>(w, slots[nd + r]);
  fragment_a(ta, regs, na, a);
  if (sparse) expand_rows(w, i, K, i.flags >> 4, reg<u32>(w, i.e), a, wide);
  for_group(tb, [&](auto size) {
    constexpr int group = decltype(size)::value;
    float values[8][group];
    for (int r = 0; r < nb; ++r) {
      unpack_elements(tb, reinterpret_cast<const u8*>(reg<u32>(w, slots[nd + na + r])), 8 * group, values[0]);
      for (int k = 0; k < group; ++k)
        for (int g = 0; g < 8; ++g) b[group * r + k][g] = values[g][k];
    }
  });
  const int* c = slots + nd + na + nb;
  bool integer = i.type2 == Type::S32, half = i.type2 == Type::F16;
  // accumulators q and q + 1 of lanes 4r .. 4r+3 are row r of the product (row r + 8 from the third on)
  auto for_rows = [&](auto f) {
    for (int q = 0; q < cells; q += 2) for (int r = 0; r < 8; ++r) for (int t = 0; t < 4; ++t) f(q, 4 * r + t, &product[r + 4 * q][2 * t]);
  };
  if (integer) memset(product, 0, sizeof product);
  else if (half) for_rows([&](int q, int l, float* p) { for (int k = 0; k < 2; ++k) p[k] = half_to_float(u16(reg<u32>(w, c[q / 2])[l] >> 16 * k)); });
  else for (int q = 0; q < cells; q += 2) {
    const float *even = reg<float>(w, c[q]), *odd = reg<float>(w, c[q + 1]);
    for (int r = 0; r < 8; ++r) for (int t = 0; t < 4; ++t) product[r + 4 * q][2 * t] = even[4 * r + t], product[r + 4 * q][2 * t + 1] = odd[4 * r + t];
  }
  for (int r = 0; r < 4 * cells; r += 4) multiply_rows<4, 8, 8>(sparse ? wide[r] : a[r], sparse ? 64 : 32, K, b[0], product[r], 8);
  if (half) for_rows([&](int q, int l, float* p) { reg<u32>(w, slots[q / 2])[l] = float_to_half(p[0]) | u32(float_to_half(p[1])) << 16; });
  else if (integer) for_rows([&](int q, int l, float* p) {
    for (int k = 0; k < 2; ++k) {
      s64 sum = s64(reg<s32>(w, c[q + k])[l]) + s64(p[k]);
      reg<s32>(w, slots[q + k])[l] = i.flags & kMmaSaturates ? s32(std::clamp<s64>(sum, INT32_MIN, INT32_MAX)) : s32(u32(u64(sum)));
    }
  });
  else for (int q = 0; q < cells; q += 2) {
    float *even = reg<float>(w, slots[q]), *odd = reg<float>(w, slots[q + 1]);
    for (int r = 0; r < 8; ++r) for (int t = 0; t < 4; ++t) even[4 * r + t] = product[r + 4 * q][2 * t], odd[4 * r + t] = product[r + 4 * q][2 * t + 1];
  }
}
// f64, integers of 4 bits, single bits. Instr as above, and type == Type::B1: flags kPopcAnd or .xor.
constexpr int kPopcAnd = 4;
s32 dot_nibbles(u32 x, u32 y, bool signed_x, bool signed_y) {
  s32 sum = 0;
  for (int q = 0; q < 32; q += 4) {
    s32 a = s32(x >> q & 15), b = s32(y >> q & 15);
    sum += (signed_x && a > 7 ? a - 16 : a) * (signed_y && b > 7 ? b - 16 : b);
  }
  return sum;
}
// Products without a fragment in floats. Register r of lane l holds words of row l/4 + 8*(r%2) of A, of column l/4 of B; the four
// lanes of a row or column have a word each, and dot(sum, a, b) adds the product of two of them.
template <class T, class Word, class Sum, class Dot>
void mma_words(Warp& w, const Instr& i, int blocks, Dot dot) {
  const int halves = i.flags & kEightRows ? 1 : 2, cells = 2 * halves, *d = i.regs.data(), *a = d + cells, *b = a + i.mode, *c = b + blocks;
  Sum sums[4][32];
  for (int l = 0; l < 32; ++l)
    for (int q = 0; q < cells; ++q) {
      Sum sum = reg<T>(w, c[q])[l];
      for (int k = 0; k < blocks; ++k)
        for (int t = 0; t < 4; ++t)
          sum = dot(sum, reg<Word>(w, a[k * halves + (q >> 1)])[(l & ~3) + t], reg<Word>(w, b[k])[(2 * (l & 3) + (q & 1)) * 4 + t]);
      if constexpr (std::is_same_v<T, s32>) if (i.flags & kMmaSaturates) sum = std::clamp<Sum>(sum, INT32_MIN, INT32_MAX);
      sums[q][l] = sum;
    }
  for (int q = 0; q < cells; ++q)
    for (int l = 0; l < 32; ++l) reg<T>(w, d[q])[l] = T(sums[q][l]);
}
void mma_bits(Warp& w, const Instr& i, u32) {
  mma_words<s32, u32, s64>(w, i, i.op / (i.type == Type::B1 ? 128 : 32), [&](s64 sum, u32 x, u32 y) {
    if (i.type == Type::B1) return sum + __builtin_popcount(i.flags & kPopcAnd ? x & y : x ^ y);
    return sum + dot_nibbles(x, y, i.type == Type::S4, Type(i.imm) == Type::S4);
  });
}
void mma_double(Warp& w, const Instr& i, u32) {
  mma_words<double, double, double>(w, i, i.op / 4, [](double sum, double x, double y) { return std::fma(x, y, sum); });
}
bool is_int8(Type t) { return t == Type::S8 || t == Type::U8; }
bool is_fp8(Type t) { return t == Type::E4M3 || t == Type::E5M2; }
// Whether matrices of these elements have a product of that type, in mma and wgmma alike.
bool is_product(Type ta, Type tb, Type td) {
  if (is_int8(ta) && is_int8(tb)) return td == Type::S32;
  if (is_fp8(ta) && is_fp8(tb)) return td == Type::F32 || td == Type::F16;
  if (ta != tb || (ta != Type::F16 && ta != Type::BF16 && ta != Type::TF32)) return false;
  return td == Type::F32 || (td == Type::F16 && ta == Type::F16);
}
// Registers of D, A, B, C in order; `width` bytes each.
void mma_operands(Decoder& d, Instr& i, int width, int nd, int na, int nb) {
  i.mode = na;
  i.regs = d.destinations(width, nd);
  for (int count : {na, nb, nd}) d.more_sources(i, width, count);
  i.flow = Flow::Aligned;
}
// The shapes that only f64, 4-bit integers and single bits have; false for any other.
bool decode_special_mma(Decoder& d, Instr& i) {
  struct Form { const char* type; const char* shape; int k; bool eight; };
  static const Form forms[] = {
      {"b1", "m8n8k128", 128, true}, {"b1", "m16n8k128", 128, false}, {"b1", "m16n8k256", 256, false},
      {"s4", "m8n8k32", 32, true}, {"s4", "m16n8k32", 32, false}, {"s4", "m16n8k64", 64, false},
      {"f64", "m8n8k4", 4, true}, {"f64", "m16n8k4", 4, false}, {"f64", "m16n8k8", 8, false}, {"f64", "m16n8k16", 16, false}};
  auto has = [&](const char* modifier) { return d.position(modifier) >= 0; };
  const bool is_bits = has("b1"), is_double = has("f64");
  if (!is_bits && !is_double && !has("s4") && !has("u4")) return false;
  const string type = is_bits ? "b1" : is_double ? "f64" : "s4";
  const Form* form = nullptr;
  for (auto& f : forms) if (!form && type == f.type && d.take(f.shape)) form = &f;
  if (!form) d.refuse("this combination of shape and types is not supported");
  d.require("row"), d.require("col");
  i.op = form->k, i.flags = form->eight ? kEightRows : 0;
  if (is_double) d.take("rn");
  Type td = d.type();
  i.type = d.type(), i.imm = s64(d.type());
  Type tc = d.type(), wanted = is_double ? Type::F64 : Type::S32;
  auto fits = [&](Type t) { return is_bits ? t == Type::B1 : is_double ? t == Type::F64 : t == Type::S4 || t == Type::U4; };
  if (td != wanted || tc != wanted || !fits(i.type) || !fits(Type(i.imm))) d.refuse("this combination of shape and types is not supported");
  i.type2 = td;
  if (is_bits) {
    if (d.choose({"xor", "and"}, -1)) i.flags |= kPopcAnd;
    d.require("popc");
  } else if (!is_double && d.take("satfinite")) {
    i.flags |= kMmaSaturates;
  }
  int halves = form->eight ? 1 : 2, blocks = i.op / (is_bits ? 128 : is_double ? 4 : 32);
  mma_operands(d, i, is_double ? 8 : 4, 2 * halves, halves * blocks, blocks);
  i.run = is_double ? mma_double : mma_bits;
  return true;
}
void decode_mma(Decoder& d, Instr& i) {
  d.require("sync"), d.require("aligned");
  if (decode_special_mma(d, i)) return;
  const bool sparse = d.take("sp") || d.take("sp::ordered_metadata");
  int shape = d.choose({"m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32", "m16n8k64", "m8n8k16"}, -1);
  d.require("row"), d.require("col");
  d.take("kind::f8f6f4");
  Type td = d.type(), ta = d.type(), tb = d.type(), tc = d.type();
  const bool eight_rows = shape == 5;
  i.op = eight_rows ? 16 : 4 << shape;
  const int dense = sparse ? i.op / 2 : i.op, row = dense * type_size(ta);        // columns that A holds, and their bytes
  if (is_int8(ta) && d.take("satfinite")) i.flags |= kMmaSaturates;
  if (eight_rows) i.flags |= kEightRows;
  if (!is_product(ta, tb, td) || (row != 16 && row != 32) || tc != td || (eight_rows && (sparse || !is_int8(ta))))
    d.refuse("this combination of shape and types is not supported");
  i.type = ta, i.type2 = td, i.imm = s64(tb);
  mma_operands(d, i, 4, td == Type::F16 || eight_rows ? 2 : 4, (eight_rows ? 8 : 16) * dense * element_bits(ta) / 1024,
               8 * i.op * element_bits(tb) / 1024);
  if (sparse) {
    i.e = d.source(4);
    const s64 selector = d.immediate(), selectors = (type_size(ta) == 1 ? 2 : 4) / (dense * type_size(ta) / 16);
    if (selector < 0 || selector >= selectors || (is_fp8(ta) && dense < 32)) d.refuse("this form or sparsity selector is not supported");
    i.flags |= int(selector) << 4;
  }
  i.run = mma_sync;
}

// ---- wgmma -----------------------------------------------------------------------------------------------------------------------------
// Shared-memory matrix descriptor: start address, leading and stride byte offsets (each >> 4), swizzle mode in bits 62-63. The
// base offset says where the swizzle pattern starts (its address >> 7, mod 8), which need not be where the matrix does.
struct Descriptor {
  u32 start, leading, stride, base_offset;
  int swizzle;
  explicit Descriptor(u64 v)
      : start(u32(v & 0x3FFF) << 4), leading(u32(v >> 16 & 0x3FFF) << 4), stride(u32(v >> 32 & 0x3FFF) << 4),
        base_offset(u32(v >> 49 & 7)) {
    static const int spans[4] = {0, 128, 64, 32};
    swizzle = spans[v >> 62];
  }
  // Shared address of the 16-byte chunk that holds element (r along M or N, k). K-major: 8-row groups `stride` apart.
  // MN-major (16-bit only): groups of one swizzle span along MN `leading` apart, 8-row groups along K `stride` apart; without
  // swizzle the two change places.
  u32 chunk(int r, int k, bool mn_major, int bytes) const {
    u32 a, kb = u32(k * bytes), ur = u32(r), uk = u32(k);
    if (!mn_major) {
      if (swizzle) a = start + (ur >> 3) * stride + (ur & 7) * u32(swizzle) + kb;
      else a = start + (ur >> 3) * stride + (ur & 7) * 16 + (kb >> 4) * leading + (kb & 15);
    } else {
      u32 span = swizzle ? u32(swizzle) / 2 : 8;
      a = start + ur / span * (swizzle ? leading : stride) + (uk >> 3) * (swizzle ? stride : leading) + (uk & 7) * span * 2 +
          ur % span * 2;
    }
    return (a ^ (((a >> 7) - base_offset & swizzle_rows(swizzle)) << 4)) & 0x3FFF0;
  }
};
// f(chunk address, row, k, elements in it) over an operand of `rows` x K
template <class F>
void for_chunks(const Descriptor& d, int first, int rows, int K, bool mn_major, int bytes, F f) {
  int per = 16 / bytes;
  if (!mn_major) for (int r = first; r < first + rows; ++r) for (int k = 0; k < K; k += per) f(d.chunk(r, k, false, bytes), r, k, per);
  else for (int k = 0; k < K; ++k) for (int r = first; r < first + rows; r += per) f(d.chunk(r, k, true, bytes), r, k, per);
}
constexpr int kTransA = 1, kTransB = 2, kNegateA = 4, kNegateB = 8, kRegistersA = 16, kSatFinite = 32;
struct Shape { int N, K, held, bytes; };          // held: columns of A, which a sparse one has half of
Shape shape_of(const Instr& i) { return {i.op, i.mode, i.e >= 0 ? i.mode / 2 : i.mode, type_size(i.type)}; }

u64 hash_operand(Cta& cta, const Descriptor& d, int rows, int K, bool mn_major, int bytes) {
  u64 h[4] = {1469598103934665603ull, 88172645463325252ull, 0x9E3779B97F4A7C15ull, 0xBF58476D1CE4E5B9ull};
  int chain = 0;                       // four, which need not wait for each other
  const u8* shared = cta.shared.data();
  const u32 top = cta.top;
  for_chunks(d, 0, rows, K, mn_major, bytes, [&](u32 a, int, int, int) {
    if (a + 16 > top) return;
    u64 v[2];
    memcpy(v, shared + a, 16);
    for (int q = 0; q < 2; ++q) h[chain + q] = (h[chain + q] ^ v[q]) * 1099511628211ull;
    chain ^= 2;
  });
  for (int q = 1; q < 4; ++q) h[0] = (h[0] ^ h[q]) * 0x9E3779B97F4A7C15ull;
  return h[0];
}
void check_operand_access(Warp& w, const Descriptor& d, int first, int rows, int K, bool mn_major, int bytes, const Accessor& by) {
  u32 chunks[1024], n = 0;
  for_chunks(d, first, rows, K, mn_major, bytes, [&](u32 a, int, int, int) { chunks[n++] = a; });
  check_chunks(*w.cta, chunks, n, false, by);
}

bool half_accumulator(const Instr& i) { return i.type2 == Type::F16; }
int accumulator_registers(const Instr& i) { return half_accumulator(i) ? i.op / 4 : i.op / 2; }

// accumulator fragment: row l/4 + 8*((q/2)%2), column 8*(q/4) + 2*(l%4) + q%2
template <class F>
void for_accumulator(int N, F f) {
  for (int l = 0; l < 32; ++l)
    for (int q = 0; q < N / 2; ++q) f(l, q, ((l >> 2) + 8 * (q >> 1 & 1)) * N + (q >> 2) * 8 + 2 * (l & 3) + (q & 1));
}
void gather(Warp& w, const Instr& i, WgmmaChain& chain) {
  bool half = half_accumulator(i);
  for_accumulator(i.op, [&](int l, int q, int at) {
    chain.sums[size_t(at)] = half ? half_to_float(u16(reg<u32>(w, chain.registers[size_t(q / 2)])[l] >> 16 * (q & 1)))
                                  : reg<float>(w, chain.registers[size_t(q)])[l];
  });
}
void scatter(Warp& w, const Instr& i, WgmmaChain& chain) {
  bool half = half_accumulator(i);
  for_accumulator(i.op, [&](int l, int q, int at) {
    float v = chain.sums[size_t(at)];
    if (!half) reg<float>(w, chain.registers[size_t(q)])[l] = v;
    else {
      u32& r = reg<u32>(w, chain.registers[size_t(q / 2)])[l];
      r = q & 1 ? (r & 0xFFFF) | u32(float_to_half(v)) << 16 : (r & 0xFFFF0000u) | float_to_half(v);
    }
  });
}

constexpr u8 kAccumulator = 1, kFragment = 2;    // Warp::owned
void own_fragment(Warp& w, const WgmmaOp& o, bool owned) {
  for (size_t r = o.a_registers.empty() ? 4 : 0; r < 4; ++r) {
    u8& owner = w.owned[size_t(o.instr->regs[size_t(accumulator_registers(*o.instr)) + r] / 64)];
    if (owner != (owned ? 0 : kFragment)) continue;
    owner = owned ? kFragment : 0;
    w.owned_count += owned ? 1 : -1;
  }
}
void wgmma_issue(Warp& w, const Instr& i, u32) {
  Machine& m = *w.machine;
  auto [N, K, held, bytes] = shape_of(i);
  bool a_registers = i.flags & kRegistersA;
  u64 da = a_registers ? 0 : reg<u64>(w, i.a)[0], db = reg<u64>(w, i.b)[0];
  for (int l = 0; l < 32; ++l)
    if ((!a_registers && reg<u64>(w, i.a)[l] != da) || reg<u64>(w, i.b)[l] != db)
      m.stop("wgmma", "the matrix descriptor differs between lanes", &w);
  if (!w.wgmma_fenced) {
    m.report("wgmma", "wgmma.mma_async without wgmma.fence after the registers were last accessible", &w);
    w.wgmma_fenced = true;
  }
  int nd = accumulator_registers(i);
  vector<int> registers(i.regs.begin(), i.regs.begin() + nd);
  std::shared_ptr<WgmmaChain> chain;
  for (auto& o : w.wgmma) if (o.chain->registers == registers) chain = o.chain;
  if (!chain) {
    chain = std::make_shared<WgmmaChain>();
    chain->registers = registers;
    chain->sums.resize(size_t(16 * N));
    gather(w, i, *chain);
    for (int slot : registers) {
      u8& owner = w.owned[size_t(slot / 64)];
      if (owner) m.report("wgmma", "an accumulator register is already used by another wgmma in flight", &w);
      else ++w.owned_count;
      owner = kAccumulator;
      write_lanes<u32>(w, slot, ~0u, [](int) { return ~0u; });
    }
  }
  ++chain->left;
  u32 scale = i.c >= 0 ? pred(w, i.c) ^ (i.dst2 == 1 ? ~0u : 0) : ~0u;
  if (scale != 0 && scale != ~0u) m.stop("wgmma", "scale-d differs between lanes", &w);
  WgmmaOp op{};
  op.instr = &i, op.scale_d = scale != 0, op.a = da, op.b = db, op.chain = chain, op.group = w.wgmma_group;
  op.clock = w.clock;
  if (a_registers) {
    op.a_registers.resize(128);
    for (int r = 0; r < 4; ++r) {
      int slot = i.regs[size_t(nd + r)];
      memcpy(&op.a_registers[size_t(32 * r)], reg<u32>(w, slot), 128);
      if (w.owned[size_t(slot / 64)] & kAccumulator) m.report("wgmma", "a fragment of A is the accumulator of a wgmma in flight", &w);
    }
    own_fragment(w, op, true);
  }
  if (i.e >= 0) op.metadata.assign(reg<u32>(w, i.e), reg<u32>(w, i.e) + 32);
  if (w.id % 4 == 0) {
    if (!a_registers) op.hash_a = hash_operand(*w.cta, Descriptor(da), 64, held, i.flags & kTransA, bytes);
    op.hash_b = hash_operand(*w.cta, Descriptor(db), N, K, i.flags & kTransB, bytes);
  }
  w.wgmma.push_back(std::move(op));
}
void wgmma_fence(Warp& w, const Instr&, u32) { w.wgmma_fenced = true; }
void wgmma_commit(Warp& w, const Instr&, u32) {
  ++w.wgmma_group;
  w.cta->cluster->changed = true;
}

// One wgmma of a whole warpgroup: the four warps' operations of the same place in their queues.
void execute(Cta& cta, int first, WgmmaOp* const* ops) {
  const Instr& i = *ops[0]->instr;
  Machine& m = *cta.cluster->machine;
  auto [N, K, held, bytes] = shape_of(i);
  Warp& w0 = cta.warps[size_t(first)];
  bool a_registers = i.flags & kRegistersA, ta = i.flags & kTransA, tb = i.flags & kTransB;
  for (int q = 1; q < 4; ++q)
    if (ops[q]->instr != &i || ops[q]->a != ops[0]->a || ops[q]->b != ops[0]->b)
      m.stop("wgmma", "the warps of a warpgroup issued different wgmma operations", &cta.warps[size_t(first + q)], ops[q]->instr);
  Descriptor da(ops[0]->a), db(ops[0]->b);
  const bool sparse = i.e >= 0;
  if (sparse && !tb && db.swizzle == 32)
    m.stop("wgmma", "a row of B has 64 bytes in a sparse product: no descriptor with swizzles of 32 bytes names it", &w0, &i);
  if ((!a_registers && hash_operand(cta, da, 64, held, ta, bytes) != ops[0]->hash_a) ||
      hash_operand(cta, db, N, K, tb, bytes) != ops[0]->hash_b)
    m.report("wgmma", "an operand in shared memory changed while the wgmma was in flight", &w0, &i);
  u32 agent = m.warps_per_cluster + w0.agent / 4, event = cta.cluster->agent_events[agent];
  static thread_local float a[64][32], wide[64][64], b[64][256];
  for (int q = 0; q < 4; ++q) {
    Warp& w = cta.warps[size_t(first + q)];
    int pc = w.pc;
    w.pc = int(&i - w.kernel->code.data());
    ops[q]->clock.local[agent] = event;
    Accessor by{&w, kAnyLane, agent, &ops[q]->clock, true, "wgmma read"};
    if (!a_registers) check_operand_access(w, da, 16 * q, 16, held, ta, bytes, by);
    if (q == 0) check_operand_access(w, db, 0, N, K, tb, bytes, by);
    w.pc = pc;
    if (a_registers) {
      const u32* regs[4] = {&ops[q]->a_registers[0], &ops[q]->a_registers[32], &ops[q]->a_registers[64], &ops[q]->a_registers[96]};
      fragment_a(i.type, regs, 4, a + 16 * q);
    }
  }
  const u8* shared = cta.shared.data();
  float sign_a = i.flags & kNegateA ? -1.f : 1.f, sign_b = i.flags & kNegateB ? -1.f : 1.f;
  if (!a_registers)
    for_chunks(da, 0, 64, held, ta, bytes, [&](u32 at, int r, int k, int n) {
      float values[16];
      unpack_elements(i.type, shared + at, n, ta ? values : &a[r][k]);
      if (ta) for (int q = 0; q < n; ++q) a[r + q][k] = values[q];
    });
  float rows[4][64];                            // of K-major B, which the products want by columns
  for_chunks(db, 0, N, K, tb, bytes, [&](u32 at, int r, int k, int n) {
    unpack_elements(Type(i.imm & 255), shared + at, n, tb ? &b[k][r] : &rows[r & 3][k]);
    if (!tb && (r & 3) == 3 && k + n == K) transpose_rows(rows, K, &b[0][r - 3]);
  });
  if (sign_a * sign_b < 0) for (auto& row : a) for (float& x : row) x = -x;
  for (int q = 0; sparse && q < 4; ++q)
    expand_rows(cta.warps[size_t(first + q)], i, K, int(i.imm >> 8), ops[q]->metadata.data(), a + 16 * q, wide + 16 * q);
  bool integer = i.type2 == Type::S32, half = half_accumulator(i);
  static thread_local float products[256];
  for (int q = 0; q < 4; ++q) {
    float* sums = ops[q]->chain->sums.data();
    for (int r = 0; r < 16; ++r) {
      const float* from = sparse ? wide[16 * q + r] : a[16 * q + r];
      float* row = sums + size_t(r) * size_t(N);
      float* out = row;
      if (integer) { std::fill_n(products, N, 0.f); out = products; }
      else if (!ops[q]->scale_d) std::fill_n(row, N, 0.f);
      int n = 0;
      for (; n + 64 <= N; n += 64) multiply_rows<1, 64, 256>(from, 0, K, &b[0][n], out + n, 0);
      for (; n < N; n += 8) multiply_rows<1, 8, 256>(from, 0, K, &b[0][n], out + n, 0);
      if (half) for (int n = 0; n < N; ++n) row[n] = half_to_float(float_to_half(row[n]));
      if (integer)
        for (int n = 0; n < N; ++n) {
          s64 sum = (ops[q]->scale_d ? s64(bit_cast<s32>(row[n])) : 0) + s64(products[n]);
          s32 v = i.flags & kSatFinite ? s32(std::clamp<s64>(sum, INT32_MIN, INT32_MAX)) : s32(u32(u64(sum)));
          row[n] = bit_cast<float>(v);
        }
    }
    ops[q]->done = true;
  }
}
// A wgmma group belongs to the warpgroup: it completes for all four warps once all have committed it and one waits for it.
bool wgmma_wait(Warp& w, const Instr& i, u32) {
  Cta& cta = *w.cta;
  Machine& m = *w.machine;
  int first = w.id & ~3;
  if (size_t(first + 3) >= cta.warps.size()) m.stop("wgmma", "wgmma in an incomplete warpgroup", &w);
  u32 target = w.wgmma_group > u32(i.imm) ? w.wgmma_group - u32(i.imm) : 0;
  for (int q = 0; q < 4; ++q) if (cta.warps[size_t(first + q)].wgmma_group < target) return false;
  vector<WgmmaOp*> due[4];
  for (int q = 0; q < 4; ++q)
    for (auto& o : cta.warps[size_t(first + q)].wgmma) if (o.group < target && !o.done) due[q].push_back(&o);
  u32 agent = m.warps_per_cluster + w.agent / 4;
  if (!due[0].empty()) ++cta.cluster->agent_events[agent];
  for (int q = 1; q < 4; ++q)
    if (due[q].size() != due[0].size()) m.stop("wgmma", "the warps of a warpgroup issued different numbers of wgmma operations", &w);
  for (size_t k = 0; k < due[0].size(); ++k) {
    WgmmaOp* ops[4] = {due[0][k], due[1][k], due[2][k], due[3][k]};
    execute(cta, first, ops);
  }
  if (!due[0].empty())
    for (int q = 0; q < 4; ++q) cta.warps[size_t(first + q)].clock.local[agent] = cta.cluster->agent_events[agent];
  const size_t before = w.wgmma.size();
  drop_if(w.wgmma, [&](const WgmmaOp& o) {
    if (!o.done || o.group >= target) return false;
    own_fragment(w, o, false);
    if (--o.chain->left) return true;
    scatter(w, *o.instr, *o.chain);
    for (int slot : o.chain->registers) {
      u8& owner = w.owned[size_t(slot / 64)];
      w.owned_count -= owner != 0;
      owner = 0;
    }
    return true;
  });
  if (w.wgmma.size() < before) m.note_wait(w);
  for (auto& o : w.wgmma) own_fragment(w, o, true);     // those that a finished one shared
  w.wgmma_fenced = false;
  return true;
}

void decode_wgmma(Decoder& d, Instr& i) {
  i.flow = Flow::Aligned;
  d.require("sync"), d.require("aligned");
  if (d.take("fence")) { i.run = wgmma_fence; return; }
  if (d.take("commit_group")) { i.run = wgmma_commit; return; }
  if (d.take("wait_group")) {
    i.imm = d.immediate(), i.flow = Flow::Sync, i.sync = wgmma_wait;
    return;
  }
  d.require("mma_async");
  const bool sparse = d.take("sp");
  string shape = d.modifier_starting("m64n");
  int k = 0, n = 0;
  if (sscanf(shape.c_str(), "m64n%dk%d", &n, &k) != 2) d.refuse("the shape is missing");
  i.type2 = d.type_in({Type::F32, Type::F16, Type::S32});
  i.type = d.type();
  Type tb = d.type();
  i.imm = s64(tb), i.op = n, i.mode = k;
  const bool integer = is_int8(i.type), sixteen = i.type == Type::F16 || i.type == Type::BF16;
  if (!is_product(i.type, tb, i.type2)) d.refuse("this combination of types is not supported");
  if (k * type_size(i.type) != (sparse ? 64 : 32)) d.refuse("the shape's K does not fit the types");
  if (n < 8 || n > 256 || n % 8 || (integer && n > 24 && n % 16)) d.refuse("this N is not legal");
  if (integer && d.take("satfinite")) i.flags |= kSatFinite;
  i.regs = d.destinations(4, accumulator_registers(i));
  for (int slot : i.regs) d.mark_read(slot);
  if (d.peek().kind == Operand::Vector) {
    i.flags |= kRegistersA;
    d.more_sources(i, 4, 4);
  } else {
    i.a = d.source(8);
  }
  i.b = d.source(8);
  if (sparse) {
    i.e = d.source(4);
    const s64 selector = d.immediate();
    if (selector < 0 || selector > (type_size(i.type) == 1 ? 0 : 1)) d.refuse("this sparsity selector is not legal");
    i.imm |= selector << 8;
  }
  bool negated = false;
  if (d.peek().kind != Operand::Immediate) i.c = d.predicate(&negated);
  else if (!d.immediate()) i.c = d.constant(0, 1);
  i.dst2 = negated ? 1 : -1;
  if (!integer) {
    s64 sa = d.immediate(), sb = d.immediate();
    if ((sa != 1 && sa != -1) || (sb != 1 && sb != -1)) d.refuse("imm-scale has to be 1 or -1");
    if (sa == -1) i.flags |= kNegateA;
    if (sb == -1) i.flags |= kNegateB;
  }
  if (sixteen) {
    if (!(i.flags & kRegistersA) && d.immediate()) i.flags |= kTransA;
    if (d.immediate()) i.flags |= kTransB;
  }
  i.run = wgmma_issue;
}

}  // namespace

// Registers of a wgmma in flight belong to it until a wgmma.wait_group for its group: accumulators may not be accessed, fragments
// of A not be written. (PTX forbids reading these too; no harm can come of it, and the assembler allows it.)
void check_owned(Warp& w, const Instr& i) {
  if (i.run == wgmma_issue) return;
  auto owner = [&](int slot) { return slot >= 0 ? w.owned[size_t(slot / 64)] : u8(0); };
  u8 written = owner(i.dst), used = owner(i.a) | owner(i.b) | owner(i.c) | owner(i.e) | owner(i.mem.slot);
  for (int slot : i.regs) used |= owner(slot);
  for (int slot : i.written) written |= owner(slot);
  if ((used | written) & kAccumulator)
    w.machine->report("wgmma", "a register is used while a wgmma in flight owns it as accumulator (no wgmma.wait_group has "
                               "waited for it)", &w);
  if (written & kFragment)
    w.machine->report("wgmma", "a register is written while a wgmma in flight reads it as fragment of A", &w);
}

const Opcodes opcodes{{"ldmatrix stmatrix", decode_matrix}, {"movmatrix", decode_movmatrix}, {"mma", decode_mma},
                    {"wgmma", decode_wgmma}};

}  // namespace emu
