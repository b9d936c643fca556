// The asynchronous engine: cp.async, st.async, and the landing of all that is in flight (bulk and tensor-map copies: bulk.cpp;
// the mbarriers they complete on: mbarrier.cpp). Everything lands as late as is legal, or at a random moment, never earlier
// than a kernel may rely on; until then the destination holds NaN patterns and reading it is a finding.
#include <algorithm>

#include "async.hpp"

namespace emu {
namespace {

// ---- cp.async -----------------------------------------------------------------------------------------------------------------
u32 own_address(Warp& w, u32 address) {
  if (address >> 24 && &shared_target(w, address) != w.cta)
    w.machine->stop("bounds", "cp.async writes the shared memory of its own CTA only", &w);
  return address;
}
void copy_async(Warp& w, const Instr& i, u32 m) {
  const int bytes = int(i.imm);
  Cta& cta = *w.cta;
  u32 addresses[32] = {0};
  for_lanes(m, [&](int l) { addresses[l] = own_address(w, shared_address_of(w, i.mem, l)); });
  check_lanes(cta, addresses, m, u32(bytes), true, {&w, 0, w.agent, &w.clock, false, "cp.async write", false, Cell::Pending});
  for_lanes(m, [&](int l) {
    const u32 destination = addresses[l];
    const u64 source = address_of(w, i.mem2, l);
    int valid = bytes;
    if (i.a >= 0) valid = int(reg<u32>(w, i.a)[l]);
    if (i.c >= 0 && (pred(w, i.c) ^ (i.flags ? ~0u : 0)) >> l & 1) valid = 0;   // ignore-src
    if (valid < 0 || valid > bytes) w.machine->stop("bounds", format("cp.async of %d bytes with src-size %d", bytes, valid), &w);
    if (destination % u32(bytes) || source % u64(bytes))
      w.machine->stop("alignment", format("cp.async of %d bytes between misaligned addresses (shared byte %d, global 0x%llx)",
                                          bytes, byte_of(destination), (unsigned long long)source), &w);
    const u8* from = valid ? global_pointer(w, source, u32(valid), false, "cp.async read") : nullptr;
    const bool tracked = from && has_shadow(*w.machine, source);
    if (tracked) check_global_access(w, source, u32(valid), false, l, false, w.clock), mark_readers(w, source, u32(valid), 1);
    if (bytes == 16) memset(cta.shared.data() + destination, 0xFF, 16);      // without a call
    else memset(cta.shared.data() + destination, 0xFF, size_t(bytes));
    CopyAsync& c = w.copies.emplace_back();      // member by member: a copy of one on the stack would wait for its stores
    c.lane = l, c.group = w.copy_group[l], c.destination = destination, c.source = source, c.from = from;
    c.bytes = u16(bytes), c.valid = u16(from ? valid : 0), c.tracked = tracked, c.instr = &i;
  });
  count_banks(w, addresses, m, span_of(addresses, m), bytes, true);
}
void finish_copy(Warp& w, const CopyAsync& c, const Clock& clock) {
  u8* p = w.cta->shared.data() + c.destination;
  if (c.valid == 16) memcpy(p, c.from, 16);
  else {
    memset(p, 0, c.bytes);
    if (c.valid) memcpy(p, c.from, c.valid);
  }
  if (c.tracked) {
    mark_readers(w, c.source, c.valid, -1);
    check_global_access(w, c.source, c.valid, false, c.lane, false, clock);
  }
}
void commit_copies(Warp& w, const Instr&, u32 m) {
  for_lanes(m, [&](int l) { ++w.copy_group[l]; });
}
void wait_copies(Warp& w, const Instr& i, u32 m) { finish_copies(w, m, u32(i.imm)); }

// st.async, red.async: registers to the shared memory of a CTA of the cluster, completing on an mbarrier beside the target
void async_store(Warp& w, const Instr& i, u32 m) {
  u32 size = u32(type_size(i.type));
  for_lanes(m, [&](int l) {
    Transfer t{};
    t.kind = Transfer::Value, t.type = i.type, t.reduction = i.flags ? i.op : -1;
    t.bytes = size * u32(i.regs.size());
    for (int slot : i.regs) {
      const u64 v = bits_of(w, slot, l, size == 8);
      t.value.insert(t.value.end(), reinterpret_cast<const u8*>(&v), reinterpret_cast<const u8*>(&v) + size);
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
    drop_if(w.copies, mine);
    cta.cluster->in_flight.push_back(std::move(t));
  }
}

// ---- decoding ---------------------------------------------------------------------------------------------------------------------------
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
    if (o.kind == Operand::Register && o.width == 1) i.c = d.predicate(i.flags, 1);
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
  const size_t before = w.copies.size();
  u32 addresses[32], lanes = 0, bytes = 0;      // copies by several lanes are checked at once
  auto check = [&] {
    if (lanes) check_lanes(*w.cta, addresses, lanes, bytes, true, {&w, 0, w.agent, &w.clock, false, "cp.async write", false, 0, true});
    lanes = 0;
  };
  drop_if(w.copies, [&](const CopyAsync& c) {
    if (!(mask >> c.lane & 1) || (!all && w.copy_group[c.lane] - c.group <= keep)) return false;
    if (lanes >> c.lane || bytes != c.bytes) check();
    lanes |= 1u << c.lane, addresses[c.lane] = c.destination, bytes = c.bytes;
    finish_copy(w, c, w.clock);
    return true;
  });
  check();
  if (w.copies.size() < before) w.machine->note_wait(w);
}

void land(Cluster& c, size_t which) {
  Transfer t = std::move(c.in_flight[which]);
  c.in_flight[which] = std::move(c.in_flight.back());
  c.in_flight.pop_back();
  Machine& m = *c.machine;
  Warp& w = *t.warp;
  At here(w, t.pc);                  // findings name the copy
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
    for (auto& copy : t.copies) {
      finish_copy(w, copy, clock);
      check_access(*w.cta, copy.destination, copy.bytes, true, {&w, kAnyLane, agent, &clock, false, "cp.async write", false, 0, true});
    }
  } else {
    require_visible(w, b, t.barrier, "an asynchronous copy",
                    t.barrier_cta == w.cta && t.clock.local[size_t(b.init_agent)] >= b.init_clock);
    check_access(*t.cta, t.destination, t.bytes, true,
                 {&w, kAnyLane, agent, &clock, t.kind != Transfer::Value, "asynchronous copy write", t.reduction >= 0, 0, true});
    if (t.kind == Transfer::Value) {
      if (t.reduction < 0) memcpy(shared + t.destination, t.value.data(), t.bytes);
      else reduce_at(shared + t.destination, t.value.data(), t.reduction, t.type);
    } else land_bulk(w, t);
  }
  b.arriving.join(clock);
  if (t.kind == Transfer::Arrive) {
    if (t.bytes > b.pending) m.stop("mbarrier", "cp.async.mbarrier.arrive exceeds the mbarrier's count", &w);
    b.pending -= t.bytes;
  } else {
    add_transactions(w, b, -s64(t.bytes), t.barrier);
  }
  complete_if_done(c, b);
  ++m.progress;
}

void check_in_flight(Warp& w) {
  Machine& m = *w.machine;
  bool unread = false;
  for (auto& s : w.stores) unread |= !s.read;
  if (unread) m.advise("unawaited", "a thread ended with a bulk store that it had not waited for (it completes all the same)", &w);
  for (int l = 0; l < 32; ++l) ++w.store_group[l];
  finish_stores(w, ~0u, 0, false);
  for (auto& c : w.copies) {
    if (!c.valid) continue;
    m.advise("unawaited", "a thread ended with a cp.async that it had not waited for (what it copies is lost)", &w, c.instr);
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

const Opcodes opcodes{{"cp", decode_cp}};

}  // namespace emu
