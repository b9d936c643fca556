// Decoding of control flow: branches, barriers, register budgets. What they do is the scheduler's (scheduler.cpp).
#include "decoder.hpp"
#include "machine.hpp"

namespace emu {
namespace {

void decode_bra(Decoder& d, Instr& i) {
  d.take("uni");
  i.flow = Flow::Branch;       // the parser takes the label
}
void decode_brx(Decoder& d, Instr& i) {
  d.require("idx"), d.take("uni");
  i.a = d.source(4), i.flow = Flow::BranchIndex;
}
void decode_ret(Decoder& d, Instr& i) {
  d.take("uni");
  i.flow = Flow::Return;
}
void decode_trap(Decoder&, Instr& i) { i.flow = Flow::Trap; }

// bar / barrier. Instr::op: 0 sync, 1 arrive, 2 red.popc, 3 red.and, 4 red.or; a = id, b = thread count.
void decode_barrier(Decoder& d, Instr& i) {
  if (d.take("warp")) {
    d.require("sync");
    i.flow = Flow::WarpSync, i.member = d.source(4);
    return;
  }
  bool short_name = d.name() == "bar";
  if (d.take("cluster")) {
    bool arrive = d.take("arrive");
    if (!arrive) d.require("wait");
    i.flags = arrive && d.take("relaxed");
    d.take(arrive ? "release" : "acquire");
    i.aligned = d.take("aligned");
    i.flow = arrive ? Flow::ClusterArrive : Flow::ClusterWait;
    return;
  }
  d.take("cta");
  int form = d.choose({"sync", "arrive", "red"}, -1);
  i.aligned = d.take("aligned") || short_name;
  i.op = form;
  if (form == 2) i.op = 2 + d.choose({"popc", "and", "or"}, -1);
  i.flow = Flow::Barrier;
  if (i.op == 2) d.type_in({Type::U32}), i.dst = d.destination(4);
  if (i.op > 2) d.require("pred"), i.dst = d.predicate();
  i.a = d.source(4);
  size_t trailing = form == 2 ? 1 : 0;
  if (d.left() > trailing) i.b = d.source(4);
  if (form == 1 && i.b < 0) d.refuse("arrive needs a thread count");
  if (form == 2) i.c = d.predicate(i.flags, 1);
}
bool set_max_registers(Warp& w, const Instr& i, u32) {
  Machine& m = *w.machine;
  if (!m.checks.registers) return true;
  Cta& cta = *w.cta;
  int n = int(i.imm), change = (n - w.max_registers) * 32;
  if (!w.kernel->max_threads && !w.kernel->max_registers)
    m.advise("registers", "setmaxnreg in a kernel without launch bounds is ignored by the assembler", &w);
  if (w.set_registers && (i.op ? n < w.max_registers : n > w.max_registers))
    m.report("registers", format("setmaxnreg.%s to %d %s the present %d", i.op ? "inc" : "dec", n, i.op ? "below" : "above", w.max_registers), &w);
  if (change > cta.free_registers) return false;
  cta.free_registers -= change;
  w.max_registers = n, w.set_registers = true;
  cta.cluster->changed = true;
  return true;
}
void decode_setmaxnreg(Decoder& d, Instr& i) {
  i.op = d.choose({"dec", "inc"}, -1);
  d.require("sync"), d.require("aligned");
  d.type_in({Type::U32});
  i.imm = d.immediate();
  if (i.imm % 8 || i.imm < 24 || i.imm > 256) d.refuse("the register count has to be a multiple of 8 from 24 to 256");
  i.flow = Flow::Sync, i.sync = set_max_registers, i.mode = 1;
}
void decode_griddep(Decoder& d, Instr& i) {
  d.choose({"launch_dependents", "wait"}, -1);      // the steps of a plan run one after the other
  i.run = nothing;
}
void decode_nanosleep(Decoder& d, Instr& i) {
  d.type_in({Type::U32});
  d.source(4);
  i.flow = Flow::Yield, i.run = nothing;
}

}  // namespace

const Opcodes opcodes{{"bra", decode_bra}, {"brx", decode_brx}, {"ret exit", decode_ret}, {"trap", decode_trap},
                    {"bar barrier", decode_barrier}, {"setmaxnreg", decode_setmaxnreg}, {"griddepcontrol", decode_griddep},
                    {"nanosleep", decode_nanosleep}};

}  // namespace emu
