// Operations between the lanes of a warp: shfl, vote, match, redux, elect, activemask.
#include "decoder.hpp"
#include "machine.hpp"

namespace emu {
namespace {

void shuffle(Warp& w, const Instr& i, u32 m) {
  u32 value[32] = {0}, valid = 0;
  for_lanes(m, [&](int l) {
    int b = int(reg<u32>(w, i.b)[l] & 31), c = int(reg<u32>(w, i.c)[l]), segment = c >> 8 & 31;
    int limit = (l & segment) | (c & 31 & ~segment), low = l & segment, from;
    bool in_range;
    switch (i.op) {
      case 0: from = l - b, in_range = from >= limit; break;     // up
      case 1: from = l + b, in_range = from <= limit; break;     // down
      case 2: from = l ^ b, in_range = from <= limit; break;     // bfly
      default: from = low | (b & ~segment), in_range = from <= limit;
    }
    if (!in_range) from = l;
    if (!(m >> from & 1)) {
      w.machine->report("divergence", format("shfl.sync lane %d reads lane %d, which does not take part", l, from), &w);
      from = l;
    }
    value[l] = reg<u32>(w, i.a)[from];
    valid |= u32(in_range) << l;
  });
  if (i.dst >= 0) write_lanes<u32>(w, i.dst, m, [&](int l) { return value[l]; });
  if (i.dst2 >= 0) set_pred(w, i.dst2, m, valid);
}
void decode_shuffle(Decoder& d, Instr& i) {
  d.require("sync");
  i.op = d.choose({"up", "down", "bfly", "idx"}, -1);
  d.type_in({Type::B32});
  d.destination_pair(i, 4);
  i.a = d.source(4), i.b = d.source(4), i.c = d.source(4), i.member = d.source(4);
  i.flow = Flow::Aligned, i.run = shuffle;
}

void vote(Warp& w, const Instr& i, u32 m) {
  u32 p = (pred(w, i.a) ^ (i.flags ? ~0u : 0)) & m;
  if (i.op == 3) return write_lanes<u32>(w, i.dst, m, [=](int) { return p; });
  bool r = i.op == 0 ? p == m : i.op == 1 ? p != 0 : p == m || p == 0;
  set_pred(w, i.dst, m, r ? ~0u : 0);
}
void decode_vote(Decoder& d, Instr& i) {
  d.require("sync");
  i.op = d.choose({"all", "any", "uni", "ballot"}, -1);
  if (i.op == 3) d.type_in({Type::B32}), i.dst = d.destination(4);
  else d.require("pred"), i.dst = d.predicate();
  i.a = d.predicate(i.flags, 1), i.member = d.source(4);
  i.flow = Flow::Aligned, i.run = vote;
}

void match(Warp& w, const Instr& i, u32 m) {
  bool wide = type_size(i.type) == 8;
  auto value = [&](int l) { return bits_of(w, i.a, l, wide); };
  u32 r[32] = {0};
  bool all_same = true;
  for_lanes(m, [&](int l) {
    for_lanes(m, [&](int k) { r[l] |= u32(value(k) == value(l)) << k; });
    all_same &= r[l] == m;
  });
  if (i.op == 1) {
    write_lanes<u32>(w, i.dst, m, [&](int) { return all_same ? m : 0u; });
    if (i.dst2 >= 0) set_pred(w, i.dst2, m, all_same ? ~0u : 0);
  } else {
    write_lanes<u32>(w, i.dst, m, [&](int l) { return r[l]; });
  }
}
void decode_match(Decoder& d, Instr& i) {
  i.op = d.choose({"any", "all"}, -1);
  d.require("sync");
  i.type = d.type_in({Type::B32, Type::B64});
  d.destination_pair(i, 4);
  if (i.dst < 0) d.refuse("the destination is missing");
  i.a = d.source(type_size(i.type)), i.member = d.source(4);
  i.flow = Flow::Aligned, i.run = match;
}

void redux(Warp& w, const Instr& i, u32 m) {
  u32 r = lane_value<u32>(w, i.a, m);
  for_lanes(m & (m - 1), [&](int l) { r = u32(combine_atomic(i.op, i.type, r, reg<u32>(w, i.a)[l], 0)); });
  write_lanes<u32>(w, i.dst, m, [=](int) { return r; });
}
void decode_redux(Decoder& d, Instr& i) {
  d.require("sync");
  i.op = decode_atomic_operation(d);
  if (i.op > 2 && (i.op < 5 || i.op > 7)) d.refuse("this operation is not supported");
  i.type = d.type_in({Type::U32, Type::S32, Type::B32});
  i.dst = d.destination(4), i.a = d.source(4), i.member = d.source(4);
  i.flow = Flow::Aligned, i.run = redux;
}

void elect(Warp& w, const Instr& i, u32 m) {
  u32 leader = u32(__builtin_ctz(m));
  if (i.dst >= 0) write_lanes<u32>(w, i.dst, m, [=](int) { return leader; });
  set_pred(w, i.dst2, m, 1u << leader);
}
void decode_elect(Decoder& d, Instr& i) {
  d.require("sync");
  d.destination_pair(i, 4);
  if (i.dst2 < 0) d.refuse("elect.sync needs a register and a predicate");
  i.member = d.source(4);
  i.flow = Flow::Aligned, i.run = elect;
}

void activemask(Warp& w, const Instr& i, u32 m) { write_lanes<u32>(w, i.dst, m, [=](int) { return m; }); }
void decode_activemask(Decoder& d, Instr& i) {
  d.type_in({Type::B32});
  i.dst = d.destination(4), i.run = activemask;
}

}  // namespace

const Opcodes opcodes{{"shfl", decode_shuffle}, {"vote", decode_vote}, {"match", decode_match}, {"redux", decode_redux},
                    {"elect", decode_elect}, {"activemask", decode_activemask}};

}  // namespace emu
