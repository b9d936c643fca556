// What the lanes' addresses of one block (or cluster) cost, counted while it runs. See lanes.cpp.
#pragma once
#include <array>

#include "machine.hpp"

namespace emu {

// A memory instruction as the machine code has it: the line of its PTX instruction and the bytes a lane moves, which are more
// or less than PTX says where the assembler merged or split accesses.
struct Wanted { int line, width; };

struct Figures {
  int line = 0, width = 0, kind = 0;            // kind: Recorder::Kind
  u64 count = 0;                                // warp instructions counted
  u64 wavefronts = 0;                           // of shared memory
  u64 sectors = 0, lines = 0, hits = 0;         // of global memory: 32-byte sectors, 128-byte lines, sectors found in L1
  u64 again = 0, again_sectors = 0, again_hits = 0;   // of those, where the warp had executed the instruction before
  u64 lanes = 0;                                // active ones
  bool shared = false, global = false;
};

// Sectors that an L1 of `capacity` bytes holds, least recently used lines leaving first.
class SectorCache {
 public:
  explicit SectorCache(u64 capacity) : most_(size_t(capacity / 128)), first_(kBuckets, -1) {}
  u32 touch(u64 line, u32 sectors);             // which of these sectors of a line were there; from now on all are

 private:
  static constexpr size_t kBuckets = 1024;
  struct Line { u64 address; u32 sectors; int next, newer, older; };   // next: in its bucket
  size_t most_;
  vector<Line> lines_;
  vector<int> first_;                           // by bucket
  int newest_ = -1, oldest_ = -1;
  void take_out(int at);
  void put_first(int at);
};

// What the addresses of a warp's access cost depends on where they lie from a multiple of 128 bytes on, and that is the same
// for most warps and iterations.
struct Pattern {
  u32 mask = 0;
  u64 offsets[32] = {};
  u32 wavefronts = 0, sectors = 0;
  vector<std::pair<u64, u32>> lines;            // 128 bytes each, by ascending place: number from there on, bits of its sectors
};

class Predecessors {
 public:
  explicit Predecessors(const Kernel& k);
  void add(size_t pc, vector<int>& to) const { to.insert(to.end(), from_.begin() + begin_[pc], from_.begin() + begin_[pc + 1]); }

 private:
  vector<int> begin_, from_;
};

class Recorder {
 public:
  enum Kind : u8 { None, Skipped, Load, Store, Copy, LoadMatrix, StoreMatrix, Atomic };

  u32 cluster = 0;                              // the one that runs, in the order of their start
  u32 rounds = 3;                               // times that a loop goes back before it is left
  u64 limit = 0;                                // warp instructions
  u64 l1_bytes = 0;
  bool explore = false;                         // go where nobody went, for what is wanted there and not counted yet
  vector<Wanted> wanted;                        // empty: every access, with the width that PTX gives it

  void begin(Machine& m, const Kernel& k, const vector<u64>& counts);   // counts: executions of each instruction so far
  // before an instruction runs; false when it need not be computed (its result is no address)
  bool before(Warp& w, const Instr& i, u32 mask);
  // instructions from `pc` on that do nothing here, whoever executes them
  int idle(int pc) const { return idle_[size_t(pc)]; }
  // at a branch: the lanes that shall take it, of those that are here (`all`) and those that would (`mask`)
  u32 branches(Warp& w, u32 all, u32 mask);
  // nobody can go on: whoever waits at a barrier goes on; false when nobody waits at one
  bool release(Machine& m);
  const vector<Figures>& figures(const Kernel& k) { return rows_[&k]; }

 private:
  struct Known {
    Kind kind = None;
    bool work = false, poll = false, cached = false;
    bool dead = false;                          // no address, predicate or branch depends on what it does
    int width = 0;
    vector<int> rows;
    int latch = -1;                             // of a branch: the loop that it begins again
    vector<int> left[2];                        // loops that lanes leave which do not take it, and which do
  };
  const Kernel* kernel_ = nullptr;
  vector<Known> known_;                         // by pc
  enum : u8 { Runs = 1, Notes = 2 };
  vector<u8> does_;                             // by pc: whether it is computed, and noted
  vector<int> idle_;
  vector<u8> counted_;                          // by loop: whether it is left early
  vector<u32> rounds_;                          // by warp and loop: how often it went back
  vector<u8> seen_;                             // by warp and pc
  vector<u8> visited_, leads_;                  // by pc, to explore: executed earlier; a way to what is not counted yet
  vector<SectorCache> caches_;                  // by CTA of the cluster
  std::map<const Kernel*, vector<Figures>> rows_;
  vector<std::array<Pattern, 3>> patterns_;     // by row: of shared memory, of matrices, of global memory

  struct Named {                                // what an opcode's name says, looked at once
    Kind kind = None;                             // Skipped, or what it accesses where it has an address
    bool work = false, cached = true;
    bool pure = false;                            // it computes a register of registers, and does nothing else
  };
  static Named named(const string& opcode);
  Known classify(const Named& by_name, const Instr& i) const;
  void find_idle(const Kernel& k);
  void find_dead(const Kernel& k, const vector<Named>& names);
  void find_loops(const Kernel& k, const Predecessors& before);
  void find_unvisited(const Kernel& k, const vector<u64>& counts, const Predecessors& before);
  void note_lanes(Warp& w, const Instr& i, u32 mask, const Known& known);
  const Pattern& pattern(Pattern& last, const u64* addresses, u32 mask, int width, Kind kind, u64& base) const;
  void note_global(Warp& w, Figures& f, const Pattern& p, u64 base, const Known& known, bool again);
};

// Wavefronts of shared memory that one warp instruction takes, `bytes` a lane.
u32 shared_wavefronts(const u32* addresses, u32 mask, int bytes, bool load);
u32 bank_conflicts(const u32* addresses, u32 mask, int words);   // distinct words of the most used bank, of so many words a lane
u32 matrix_wavefronts(const u32* rows);         // of one 8x8 matrix: eight rows of 16 bytes

}  // namespace emu
