// The asynchronous engine: cp.async, bulk copies, tensor-map copies (TMA), and the mbarriers they complete on. Everything
// lands as late as is legal, or at a random moment, never earlier than a kernel may rely on; until then the destination
// holds NaN patterns and reading it is a finding.
#include <algorithm>

#include "decoder.hpp"
#include "machine.hpp"

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
    u64 v;
    memcpy(&v, p, 8);
    h = (h ^ v) * 1099511628211ull;
  }
  for (; n; --n, ++p) h = (h ^ *p) * 1099511628211ull;
  return h;
}
u32 swizzled(u32 address, int span) {       // XOR of the 16-byte chunk with the row of the 128-byte line pattern
  u32 mask = span == 128 ? 7 : span == 64 ? 3 : span == 32 ? 1 : 0;
  return address ^ ((address >> 7 & mask) << 4);
}

// ---- mbarrier ---------------------------------------------------------------------------------------------------------------
s32 byte_of(u32 address) { return s32(address & 0xFFFFFF) - s32(kSharedStart); }

// Whether `mine` holds all of `other`, so that joining it tells nothing.
bool knows(const Clock& mine, const Clock& other) {
  for (size_t k = 0; k < other.local.size(); ++k)
    if (other.local[k] > (k < mine.local.size() ? mine.local[k] : 0)) return false;
  return !other.foreign || other.foreign == mine.foreign;
}
Mbarrier& find_mbarrier(Warp& w, Cta& cta, u32 address) {
  auto it = cta.mbarriers.find(address);
  if (it == cta.mbarriers.end())
    w.machine->stop("mbarrier", format("the mbarrier at shared memory byte %d was never initialised", byte_of(address)), &w);
  return it->second;
}
void require_visible(Warp& w, Mbarrier& b, u32 address, const char* by) {
  if (b.visible) return;
  b.visible = true;
  if (w.machine->checks.proxies)
    w.machine->report("proxy", format("%s uses the mbarrier at byte %d, whose initialisation no fence.mbarrier_init or "
                                      "fence.proxy.async has made visible", by, byte_of(address)), &w);
}
void complete_if_done(Cluster& c, Mbarrier& b) {
  if (b.pending || b.transactions) return;
  ++b.phase;
  b.pending = b.expected;
  b.done = b.arriving;
  c.changed = true;
  ++c.machine->progress;
}
void add_transactions(Warp& w, Mbarrier& b, s64 n, u32 address) {
  b.transactions += n;
  if (b.transactions > (1 << 20) - 1 || b.transactions < -((1 << 20) - 1))
    w.machine->stop("mbarrier", format("the transaction count of the mbarrier at byte %d leaves its range of 2^20 - 1",
                                       byte_of(address)), &w);
}

void mbarrier_init(Warp& w, const Instr& i, u32 m) {
  for_lanes(m, [&](int l) {
    u32 a = shared_address_of(w, i.mem, l), n = reg<u32>(w, i.a)[l];
    if (a & 7) w.machine->stop("alignment", "mbarrier.init at an address that is no multiple of 8", &w);
    if (n == 0 || n >= 1u << 20) w.machine->stop("mbarrier", format("mbarrier.init with count %u; 1 to 2^20 - 1 are legal", n), &w);
    Cta& cta = shared_target(w, a);
    if (cta.mbarriers.count(a))
      w.machine->report("mbarrier", format("mbarrier.init at byte %d of an mbarrier that is live (mbarrier.inval is missing)", byte_of(a)), &w);
    set_flags(cta, a, 8, 0, Cell::Mbarrier);
    touch(cta, a, 8, true, {&w, l, w.agent, &w.clock, false, "mbarrier.init"});
    set_flags(cta, a, 8, Cell::Mbarrier, 0);
    Mbarrier b{n, n, 0, 0, 0, false, int(w.agent), {}, {}};
    Cluster& c = *w.cta->cluster;
    u32 first = w.machine->first_mbarrier_agent();
    b.agent = int(first + u32(c.next_mbarrier_agent++) % (w.machine->agents - first));
    cta.mbarriers[a] = b;
  });
}
void mbarrier_inval(Warp& w, const Instr& i, u32 m) {
  for_lanes(m, [&](int l) {
    u32 a = shared_address_of(w, i.mem, l);
    Cta& cta = shared_target(w, a);
    find_mbarrier(w, cta, a);
    cta.mbarriers.erase(a);
    set_flags(cta, a, 8, Cell::Uninitialised, Cell::Mbarrier);
  });
}

