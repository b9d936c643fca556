// mbarriers: their initialisation, arrivals and waits.
#include "async.hpp"

namespace emu {

// `own`: by a copy of the mbarrier's own CTA, ordered after the initialisation. Devices need no fence then, and much code has none.
void require_visible(Warp& w, Mbarrier& b, u32 address, const char* by, bool own) {
  if (b.visible) return;
  b.visible = true;
  if (w.machine->checks.proxies)
    w.machine->report(own ? "unfenced" : "proxy",
                      format("%s uses the mbarrier at byte %d, whose initialisation no fence.mbarrier_init or fence.proxy.async "
                             "has made visible", by, byte_of(address)), &w, nullptr, own);
}
void add_transactions(Warp& w, Mbarrier& b, s64 n, u32 address) {
  b.transactions += n;
  if (b.transactions > (1 << 20) - 1 || b.transactions < -((1 << 20) - 1))
    w.machine->stop("mbarrier", format("the transaction count of the mbarrier at byte %d leaves its range of 2^20 - 1",
                                       byte_of(address)), &w);
}

namespace {

// Whether `mine` holds all of `other`, so that joining it tells nothing.
bool knows(const Clock& mine, const Clock& other) {
  for (size_t k = 0; k < other.local.size(); ++k)
    if (other.local[k] > (k < mine.local.size() ? mine.local[k] : 0)) return false;
  return !other.foreign || other.foreign == mine.foreign;
}

// Whether another live mbarrier shares the shadow cell. (mbarriers have 8 bytes; they do not make the cells smaller, since where all
// other accesses have 16, whatever touches the cell of an mbarrier touches it or its mate.)
bool cell_mate(const Cta& cta, u32 address) {
  return cta.cluster->machine->kernel->shared_granularity > 8 && cta.mbarriers.count(address ^ 8);
}
void mbarrier_init(Warp& w, const Instr& i, u32 m) {
  for_lanes(m, [&](int l) {
    u32 a = shared_address_of(w, i.mem, l), n = reg<u32>(w, i.a)[l];
    if (a & 7) w.machine->stop("alignment", "mbarrier.init at an address that is no multiple of 8", &w);
    if (n == 0 || n >= 1u << 20) w.machine->stop("mbarrier", format("mbarrier.init with count %u; 1 to 2^20 - 1 are legal", n), &w);
    Cta& cta = shared_target(w, a);
    if (cta.mbarriers.count(a))
      w.machine->report("mbarrier", format("mbarrier.init at byte %d of an mbarrier that is live (mbarrier.inval is missing)", byte_of(a)), &w);
    if (cell_mate(cta, a) && a + 8 <= cta.top) {  // whose initialisation is no access to this one
      w.machine->highest_shared = std::max(w.machine->highest_shared, a + 8);
    } else {
      set_flags(cta, a, 8, 0, Cell::Mbarrier);
      check_access(cta, a, 8, true, {&w, l, w.agent, &w.clock, false, "mbarrier.init"});
    }
    set_flags(cta, a, 8, Cell::Mbarrier, 0);
    Mbarrier b{n, n, 0, 0, 0, false, int(w.agent), w.clock.local[w.agent], {}, {}};
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
    if (!cell_mate(cta, a)) set_flags(cta, a, 8, Cell::Uninitialised, Cell::Mbarrier);
  });
}

// Instr::op: 0 arrive, 1 arrive.expect_tx, 2 expect_tx, 3 complete_tx, 4 arrive.noComplete; flags: 1 drop, 2 relaxed.
void mbarrier_arrive(Warp& w, const Instr& i, u32 m) {
  for_lanes(m, [&](int l) {
    u32 a = shared_address_of(w, i.mem, l);
    Cta& cta = shared_target(w, a);
    Mbarrier& b = find_mbarrier(w, cta, a);
    // by the generic proxy: a release and an acquire of cluster scope between (barrier.cluster) do as well as the fence
    if (&cta != w.cta && w.clock.local[size_t(b.init_agent)] < b.init_clock) require_visible(w, b, a, "a remote arrive");
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
  const Mbarrier* acquired = nullptr;         // by a lane before: the lanes of a warp mostly wait for one
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
    if (i.flags & 2 || acquired == &b) return;
    acquired = &b;
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

}  // namespace

const Opcodes opcodes{{"mbarrier", decode_mbarrier}};

}  // namespace emu
