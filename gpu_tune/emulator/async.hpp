// What the asynchronous operations share: mbarriers, on which they complete, and the copies in flight.
#pragma once
#include "decoder.hpp"
#include "machine.hpp"

namespace emu {

// ---- mbarriers (mbarrier.cpp) -----------------------------------------------------------------------------------------------
inline s32 byte_of(u32 address) { return s32(address & 0xFFFFFF) - s32(kSharedStart); }
inline Mbarrier& find_mbarrier(Warp& w, Cta& cta, u32 address) {
  auto it = cta.mbarriers.find(address);
  if (it == cta.mbarriers.end())
    w.machine->stop("mbarrier", format("the mbarrier at shared memory byte %d was never initialised", byte_of(address)), &w);
  return it->second;
}
inline void complete_if_done(Cluster& c, Mbarrier& b) {
  if (b.pending || b.transactions) return;
  ++b.phase;
  b.pending = b.expected;
  b.done = b.arriving;
  c.changed = true;
  ++c.machine->progress;
}
void require_visible(Warp& w, Mbarrier& b, u32 address, const char* by, bool own = false);
void add_transactions(Warp& w, Mbarrier& b, s64 n, u32 address);

// ---- bulk copies (bulk.cpp) -------------------------------------------------------------------------------------------------
void decode_bulk(Decoder& d, Instr& i, bool reduce);
void land_bulk(Warp& w, const Transfer& t);    // writes what t has copied

}  // namespace emu