// Instr::op: 0 arrive, 1 arrive.expect_tx, 2 expect_tx, 3 complete_tx, 4 arrive.noComplete; flags: 1 drop, 2 relaxed.
void mbarrier_arrive(Warp& w, const Instr& i, u32 m) {
  for_lanes(m, [&](int l) {
    u32 a = shared_address_of(w, i.mem, l);
    Cta& cta = shared_target(w, a);
    Mbarrier& b = find_mbarrier(w, cta, a);
    if (&cta != w.cta) require_visible(w, b, a, "a remote arrive");
    u32 operand = i.a >= 0 ? reg<u32>(w, i.a)[l] : 1;
    if (i.op == 1 || i.op == 2) add_transactions(w, b, operand, a);
    if (i.op == 3) add_transactions(w, b, -s64(operand), a);
    if (i.op == 2 || i.op == 3) {
      if (i.op == 3) complete_if_done(*cta.cluster, b);
      return;
    }
    u32 n = i.op == 1 ? 1 : operand;
    if (i.dst >= 0) reg<u64>(w, i.dst)[l] = b.phase | u64(b.pending) << 32;      // the state before the arrival
    if (n == 0 || n > b.pending)
      w.machine->stop("mbarrier", format("the mbarrier at byte %d gets more arrivals than its count of %u in one phase",
                                         byte_of(a), b.expected), &w);
    if (i.flags & 1) {
      if (b.expected < n) w.machine->stop("mbarrier", "arrive_drop below a count of zero", &w);
      b.expected -= n;
    }
    if (!(i.flags & 2)) release(w, b.arriving);
    b.pending -= n;
    if (i.op == 4 && b.pending == 0 && b.transactions == 0)
      w.machine->report("mbarrier", "mbarrier.arrive.noComplete completes the phase", &w);
    complete_if_done(*cta.cluster, b);
  });
}
// Lanes whose phase is complete. Instr::op: 1 parity, else a state token; flags: 2 relaxed.
bool mbarrier_wait(Warp& w, const Instr& i, u32 m) {
  u32 done = 0;
  for_lanes(m, [&](int l) {
    u32 a = shared_address_of(w, i.mem, l);
    Cta& cta = shared_target(w, a);
    if (&cta != w.cta) w.machine->stop("mbarrier", "waiting on another CTA's mbarrier is not possible", &w);
    Mbarrier& b = find_mbarrier(w, cta, a);
    bool complete;
    if (i.op == 1) {
      u32 parity = reg<u32>(w, i.a)[l];
      if (parity > 1) w.machine->stop("mbarrier", format("mbarrier wait with parity %u", parity), &w);
      complete = (b.phase & 1) != parity;
    } else {
      u64 token = reg<u64>(w, i.a)[l] & 0xFFFFFFFF;
      if (token != b.phase && token + 1 != b.phase)
        w.machine->stop("mbarrier", "mbarrier wait with a state that is older than the last phase", &w);
      complete = token != b.phase;
    }
    if (!complete) return;
    done |= 1u << l;
    if (i.flags & 2) return;
    if (!knows(w.clock, b.done)) w.machine->note_wait(w);
    acquire(w, b.done);
  });
  set_pred(w, i.dst, m, done);
  if (done != m) w.machine->note_wait(w);
  return done == m;
}

