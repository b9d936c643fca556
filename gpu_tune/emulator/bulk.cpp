// Bulk copies (cp.async.bulk) and tensor-map copies (TMA), between global and shared memory or within a cluster.
#include <algorithm>

#include "async.hpp"

namespace emu {

u32 TensorMap::bytes() const {
  if (im2col) return u32(element) * channels * pixels;
  u32 n = u32(element);
  for (int k = 0; k < rank; ++k) n *= (box[k] + element_strides[k] - 1) / element_strides[k];
  return n;
}
namespace {

u64 hash_bytes(const u8* p, size_t n) {
  u64 h = 1469598103934665603ull;
  for (; n >= 8; n -= 8, p += 8) {
    h = (h ^ load_from<u64>(p)) * 1099511628211ull;
  }
  for (; n; --n, ++p) h = (h ^ *p) * 1099511628211ull;
  return h;
}
u32 swizzled(u32 address, int span) {       // XOR of the 16-byte chunk with the row of the 128-byte line pattern
  return address ^ ((address >> 7 & swizzle_rows(span)) << 4);
}

// ---- tensor maps ----------------------------------------------------------------------------------------------------------------
const TensorMap& tensor_map(Warp& w, u64 address, int rank, bool im2col) {      // of a copy of that form
  Machine& m = *w.machine;
  const u64 at = address - kParamWindow;
  const bool parameter = address >= kParamWindow;
  u64 magic = 0, index = 0;
  if (address & 63) m.stop("tensor_map", "the tensor map is not aligned to 64 bytes", &w);
  if (parameter ? at + 128 > m.params.size() : address >= kSharedWindow)
    m.stop("tensor_map", "the tensor map lies neither in a kernel parameter passed by value nor in global or constant memory", &w);
  const u8* p = parameter ? m.params.data() + at : global_pointer(w, address, 128, false, "tensor map");
  if (!parameter && p) check_global_access(w, address, 128, false, kAnyLane, false, w.clock);
  if (p) memcpy(&magic, p, 8), memcpy(&index, p + 8, 8);
  if (magic != 0x70616d726f736e65ull || index >= m.tensor_maps.size())
    m.stop("tensor_map", "what is named as tensor map does not hold one", &w);
  const TensorMap& map = m.tensor_maps[size_t(index)];
  if (map.rank != rank) m.stop("tensor_map", format("a %dd copy with a tensor map of rank %d", rank, map.rank), &w);
  if (map.im2col != im2col) m.stop("tensor_map", "tile and im2col mode of copy and tensor map differ", &w);
  return map;
}

// Calls f(shared address, global address or 0, bytes) for pieces of at most 16 bytes of the box at coordinates c.
template <class Piece>
void for_row(const TensorMap& m, u32 shared, u64 row, bool inside, s64 x, u32 count, u32 step, const Piece& f) {
  u32 e = u32(m.element), per = 16 / e;
  if (step == 1 && inside && x >= 0 && x + s64(count) <= s64(m.dims[0])) {       // the usual row: it lies within the tensor
    row += u64(x) * e;
    for (u32 k = 0, n = count * e; k < n; k += 16) f(swizzled(shared + k, m.swizzle), row + k, std::min(16u, n - k));
    return;
  }
  for (u32 k = 0, n; k < count; k += n) {          // what is left of a chunk, where it lies within; else one element
    const s64 gx = x + s64(k) * step;
    auto within = [&](u32 elements) { return inside && gx >= 0 && gx + s64(elements) <= s64(m.dims[0]); };
    n = step == 1 ? std::min(per - k % per, count - k) : 1;
    if (!within(n)) n = 1;
    f(swizzled(shared + k * e, m.swizzle), within(n) ? row + u64(gx) * e : 0, n * e);
  }
}
template <class Piece>
void for_tile(const TensorMap& m, u32 shared, const int* c, const Piece& f) {
  u32 n[5];
  for (int k = 0; k < 5; ++k) n[k] = k < m.rank ? (m.box[k] + m.element_strides[k] - 1) / m.element_strides[k] : 1;
  u32 row_bytes = n[0] * u32(m.element);
  for (u32 i4 = 0; i4 < n[4]; ++i4) for (u32 i3 = 0; i3 < n[3]; ++i3) for (u32 i2 = 0; i2 < n[2]; ++i2)
    for (u32 i1 = 0; i1 < n[1]; ++i1) {
      u32 index[5] = {0, i1, i2, i3, i4};
      bool inside = true;
      s64 offset = 0;
      for (int k = 1; k < m.rank; ++k) {
        s64 g = s64(c[k]) + s64(index[k]) * m.element_strides[k];
        inside &= g >= 0 && g < s64(m.dims[k]);
        offset += g * s64(m.strides[k - 1]);
      }
      for_row(m, shared, m.base + u64(offset), inside, c[0], n[0], m.element_strides[0], f);
      shared += row_bytes;
    }
}
// im2col: `pixels` consecutive positions of the bounding box, walked W, H, D, N, starting at the given coordinates; each reads
// `channels` elements at the position plus the filter offsets.
template <class Piece>
void for_im2col(const TensorMap& m, u32 shared, const int* c, const int* offsets, const Piece& f) {
  int spatial = m.rank - 2;
  s64 p[3] = {0, 0, 0}, n = c[m.rank - 1];
  for (int k = 0; k < spatial; ++k) p[k] = c[1 + k];
  u32 row_bytes = m.channels * u32(m.element);
  for (u32 k = 0; k < m.pixels; ++k) {
    bool inside = n >= 0 && n < s64(m.dims[m.rank - 1]);
    s64 offset = n * s64(m.strides[m.rank - 2]);
    for (int q = 0; q < spatial; ++q) {
      s64 g = p[q] + offsets[q];
      inside &= g >= 0 && g < s64(m.dims[q + 1]);
      offset += g * s64(m.strides[q]);
    }
    for_row(m, shared, m.base + u64(offset), inside, c[0], m.channels, 1, f);
    shared += row_bytes;
    for (int q = 0; q < spatial; ++q) {
      p[q] += m.element_strides[q + 1];
      s64 high = s64(m.dims[q + 1]) + m.upper[q];       // exclusive bound of the bounding box
      if (p[q] < high) break;
      p[q] = m.lower[q];
      if (q == spatial - 1) ++n;
    }
  }
}
template <class Piece>
void for_pieces(const TensorMap& m, u32 shared, const int* c, const int* offsets, const Piece& f) {
  if (m.im2col) for_im2col(m, shared, c, offsets, f);
  else for_tile(m, shared, c, f);
}

// ---- loads into shared memory ----------------------------------------------------------------------------------------------------
void mark_source(Warp& w, const Transfer& t, int change) {
  if (t.kind == Transfer::Linear) mark_readers(w, t.source, t.bytes, change);
  if (!t.map || !w.machine->buffers[size_t(t.map->buffer)].writable) return;
  for_pieces(*t.map, t.destination, t.coordinates, t.offsets,
             [&](u32, u64 global, u32 bytes) { if (global) mark_readers(w, global, bytes, change); });
}
// A map of tf32 rounds to nearest, ties to even, what it loads; infinities and NaN keep their bits.
void round_words(u8* at, u32 bytes) {
  for (u32 k = 0; k < bytes; k += 4) {
    u32 word = load_from<u32>(at + k);
    if ((word & 0x7F800000u) == 0x7F800000u) continue;
    word = round_tf32(bit_cast<float>(word), Round::NearestEven);
    memcpy(at + k, &word, 4);
  }
}
void begin(Warp& w, Transfer& t, int lane, const char* what) {
  Cta& cta = *t.cta;
  check_access(cta, t.destination, t.bytes, true, {&w, lane, w.agent, &w.clock, true, what, false, Cell::Pending});
  memset(cta.shared.data() + t.destination, 0xFF, t.bytes);
  t.clock = w.clock;
  t.warp = &w, t.pc = w.pc;
  mark_source(w, t, 1);
  cta.cluster->in_flight.push_back(t);
}
// Send t to its destination, or to the same place in every CTA of the mask.
void send(Warp& w, Transfer t, u32 destination, u32 barrier, u32 mask, bool multicast, int lane, const char* what) {
  auto& ctas = w.cta->cluster->ctas;
  if (multicast && (!mask || mask >> ctas.size()))
    w.machine->stop("bounds", format("multicast mask 0x%x in a cluster of %zu CTAs", mask, ctas.size()), &w);
  if (barrier & 7) w.machine->stop("alignment", "the mbarrier address is no multiple of 8", &w);
  Cta& own = shared_target(w, destination);
  Cta& barrier_cta = shared_target(w, barrier);
  ++w.clock.local[w.agent];
  for (auto& cta : ctas) {
    if (multicast ? !(mask >> cta.rank & 1) : &cta != &own) continue;
    if (multicast && cta.exited())
      w.machine->stop("exited_cta", format("multicast to CTA %u of the cluster after it exited", cta.rank), &w);
    Transfer copy = t;
    copy.cta = &cta, copy.destination = destination, copy.barrier = barrier;
    copy.barrier_cta = multicast ? &cta : &barrier_cta;
    begin(w, copy, lane, what);
  }
}
void tensor_load(Warp& w, const Instr& i, u32 m) {
  for_lanes(m, [&](int l) {
    Transfer t{};
    t.map = &tensor_map(w, address_of(w, i.mem2, l), i.op, i.mode);
    t.kind = t.map->im2col ? Transfer::Im2Col : Transfer::Tile;
    for (int k = 0; k < i.op; ++k) t.coordinates[k] = reg<s32>(w, i.regs[size_t(k)])[l];
    for (size_t k = size_t(i.op); k < i.regs.size(); ++k) t.offsets[k - size_t(i.op)] = u16(reg<u32>(w, i.regs[k])[l]);
    t.bytes = t.map->bytes();
    u32 destination = shared_address_of(w, i.mem, l), barrier = shared_address_of(w, i.mem3, l);
    if (destination & 127)
      w.machine->stop("alignment", format("the tensor copy's shared memory address (byte %d) is no multiple of 128", byte_of(destination)), &w);
    u32 mask = i.a >= 0 ? reg<u32>(w, i.a)[l] & 0xFFFF : 0;
    send(w, t, destination, barrier, mask, i.a >= 0, l, "tensor load");
  });
}
void check_bulk(Warp& w, u64 a, u64 b, u32 bytes) {
  if ((a | b | bytes) & 15 || !bytes)
    w.machine->stop("alignment", "cp.async.bulk needs addresses and a size that are multiples of 16", &w);
}
void bulk_load(Warp& w, const Instr& i, u32 m) {     // global or own shared -> shared::cluster
  for_lanes(m, [&](int l) {
    Transfer t{};
    t.bytes = reg<u32>(w, i.b)[l];
    u32 destination = shared_address_of(w, i.mem, l), barrier = shared_address_of(w, i.mem3, l);
    if (i.mode) {
      u32 source = shared_address_of(w, i.mem2, l);
      check_bulk(w, destination, source, t.bytes);
      t.kind = Transfer::FromShared;
      t.source_cta = &shared_target(w, source);
      t.source = source;
      check_access(*t.source_cta, source, t.bytes, false, {&w, l, w.agent, &w.clock, true, "cp.async.bulk read"});
      t.hash = hash_bytes(t.source_cta->shared.data() + source, t.bytes);
    } else {
      t.kind = Transfer::Linear, t.source = address_of(w, i.mem2, l);
      check_bulk(w, destination, t.source, t.bytes);
      global_pointer(w, t.source, t.bytes, false, "cp.async.bulk read");
    }
    u32 mask = i.a >= 0 ? reg<u32>(w, i.a)[l] & 0xFFFF : 0;
    send(w, t, destination, barrier, mask, i.a >= 0, l, "cp.async.bulk write");
  });
}

// ---- stores from shared memory ------------------------------------------------------------------------------------------------------
template <class Piece>
void for_destination(const BulkStore& s, const Piece& f) {
  static const int no_offsets[3] = {0, 0, 0};
  if (s.map) for_pieces(*s.map, s.source, s.coordinates, no_offsets, f);
  else for (u32 k = 0; k < s.bytes; k += 16) f(s.source + k, s.destination + k, 16);
}
// What a store reads: of a box that leaves its tensor, only what lies within.
void check_source(Warp& w, const BulkStore& s, int lane) {
  Accessor by{&w, lane, w.agent, &w.clock, true, "bulk store read"};
  if (s.source < kSharedStart || u64(s.source) + s.bytes > w.cta->top || !s.map) return check_access(*w.cta, s.source, s.bytes, false, by);
  vector<u32> pieces;
  for_destination(s, [&](u32 at, u64 global, u32) { if (global && (pieces.empty() || pieces.back() != (at & ~15u))) pieces.push_back(at & ~15u); });
  check_chunks(*w.cta, pieces.data(), pieces.size(), false, by);
}
void queue_store(Warp& w, BulkStore& s, int lane, const Instr& i) {
  check_source(w, s, lane);
  s.lane = lane, s.group = w.store_group[lane], s.instr = &i;
  s.hash = hash_bytes(w.cta->shared.data() + s.source, s.bytes);
  s.reduction = i.flags ? i.op : -1;
  s.type = i.type;
  u64 start = 0, end = 0;
  for_destination(s, [&](u32, u64 global, u32 bytes) {
    if (!global) return;
    if (global != end && start < end) mark_pending(w, start, u32(end - start));
    if (global != end) start = global;
    end = global + bytes;
  });
  if (start < end) mark_pending(w, start, u32(end - start));
  w.stores.push_back(std::move(s));
}
void tensor_store(Warp& w, const Instr& i, u32 m) {
  for_lanes(m, [&](int l) {
    BulkStore s{};
    s.map = &tensor_map(w, address_of(w, i.mem, l), i.mode, i.imm);
    for (int k = 0; k < i.mode; ++k) s.coordinates[k] = reg<s32>(w, i.regs[size_t(k)])[l];
    s.source = shared_address_of(w, i.mem2, l);
    if (s.source & 127) w.machine->stop("alignment", "the tensor store's shared memory address is no multiple of 128", &w);
    s.bytes = s.map->bytes();
    queue_store(w, s, l, i);
  });
}
void bulk_store(Warp& w, const Instr& i, u32 m) {
  for_lanes(m, [&](int l) {
    BulkStore s{};
    s.source = shared_address_of(w, i.mem2, l), s.destination = address_of(w, i.mem, l), s.bytes = reg<u32>(w, i.b)[l];
    check_bulk(w, s.source, s.destination, s.bytes);
    if (global_pointer(w, s.destination, s.bytes, true, "bulk store")) queue_store(w, s, l, i);
  });
}
void commit_stores(Warp& w, const Instr&, u32 m) {
  for_lanes(m, [&](int l) { ++w.store_group[l]; });
}
void wait_stores(Warp& w, const Instr& i, u32 m) { finish_stores(w, m, u32(i.imm), i.flags); }

void read_source(Warp& w, BulkStore& s) {
  At here(w, int(s.instr - w.kernel->code.data()));
  const u8* p = w.cta->shared.data() + s.source;
  if (hash_bytes(p, s.bytes) != s.hash)
    w.machine->report("asynchronous", format("the source of the bulk store at PTX line %d was overwritten before the store had "
                                             "read it", s.instr->line), &w);
  check_source(w, s, s.lane);
  s.data.assign(p, p + s.bytes);
  s.read = true;
}
void write_destination(Warp& w, BulkStore& s) {
  At here(w, int(s.instr - w.kernel->code.data()));
  u64 start = 0, end = 0;                      // a run of pieces without gaps, to be checked at once
  bool repeats = false;                        // and other lanes have stored the same to it
  auto check = [&] {
    if (start < end && !(repeats && written_by(w, start, u32(end - start))))
      check_global_access(w, start, u32(end - start), true, s.lane, s.reduction >= 0, w.clock, true);
  };
  const Type t = s.map ? Type(s.map->type) : s.type;
  for_destination(s, [&](u32 at, u64 global, u32 bytes) {
    u8* p = global ? global_pointer(w, global, bytes, true, "bulk store") : nullptr;
    if (!p) return;
    if (global != end) check(), start = end = global, repeats = s.reduction < 0;
    end += bytes;
    const u8* data = s.data.data() + (at - s.source);
    repeats = repeats && !memcmp(p, data, bytes);
    if (s.reduction < 0 && bytes == 16) memcpy(p, data, 16);
    else if (s.reduction < 0) memcpy(p, data, bytes);
    else for (u32 k = 0; k < bytes; k += u32(type_size(t))) reduce_at(p + k, data + k, s.reduction, t);
  });
  check();
  ++w.machine->progress;
}

// ---- decoding ---------------------------------------------------------------------------------------------------------------------------
vector<int> coordinates(Decoder& d, Address& at, int rank) {      // [map, {coordinates}]
  Operand map;
  at = d.address_with_parts(map);
  if (map.parts.size() != 1) d.refuse("the tensor coordinates are missing");
  const Operand& list = map.parts[0];
  vector<int> slots;
  if (list.kind == Operand::Vector) for (auto& o : list.parts) slots.push_back(d.slot_of(o, 4));
  else slots.push_back(d.slot_of(list, 4));
  if (int(slots.size()) != rank) d.refuse("the number of coordinates differs from the rank");
  return slots;
}
int rank_of(Decoder& d) { return d.choose({"1d", "2d", "3d", "4d", "5d"}, -1) + 1; }
bool to_global(Decoder& d) {      // the destination space comes first
  int global = d.position("global"), shared = d.position("shared::cta");
  return global >= 0 && shared >= 0 && global < shared;
}
void take_spaces(Decoder& d) { d.take("global"), d.take("shared::cluster"), d.take("shared::cta"); }

}  // namespace

void decode_bulk(Decoder& d, Instr& i, bool reduce) {
  if (d.take("commit_group")) { i.run = commit_stores; return; }
  if (d.take("wait_group")) {
    i.flags = d.take("read"), i.imm = d.immediate(), i.run = wait_stores;
    return;
  }
  bool prefetch = d.take("prefetch"), tensor = d.take("tensor"), store = to_global(d);
  if (prefetch) {
    d.require("L2"), d.require("global");
    bool hint = d.take("L2::cache_hint");
    if (tensor) {
      int rank = rank_of(d);
      bool im2col = d.take("im2col");
      d.take("tile");
      coordinates(d, i.mem, rank);
      if (im2col) d.sources(4);
    } else {
      i.mem = d.address(), d.source(4);
    }
    if (hint) d.source(8);
    i.run = nothing;
    return;
  }
  bool from_shared = !store && d.position("shared::cta") >= 0 && d.position("global") < 0;
  if (store) d.require("bulk_group");
  else d.require("mbarrier::complete_tx::bytes");
  take_spaces(d);
  bool hint = d.take("L2::cache_hint");
  if (reduce) {
    if (!store) d.refuse("reductions into shared memory are not supported");
    i.op = decode_atomic_operation(d), i.flags = 1;
    if (i.op == 3 || i.op == 4) d.refuse("this reduction is not supported");
    d.take("noftz");
  }
  if (tensor) {
    int rank = rank_of(d);
    bool im2col = d.take(store ? "im2col_no_offs" : "im2col");
    if (!im2col) d.take("tile");
    if (store) {
      i.mode = rank, i.imm = im2col;
      i.regs = coordinates(d, i.mem, rank);
      i.mem2 = d.address(), i.run = tensor_store;
    } else {
      bool multicast = d.take("multicast::cluster");
      i.op = rank, i.mode = im2col;
      i.mem = d.address();
      i.regs = coordinates(d, i.mem2, rank);
      i.mem3 = d.address();
      if (im2col) d.more_sources(i, 4, rank - 2);
      if (multicast) i.a = d.source(4);
      i.run = tensor_load;
    }
  } else if (store) {
    if (reduce) i.type = d.type();
    i.mem = d.address(), i.mem2 = d.address(), i.b = d.source(4), i.run = bulk_store;
  } else {
    bool multicast = d.take("multicast::cluster");
    i.mode = from_shared;
    i.mem = d.address(), i.mem2 = d.address(), i.b = d.source(4), i.mem3 = d.address();
    if (multicast) i.a = d.source(4);
    i.run = bulk_load;
  }
  if (hint) d.source(8);
}

void finish_stores(Warp& w, u32 mask, u32 keep, bool read_only) {
  drop_if(w.stores, [&](BulkStore& s) {
    if (!(mask >> s.lane & 1) || w.store_group[s.lane] - s.group <= keep) return false;
    if (!s.read || !read_only) w.machine->note_wait(w);
    try {
      if (!s.read) read_source(w, s);
      if (!read_only) write_destination(w, s);
    } catch (const Skip&) {        // a finding, after which the run goes on without this store
      return true;
    }
    return !read_only;
  });
}

void land_bulk(Warp& w, const Transfer& t) {
  Machine& m = *w.machine;
  u8* shared = t.cta->shared.data();
  mark_source(w, t, -1);
  const Buffer* known = t.map ? &m.buffers[size_t(t.map->buffer)] : nullptr;
  const bool tracked = known ? known->writable : has_shadow(m, t.source);
  auto put = [&](u32 at, u64 global, u32 bytes) {
    if (!global) {
      if (t.map->nan_fill) memset(shared + at, 0xFF, bytes);
      else memset(shared + at, 0, bytes);
      return;
    }
    const bool within = known && global >= known->base && global + bytes <= known->base + known->size;
    const u8* p = within ? known->data + (global - known->base) : global_pointer(w, global, bytes, false, "tensor load");
    if (!p) return;
    if (tracked) check_global_access(w, global, bytes, false, kAnyLane, false, t.clock, true);
    if (bytes == 16) memcpy(shared + at, p, 16);      // the usual piece, without a call
    else memcpy(shared + at, p, bytes);
    if (t.map && t.map->rounds) round_words(shared + at, bytes);
  };
  if (t.map) for_pieces(*t.map, t.destination, t.coordinates, t.offsets, put);
  else if (t.kind == Transfer::Linear) for (u32 k = 0; k < t.bytes; k += 16) put(t.destination + k, t.source + k, 16);
  else {
    const u8* source = t.source_cta->shared.data() + t.source;
    if (hash_bytes(source, t.bytes) != t.hash) m.report("asynchronous", "the source of a bulk copy was overwritten before the copy had read it", &w);
    memcpy(shared + t.destination, source, t.bytes);
  }
}

}  // namespace emu