void pending_count(Warp& w, const Instr& i, u32 m) {
  const u64* state = reg<u64>(w, i.a);
  write_lanes<u32>(w, i.dst, m, [=](int l) { return u32(state[l] >> 32); });
}
void decode_mbarrier(Decoder& d, Instr& i) {
  if (d.take("pending_count")) {
    d.type_in({Type::B64});
    i.dst = d.destination(4), i.a = d.source(8), i.run = pending_count;
    return;
  }
  d.kernel().note_access(Space::Shared, 8);
  auto semantics = [&](const char* strong) {
    if (d.take("relaxed")) i.flags |= 2;
    else d.take(strong);
    d.choose({"cta", "cluster"}, 0);
    d.space(Space::Generic);
    d.type_in({Type::B64});
  };
  if (d.take("init")) {
    d.space(Space::Generic), d.type_in({Type::B64});
    i.mem = d.address(), i.a = d.source(4), i.run = mbarrier_init;
  } else if (d.take("inval")) {
    d.space(Space::Generic), d.type_in({Type::B64});
    i.mem = d.address(), i.run = mbarrier_inval;
  } else if (d.take("test_wait") || d.take("try_wait")) {
    bool blocking = d.opcode().find("try_wait") != string::npos;
    i.op = d.take("parity");
    semantics("acquire");
    i.dst = d.predicate(), i.mem = d.address(), i.a = d.source(i.op ? 4 : 8);
    if (d.left()) d.source(4);      // suspend-time hint
    i.flow = Flow::MbarrierWait, i.mode = blocking, i.sync = mbarrier_wait;
  } else if (d.take("arrive") || d.take("arrive_drop")) {
    if (d.opcode().find("arrive_drop") != string::npos) i.flags |= 1;
    i.op = d.take("expect_tx") ? 1 : d.take("noComplete") ? 4 : 0;
    semantics("release");
    if (d.text()[0] != '[') i.dst = d.destination(8);
    i.mem = d.address();
    if (i.op || d.left()) i.a = d.source(4);
    i.run = mbarrier_arrive;
  } else if (d.take("expect_tx") || d.take("complete_tx")) {
    i.op = d.opcode().find("expect_tx") != string::npos ? 2 : 3;
    semantics("relaxed");
    i.mem = d.address(), i.a = d.source(4), i.run = mbarrier_arrive;
  } else {
    d.refuse("this form is not supported");
  }
}

// ---- cp.async -----------------------------------------------------------------------------------------------------------------
void copy_async(Warp& w, const Instr& i, u32 m) {
  u32 addresses[32] = {0};
  for_lanes(m, [&](int l) {
    u32 destination = shared_address_of(w, i.mem, l);
    addresses[l] = destination;
    u64 source = address_of(w, i.mem2, l);
    int bytes = int(i.imm), valid = bytes;
    if (i.a >= 0) valid = int(reg<u32>(w, i.a)[l]);
    if (i.c >= 0 && (pred(w, i.c) ^ (i.flags ? ~0u : 0)) >> l & 1) valid = 0;   // ignore-src
    if (valid < 0 || valid > bytes) w.machine->stop("bounds", format("cp.async of %d bytes with src-size %d", bytes, valid), &w);
    if (destination % u32(bytes) || source % u64(bytes))
      w.machine->stop("alignment", format("cp.async of %d bytes between misaligned addresses (shared byte %d, global 0x%llx)",
                                          bytes, byte_of(destination), (unsigned long long)source), &w);
    Cta& cta = shared_target(w, destination);
    touch(cta, destination, u32(bytes), true, {&w, l, w.agent, &w.clock, false, "cp.async write"});
    set_flags(cta, destination, u32(bytes), Cell::Pending, 0);
    if (valid && !global_pointer(w, source, u32(valid), false, "cp.async read")) valid = 0;
    if (valid) touch_global(w, source, u32(valid), false, l, false, w.clock), mark_readers(w, source, u32(valid), 1);
    memset(cta.shared.data() + destination, 0xFF, size_t(bytes));
    w.copies.push_back({l, w.copy_group[l], destination, source, bytes, valid, &i});
  });
  count_banks(w, addresses, m, int(i.imm), true);
}
void finish_copy(Warp& w, Cta& cta, const CopyAsync& c, const Accessor& by) {
  set_flags(cta, c.destination, u32(c.bytes), 0, Cell::Pending);
  u8* p = cta.shared.data() + c.destination;
  memset(p, 0, size_t(c.bytes));
  if (c.valid) {
    mark_readers(w, c.source, u32(c.valid), -1);
    memcpy(p, global_pointer(w, c.source, u32(c.valid), false, "cp.async read"), size_t(c.valid));
    touch_global(w, c.source, u32(c.valid), false, c.lane, false, *by.clock);
  }
  touch(cta, c.destination, u32(c.bytes), true, by);
}
void commit_copies(Warp& w, const Instr&, u32 m) {
  for_lanes(m, [&](int l) { ++w.copy_group[l]; });
}
void wait_copies(Warp& w, const Instr& i, u32 m) { finish_copies(w, m, u32(i.imm)); }

// ---- tensor maps ----------------------------------------------------------------------------------------------------------------
const TensorMap& tensor_map(Warp& w, u64 address) {
  Machine& m = *w.machine;
  u64 at = address - kParamWindow, index = 0;
  if (address < kParamWindow || at + 128 > m.params.size())
    m.stop("tensor_map", "the tensor map is not a kernel parameter passed by value (const __grid_constant__)", &w);
  if (at & 63) m.stop("tensor_map", "the tensor map is not aligned to 64 bytes", &w);
  u64 magic;
  memcpy(&magic, m.params.data() + at, 8);
  memcpy(&index, m.params.data() + at + 8, 8);
  if (magic != 0x70616d726f736e65ull || index >= m.tensor_maps.size())
    m.stop("tensor_map", "the parameter named as tensor map does not hold one", &w);
  return m.tensor_maps[size_t(index)];
}

// Calls f(shared address, global address or 0, bytes) for pieces of at most 16 bytes of the box at coordinates c.
template <class Piece>
void for_row(const TensorMap& m, u32 shared, u64 row, bool inside, s64 x, u32 count, u32 step, const Piece& f) {
  u32 e = u32(m.element), per = 16 / e;
  if (step == 1) {
    for (u32 k = 0; k < count; k += per) {
      u32 n = std::min(per, count - k), at = swizzled(shared + k * e, m.swizzle);
      s64 first = x + k;
      bool all = inside && first >= 0 && first + s64(n) <= s64(m.dims[0]);
      if (all) { f(at, row + u64(first) * e, n * e); continue; }
      for (u32 q = 0; q < n; ++q) {
        bool in = inside && first + s64(q) >= 0 && first + s64(q) < s64(m.dims[0]);
        f(at + q * e, in ? row + u64(first + s64(q)) * e : 0, e);
      }
    }
    return;
  }
  for (u32 k = 0; k < count; ++k) {
    s64 gx = x + s64(k) * step;
    bool in = inside && gx >= 0 && gx < s64(m.dims[0]);
    f(swizzled(shared + k * e, m.swizzle), in ? row + u64(gx) * e : 0, e);
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
void begin(Warp& w, Transfer& t, int lane, const char* what) {
  Cta& cta = *t.cta;
  touch(cta, t.destination, t.bytes, true, {&w, lane, w.agent, &w.clock, true, what});
  set_flags(cta, t.destination, t.bytes, Cell::Pending, Cell::Generic);
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
    t.map = &tensor_map(w, address_of(w, i.mem2, l));
    t.kind = t.map->im2col ? Transfer::Im2Col : Transfer::Tile;
    if (t.map->rank != i.op) w.machine->stop("tensor_map", format("a %dd copy with a tensor map of rank %d", i.op, t.map->rank), &w);
    if (t.map->im2col != bool(i.mode)) w.machine->stop("tensor_map", "tile and im2col mode of copy and tensor map differ", &w);
    for (int k = 0; k < i.op; ++k) t.coordinates[k] = reg<s32>(w, i.regs[size_t(k)])[l];
    for (size_t k = size_t(i.op); k < i.regs.size(); ++k)
      t.offsets[k - size_t(i.op)] = u16(reg<u32>(w, i.regs[k])[l]);
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
      touch(*t.source_cta, source, t.bytes, false, {&w, l, w.agent, &w.clock, true, "cp.async.bulk read"});
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

// st.async, red.async: registers to the shared memory of a CTA of the cluster, completing on an mbarrier beside the target
void async_store(Warp& w, const Instr& i, u32 m) {
  u32 size = u32(type_size(i.type));
  for_lanes(m, [&](int l) {
    Transfer t{};
    t.kind = Transfer::Value, t.type = i.type, t.reduction = i.flags ? i.op : -1;
    t.bytes = size * u32(i.regs.size());
    for (int slot : i.regs) {
      u64 v = size == 8 ? reg<u64>(w, slot)[l] : reg<u32>(w, slot)[l];
      t.value.insert(t.value.end(), reinterpret_cast<u8*>(&v), reinterpret_cast<u8*>(&v) + size);
    }
    u32 destination = shared_address_of(w, i.mem, l), barrier = shared_address_of(w, i.mem2, l);
    if (destination % t.bytes || barrier & 7)
      w.machine->stop("alignment", format("%s of %u bytes to a misaligned address", i.flags ? "red.async" : "st.async", t.bytes), &w);
    Cta& cta = shared_target(w, destination);
    t.cta = &cta, t.barrier_cta = &shared_target(w, barrier);
    t.destination = destination, t.barrier = barrier;
    if (t.barrier_cta != t.cta)
      w.machine->stop("mbarrier", "the mbarrier of an asynchronous store lies in another CTA than its target", &w);
    t.clock = w.clock, t.warp = &w, t.pc = w.pc;
    cta.cluster->in_flight.push_back(std::move(t));
  });
  ++w.clock.local[w.agent];
}

// ---- stores from shared memory ------------------------------------------------------------------------------------------------------
template <class Piece>
void for_destination(const BulkStore& s, const Piece& f) {
  static const int no_offsets[3] = {0, 0, 0};
  if (s.map) for_pieces(*s.map, s.source, s.coordinates, no_offsets, f);
  else for (u32 k = 0; k < s.bytes; k += 16) f(s.source + k, s.destination + k, 16);
}
void queue_store(Warp& w, BulkStore& s, int lane, const Instr& i) {
  touch(*w.cta, s.source, s.bytes, false, {&w, lane, w.agent, &w.clock, true, "bulk store read"});
  s.lane = lane, s.group = w.store_group[lane], s.instr = &i;
  s.hash = hash_bytes(w.cta->shared.data() + s.source, s.bytes);
  s.reduction = i.flags ? i.op : -1;
  s.type = i.type;
  for_destination(s, [&](u32, u64 global, u32 bytes) { if (global) mark_pending(w, global, bytes); });
  w.stores.push_back(std::move(s));
}
Type element_type(const TensorMap& m) { return Type(m.type); }
void tensor_store(Warp& w, const Instr& i, u32 m) {
  for_lanes(m, [&](int l) {
    BulkStore s{};
    s.map = &tensor_map(w, address_of(w, i.mem, l));
    if (s.map->im2col != bool(i.imm)) w.machine->stop("tensor_map", "tile and im2col mode of copy and tensor map differ", &w);
    if (s.map->rank != i.mode) w.machine->stop("tensor_map", format("a %dd copy with a tensor map of rank %d", i.mode, s.map->rank), &w);
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
    global_pointer(w, s.destination, s.bytes, true, "bulk store");
    queue_store(w, s, l, i);
  });
}
void commit_stores(Warp& w, const Instr&, u32 m) {
  for_lanes(m, [&](int l) { ++w.store_group[l]; });
}
void wait_stores(Warp& w, const Instr& i, u32 m) { finish_stores(w, m, u32(i.imm), i.flags); }

void read_source(Warp& w, BulkStore& s) {
  const u8* p = w.cta->shared.data() + s.source;
  if (hash_bytes(p, s.bytes) != s.hash)
    w.machine->report("asynchronous", format("the source of the bulk store at PTX line %d was overwritten before the store had "
                                             "read it", s.instr->line), &w);
  touch(*w.cta, s.source, s.bytes, false, {&w, s.lane, w.agent, &w.clock, true, "bulk store read"});
  s.data.assign(p, p + s.bytes);
  s.read = true;
}
void write_destination(Warp& w, BulkStore& s) {
  auto put = [&](u32 at, u64 global, u32 bytes) {
    if (!global) return;
    u8* p = global_pointer(w, global, bytes, true, "bulk store");
    if (!p) return;
    touch_global(w, global, bytes, true, s.lane, s.reduction >= 0, w.clock, true);
    if (s.reduction < 0) {
      memcpy(p, s.data.data() + (at - s.source), bytes);
      return;
    }
    Type t = s.map ? element_type(*s.map) : s.type;
    size_t size = size_t(type_size(t));
    for (u32 k = 0; k < bytes; k += u32(size)) {
      u64 old = 0, operand = 0;
      memcpy(&old, p + k, size);
      memcpy(&operand, s.data.data() + (at - s.source) + k, size);
      u64 r = combine_atomic(s.reduction, t, old, operand, 0);
      memcpy(p + k, &r, size);
    }
  };
  for_destination(s, put);
  ++w.machine->progress;
}

void copy_arrive(Warp& w, const Instr& i, u32 m) {     // cp.async.mbarrier.arrive[.noinc]
  std::map<u32, vector<int>> by_barrier;
  for_lanes(m, [&](int l) { by_barrier[shared_address_of(w, i.mem, l)].push_back(l); });
  for (auto& group : by_barrier) {
    u32 a = group.first;
    Cta& cta = shared_target(w, a);
    Mbarrier& b = find_mbarrier(w, cta, a);
    if (!i.flags) b.pending += u32(group.second.size());
    Transfer t{};
    t.kind = Transfer::Arrive, t.cta = t.barrier_cta = &cta, t.barrier = a, t.bytes = u32(group.second.size());
    t.warp = &w, t.pc = w.pc;
    release(w, t.clock);
    auto mine = [&](const CopyAsync& c) { return std::count(group.second.begin(), group.second.end(), c.lane) > 0; };
    std::copy_if(w.copies.begin(), w.copies.end(), std::back_inserter(t.copies), mine);
    w.copies.erase(std::remove_if(w.copies.begin(), w.copies.end(), mine), w.copies.end());
    cta.cluster->in_flight.push_back(std::move(t));
  }
}

// ---- decoding ---------------------------------------------------------------------------------------------------------------------------
vector<int> coordinates(Decoder& d, const Operand& map, int rank) {
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
    Operand whole;
    if (tensor) {
      int rank = rank_of(d);
      bool im2col = d.take("im2col");
      d.take("tile");
      i.mem = d.address_with_parts(whole);
      coordinates(d, whole, rank);
      if (im2col) d.sources(4);
    } else {
      i.mem = d.address(), d.source(4);
    }
    if (hint) d.source(8);
    i.run = [](Warp&, const Instr&, u32) {};
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
  Operand whole;
  if (tensor) {
    int rank = rank_of(d);
    bool im2col = d.take(store ? "im2col_no_offs" : "im2col");
    if (!im2col) d.take("tile");
    if (store) {
      i.mode = rank, i.imm = im2col;
      i.mem = d.address_with_parts(whole);
      i.regs = coordinates(d, whole, rank);
      i.mem2 = d.address(), i.run = tensor_store;
    } else {
      bool multicast = d.take("multicast::cluster");
      i.op = rank, i.mode = im2col;
      i.mem = d.address();
      i.mem2 = d.address_with_parts(whole);
      i.regs = coordinates(d, whole, rank);
      i.mem3 = d.address();
      if (im2col) {
        auto offsets = d.sources(4, rank - 2);
        i.regs.insert(i.regs.end(), offsets.begin(), offsets.end());
      }
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
void decode_cp(Decoder& d, Instr& i) {
  if (d.take("reduce")) {
    d.require("async"), d.require("bulk");
    return decode_bulk(d, i, true);
  }
  d.require("async");
  if (d.take("bulk")) return decode_bulk(d, i, false);
  if (d.take("commit_group")) { i.run = commit_copies; return; }
  if (d.take("wait_group")) { i.imm = d.immediate(), i.run = wait_copies; return; }
  if (d.take("wait_all")) { i.imm = -1, i.run = wait_copies; return; }
  if (d.take("mbarrier")) {
    d.require("arrive");
    i.flags = d.take("noinc");
    d.space(Space::Generic), d.type_in({Type::B64});
    i.mem = d.address(), i.run = copy_arrive;
    return;
  }
  bool cg = d.choose({"ca", "cg"}, -1) == 1;
  if (!d.take("shared") && !d.take("shared::cta")) d.refuse("the destination has to be .shared");
  d.require("global");
  bool hint = d.take("L2::cache_hint");
  d.take("L2::64B"), d.take("L2::128B"), d.take("L2::256B");
  i.mem = d.address(), i.mem2 = d.address(), i.imm = d.immediate();
  if (i.imm != 16 && (cg || (i.imm != 4 && i.imm != 8))) d.refuse("this copy size is not supported");
  if (d.left() > size_t(hint)) {
    Operand o = d.peek();
    bool negated = false;
    if (o.kind == Operand::Register && o.width == 1) i.c = d.predicate(&negated), i.flags = negated;
    else i.a = d.source(4);
  }
  if (hint) d.source(8);
  d.kernel().note_access(Space::Shared, int(i.imm));
  d.kernel().note_access(Space::Global, i.a >= 0 ? 1 : int(i.imm));
  i.run = copy_async;
}

}  // namespace

void finish_copies(Warp& w, u32 mask, u32 keep) {
  bool all = keep == u32(-1);        // wait_all also waits for copies that no group holds
  size_t kept = 0;
  for (auto& c : w.copies) {
    bool due = mask >> c.lane & 1 && (all || w.copy_group[c.lane] - c.group > keep);
    if (due) w.machine->note_wait(w), finish_copy(w, *w.cta, c, {&w, c.lane, w.agent, &w.clock, false, "cp.async write"});
    else w.copies[kept++] = c;
  }
  w.copies.resize(kept);
}

void finish_stores(Warp& w, u32 mask, u32 keep, bool read_only) {
  size_t kept = 0;
  for (size_t k = 0; k < w.stores.size(); ++k) {
    BulkStore& s = w.stores[k];
    bool due = mask >> s.lane & 1 && w.store_group[s.lane] - s.group > keep, gone = false;
    if (due) {
      if (!s.read || !read_only) w.machine->note_wait(w);
      if (!s.read) read_source(w, s);
      if (!read_only) write_destination(w, s), gone = true;
    }
    if (!gone) {
      if (kept != k) w.stores[kept] = std::move(s);
      ++kept;
    }
  }
  w.stores.resize(kept);
}

// A map of tf32 rounds to nearest, ties to even, what it loads; infinities and NaN keep their bits.
void round_words(u8* at, u32 bytes) {
  for (u32 k = 0; k < bytes; k += 4) {
    u32 word;
    memcpy(&word, at + k, 4);
    if ((word & 0x7F800000u) == 0x7F800000u) continue;
    word = round_tf32(bit_cast<float>(word), Round::NearestEven);
    memcpy(at + k, &word, 4);
  }
}

void land(Cluster& c, size_t which) {
  Transfer t = std::move(c.in_flight[which]);
  c.in_flight[which] = std::move(c.in_flight.back());
  c.in_flight.pop_back();
  Machine& m = *c.machine;
  Warp& w = *t.warp;
  int pc = w.pc;
  w.pc = t.pc;                       // findings name the copy
  if (t.cta->exited()) m.stop("exited_cta", format("an asynchronous copy lands in CTA %u of the cluster after it exited", t.cta->rank), &w);
  auto it = t.barrier_cta->mbarriers.find(t.barrier);
  if (it == t.barrier_cta->mbarriers.end())
    m.stop("mbarrier", format("an asynchronous copy completes on the mbarrier at byte %d, which is not initialised", byte_of(t.barrier)), &w);
  Mbarrier& b = it->second;
  u32 agent = u32(b.agent);
  Clock clock = t.clock;
  clock.local[agent] = ++c.agent_events[agent];
  u8* shared = t.cta->shared.data();
  if (t.kind == Transfer::Arrive) {
    for (auto& copy : t.copies) finish_copy(w, *w.cta, copy, {&w, kAnyLane, agent, &clock, false, "cp.async write"});
  } else {
    require_visible(w, b, t.barrier, "an asynchronous copy");
    set_flags(*t.cta, t.destination, t.bytes, 0, Cell::Pending);
    touch(*t.cta, t.destination, t.bytes, true,
          {&w, kAnyLane, agent, &clock, t.kind != Transfer::Value, "asynchronous copy write", t.reduction >= 0});
    mark_source(w, t, -1);
    auto put = [&](u32 at, u64 global, u32 bytes) {
      if (!global) {
        if (t.map->nan_fill) memset(shared + at, 0xFF, bytes);
        else memset(shared + at, 0, bytes);
        return;
      }
      const u8* p = global_pointer(w, global, bytes, false, "tensor load");
      if (!p) return;
      touch_global(w, global, bytes, false, kAnyLane, false, t.clock, true);
      memcpy(shared + at, p, bytes);
      if (t.map && t.map->rounds) round_words(shared + at, bytes);
    };
    if (t.kind == Transfer::Value) {
      if (t.reduction < 0) memcpy(shared + t.destination, t.value.data(), t.bytes);
      else {
        u64 old = 0, operand = 0;
        memcpy(&old, shared + t.destination, t.bytes), memcpy(&operand, t.value.data(), t.bytes);
        old = combine_atomic(t.reduction, t.type, old, operand, 0);
        memcpy(shared + t.destination, &old, t.bytes);
      }
    } else if (t.map) for_pieces(*t.map, t.destination, t.coordinates, t.offsets, put);
    else if (t.kind == Transfer::Linear) for (u32 k = 0; k < t.bytes; k += 16) put(t.destination + k, t.source + k, 16);
    else {
      const u8* source = t.source_cta->shared.data() + t.source;
      if (hash_bytes(source, t.bytes) != t.hash) m.report("asynchronous", "the source of a bulk copy was overwritten before the copy had read it", &w);
      memcpy(shared + t.destination, source, t.bytes);
    }
  }
  b.arriving.join(clock);
  if (t.kind == Transfer::Arrive) {
    if (t.bytes > b.pending) m.stop("mbarrier", "cp.async.mbarrier.arrive exceeds the mbarrier's count", &w);
    b.pending -= t.bytes;
  } else {
    add_transactions(w, b, -s64(t.bytes), t.barrier);
  }
  complete_if_done(c, b);
  w.pc = pc;
  ++m.progress;
}

void check_in_flight(Warp& w) {
  Machine& m = *w.machine;
  bool unread = false;
  for (auto& s : w.stores) unread |= !s.read;
  if (unread) m.report("asynchronous", "a thread ended with a bulk store that it had not waited for", &w);
  for (int l = 0; l < 32; ++l) ++w.store_group[l];
  finish_stores(w, ~0u, 0, false);
  for (auto& c : w.copies) {
    if (!c.valid) continue;
    m.report("asynchronous", "a thread ended with a cp.async that it had not waited for", &w, c.instr);
    break;
  }
  if (!w.wgmma.empty()) m.report("wgmma", "a warp ended with a wgmma that it had not waited for", &w);
}

void decode_async_store(Decoder& d, Instr& i, bool reduce) {
  if (reduce) d.require("relaxed"), d.require("cluster"), i.op = decode_atomic_operation(d), i.flags = 1;
  else d.take("weak");
  d.take("shared::cluster");
  d.require("mbarrier::complete_tx::bytes");
  int k = reduce ? 2 : d.choose({"v2", "v4"}, 2);
  i.type = d.type();
  int size = type_size(i.type);
  if (size < 4 || size > 8 || (reduce && (i.op == 3 || i.op == 4 || is_float(i.type)))) d.refuse("this operation and type are not supported");
  i.mem = d.address(), i.regs = d.sources(size, k == 2 ? 1 : 2 << k), i.mem2 = d.address();
  d.kernel().note_access(Space::Shared, size);
  i.run = async_store;
}

void register_async() {
  register_opcodes({{"mbarrier", decode_mbarrier}, {"cp", decode_cp}});
}

}  // namespace emu
