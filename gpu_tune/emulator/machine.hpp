// Run-time state: warps, CTAs, clusters, buffers, clocks, findings. The parts of the emulator meet here.
//
// Time. Each warp of a cluster, each warpgroup's tensor-core engine and each mbarrier (standing for the asynchronous
// copies that complete on it) is an agent with its own counter. A vector clock says what an agent knows of the others;
// barriers, mbarriers, __syncwarp, acquire/release join them. An access is a race when the last conflicting access is not
// in the accessor's clock. Warps of other clusters are known through `foreign`, which only acquire operations on global
// memory change.
#pragma once
#include <set>

#include "core.hpp"
#include "numeric.hpp"

namespace emu {

struct Machine;
class Recorder;
struct Cluster;
struct Cta;

// ---- clocks -------------------------------------------------------------------------------------------------------
using Counters = vector<u32>;
struct Clock {
  Counters local;                              // by agent of the own cluster
  std::shared_ptr<const Counters> foreign;     // by warp of the whole grid; null: nothing known
  void join(const Clock& o);
  void clear() { local.clear(), foreign.reset(); }
};
void join(Counters& a, const Counters& b);
std::shared_ptr<const Counters> join(const std::shared_ptr<const Counters>& a, const std::shared_ptr<const Counters>& b);

// ---- shared memory ------------------------------------------------------------------------------------------------
constexpr u8 kAnyLane = 64;                    // accesses that belong to no single lane
constexpr u8 kManyLanes = 65;                  // recorded: more than one lane
struct alignas(32) Cell {                      // shadow of kernel.shared_granularity bytes
  enum : u8 { Uninitialised = 1, Pending = 2, Mbarrier = 4, Generic = 8, Atomic = 16, AtomicRead = 32, Observed = 64 };
  u32 write_clock = 0;
  u16 write_agent = 0;
  u8 write_lane = 0, flags = Uninitialised;
  u32 read_clock[2] = {0, 0};
  u16 read_agent[2] = {0, 0};
  u8 read_lane[2] = {0, 0};
  u16 write_pc = 0xFFFF;
  u32 pad = 0, more_readers = 0;               // the others whose reads no later read is ordered after: a list in `Readers`
};
// Lists of readers, shared by all cells with the same history and never changed; 0 is the empty one.
class Readers {
 public:
  struct Reader { u32 clock; u16 agent; u32 next; };
  const Reader& operator[](u32 list) const { return nodes_[list]; }
  u32 with(u32 list, u16 agent, u32 clock);    // `list` with this as the agent's latest read
  void clear();

 private:
  struct Known { u32 list = ~0u, clock = 0, result = 0; u16 agent = 0; };
  u32 push(u32 next, u16 agent, u32 clock);
  vector<Reader> nodes_ = vector<Reader>(1);
  vector<Known> known_ = vector<Known>(1 << 12);   // results of `with`
};

struct Mbarrier {
  u32 expected, pending;
  s64 transactions = 0;
  u32 phase = 0;
  int agent;                    // stands for the asynchronous copies completing on it
  bool visible = false;         // its initialisation was fenced for the async proxy and the cluster
  int init_agent;
  u32 init_clock;               // of that agent at the initialisation
  Clock arriving, done;         // knowledge of the arrivals so far / at the last completion
};

struct NamedBarrier {
  int needed = 0, arrived = 0;
  bool reduction = false, any = false, all = true;
  int count = 0;                // bar.red.popc
  Clock clock;
  struct Waiter { Warp* warp; u32 mask; const Instr* instr; };
  vector<Waiter> waiting;
};

// ---- asynchronous work ----------------------------------------------------------------------------------------------
struct TensorMap {
  int buffer = 0, rank = 0, element = 0, swizzle = 0, type = 0;
  u64 base = 0;                                // device address
  u64 dims[5] = {1, 1, 1, 1, 1}, strides[5] = {0, 0, 0, 0, 0};
  u32 box[5] = {1, 1, 1, 1, 1}, element_strides[5] = {1, 1, 1, 1, 1};
  bool im2col = false, nan_fill = false;
  bool rounds = false;                         // what is loaded is rounded to tf32
  int lower[3] = {0, 0, 0}, upper[3] = {0, 0, 0};
  u32 channels = 0, pixels = 0;
  u32 bytes() const;                           // of one box in shared memory
};

struct CopyAsync {                             // one lane's cp.async
  int lane;
  u32 group, destination;
  u64 source;
  const u8* from;                              // where that is; null when nothing is read
  u16 bytes, valid;
  bool tracked;                                // the source has a shadow
  const Instr* instr;
};

struct BulkStore {                             // shared -> global (bulk group), one lane's
  int lane;
  u32 group;
  bool read = false;                           // the source has been read
  const TensorMap* map = nullptr;              // null: one-dimensional
  u32 source, bytes;
  u64 destination;
  int coordinates[5];
  int reduction = -1;                          // -1: plain store
  Type type = Type::None;
  u64 hash;                                    // of the source at issue
  vector<u8> data;                             // what was read
  const Instr* instr;
  Clock clock;
};

struct Transfer {                              // towards shared memory, completing on an mbarrier
  enum Kind { Tile, Im2Col, Linear, FromShared, Arrive, Value } kind;
  const TensorMap* map = nullptr;
  Cta* cta;                                    // destination
  Cta* source_cta = nullptr;
  u32 destination = 0, barrier = 0, bytes = 0;
  Cta* barrier_cta = nullptr;
  u64 source = 0;
  int coordinates[5] = {0, 0, 0, 0, 0};
  int offsets[3] = {0, 0, 0};
  Clock clock;
  vector<CopyAsync> copies;                    // Arrive: the cp.async operations it waits for
  vector<u8> value;                            // Value (st.async, red.async)
  u64 hash = 0;                                // FromShared: of the source at issue
  int reduction = -1;
  Type type = Type::None;
  Warp* warp;
  int pc;
};

struct WgmmaChain {                            // accumulator registers owned by wgmma operations in flight
  vector<int> registers;
  vector<float> sums;                          // 16 x N (float or s32 bits)
  int left = 0;
};
struct WgmmaOp {
  const Instr* instr;
  bool scale_d;
  u64 a, b;                                    // descriptors
  vector<u32> a_registers;                     // A from registers: [4][32]
  vector<u32> metadata;                        // of a sparse A, by lane
  Clock clock;                                 // of the issuing warp
  std::shared_ptr<WgmmaChain> chain;
  u32 group;
  u64 hash_a, hash_b;
  bool done = false;
};

// ---- warps, CTAs, clusters --------------------------------------------------------------------------------------------
struct Split {                                 // lanes at one pc
  enum State : u8 { Ready, Blocked, Converge };
  u32 mask;
  int pc;
  State state = Ready;
  const char* waits_for = nullptr;             // Blocked: woken by any progress when set, by its barrier when null
  u32 polls = 0;                               // polling reads without progress anywhere
  u64 polled_at = 0;
};

struct Unwritten { u64 address; u32 bytes; u8 lane; bool shared; string what; };   // of what a load has read
struct Warp {
  char* registers = nullptr;
  Cta* cta = nullptr;
  Machine* machine = nullptr;
  const Kernel* kernel = nullptr;
  int id = 0;                                  // in the CTA
  u32 agent = 0;                               // in the cluster
  u32 grid_id = 0;                             // in the grid
  u32 live = 0, initial = 0;                   // lanes that have not exited; lanes at the start
  int pc = 0;
  vector<Split> splits;
  vector<char> local;
  u32 carry = 0;                               // CC.CF by lane
  Clock clock;
  Counters proxy_fence;                        // local clock at the last fence.proxy.async for shared memory
  Clock global_proxy_fence;                    // clock at the last one for global memory
  Clock fence;                                 // clock at the last fence of gpu scope
  bool fenced = false;
  Clock to_acquire;                            // read by relaxed operations, joined at the next fence of gpu scope
  Clock to_acquire_block;                      // the same through shared memory, for fences of any scope
  bool block_fenced = false;                   // executed a fence of any scope
  vector<CopyAsync> copies;
  u32 copy_group[32] = {0};
  vector<BulkStore> stores;
  u32 store_group[32] = {0};
  vector<WgmmaOp> wgmma;
  u32 wgmma_group = 0;
  bool wgmma_fenced = false;
  vector<u8> owned;                            // per 64 register bytes: accumulator or A fragment in flight (tensor.cpp)
  int owned_count = 0;
  u32 cluster_arrived = 0;                     // lanes that arrived at the cluster barrier and have not waited yet
  u32 cluster_waiting = 0;                     // those of them whose barrier is not complete
  int max_registers = 0;                       // setmaxnreg
  bool set_registers = false;
  u32 storing = 0;                             // the lanes of the plain store that is being executed
  bool defers = false;                         // a load: what it reads and nothing has written is poison, no finding
  vector<Unwritten> fresh;                     // such of the load that is being executed
  vector<char> poison;                         // as `registers`: bytes that hold no written value; empty while there are none
  vector<u16> tainted;                         // per 64 register bytes: 1 + where its poison comes from (Machine::origins)
  int taints = 0;                              // registers that are
  u32 running = 0;                             // the lanes of the split that is being executed
  bool polled = false;                         // the instruction was a polling read
  bool finished() const { return splits.empty(); }
};

struct Cta {
  Cluster* cluster = nullptr;
  u32 rank = 0, index[3] = {0, 0, 0};
  vector<u8> shared;                           // from address 0; the first KiB is unused
  vector<Cell> shadow;
  u32 top = 0;                                 // end of shared memory
  vector<Warp> warps;
  NamedBarrier barriers[16];
  std::map<u32, Mbarrier> mbarriers;
  int free_registers = 0;
  u32 unfinished = 0;
  bool exited() const { return unfinished == 0; }
};

struct Cluster {
  Machine* machine = nullptr;
  u32 serial = 0;
  vector<Cta> ctas;
  Clock barrier_clock, barrier_done;
  vector<Transfer> in_flight;
  Counters agent_events;                       // mbarrier and tensor-core agents: their latest event
  Counters fenced;                             // by warp: own counter at its last gpu-scope fence
  int next_mbarrier_agent = 0;
  bool changed = false;                        // something a blocked warp may wait for has happened
  u32 unfinished = 0;
  vector<char> register_files;
  Readers readers;                             // of the cells of its CTAs
};

// ---- buffers ----------------------------------------------------------------------------------------------------------
struct GlobalCell {
  enum : u8 { Atomic = 1, AtomicRead = 2, Generic = 4, Pending = 8, Observed = 16 };   // Pending: a bulk store is in flight
  u32 write_clock = 0, write_warp = 0, read_clock = 0, read_warp = 0;   // warps: grid id + 1, 0 for none
  u16 write_pc = 0xFFFF;
  u8 write_lane = 0, read_lane = 0, flags = 0, pad = 0;
  u16 readers = 0;                             // asynchronous copies in flight that read it
};

struct Buffer {
  string name;
  u8* data = nullptr;
  u64 base = 0, size = 0;                      // device address, bytes
  bool writable = false, track_initialised = false;
  int granularity = 4;
  vector<GlobalCell> shadow;                   // writable buffers, allocated at the first tracked access
  vector<u8> written;                          // track_initialised: per byte
};

struct Finding {
  string kind, message, kernel;
  int cuda_line = 0, inlined_line = 0, ptx_line = 0;
  u32 block[3] = {0, 0, 0};
  int warp = -1;
  u64 count = 1;
  bool advice = false;                         // allowed, but seldom meant
};

struct Checks { bool races, global_races, uninitialised, proxies, bounds, registers; };

struct Statistics {
  u64 instructions = 0, lanes = 0;
  u64 load_wavefronts = 0, load_extra = 0, store_wavefronts = 0, store_extra = 0;
  void count(bool store, u64 wavefronts, u64 fewest) {       // of shared memory: those of an access, and how few it could take
    (store ? store_wavefronts : load_wavefronts) += wavefronts;
    (store ? store_extra : load_extra) += wavefronts - fewest;
  }
};

struct Stop {};                                // thrown: this launch cannot go on
struct Skip {};                                // thrown: this instruction has no effect (Machine::go_on)
struct Observer { u32 warp, clock; u8 lane; }; // a strong read that saw a strong write: what comes after it comes after the write

struct Machine {                               // one run of a plan: buffers and findings over all its launches
  explicit Machine(const Module& m) : module(m), buffers(size_t(kFirstGlobalVariable) + m.globals.size()) {}
  const Module& module;
  vector<Buffer> buffers;                      // one per window: those of the plan, then from kFirstGlobalVariable on
  vector<TensorMap> tensor_maps;
  vector<u8> grid_workspace = vector<u8>(64);
  vector<vector<u8>> variables;                // contents of .global and .const variables
  Checks checks{true, true, true, true, true, true};
  Rng rng;
  bool late = true;
  u32 resident_limit = 64;                     // clusters
  bool cooperative = false;                    // the launch may use a barrier of the whole grid
  u64 step_limit = 0;                          // warp instructions; 0: none
  bool go_on = false;                          // after a finding that would end the kernel on a device
  std::set<string> ignored;                    // kinds of findings
  std::shared_ptr<Recorder> recorder;          // of lane addresses (lanes.cpp); null: nothing is recorded

  // the launch
  const Kernel* kernel = nullptr;
  u32 grid[3], block[3], cluster_dims[3];
  int global_granularity = 4;                  // bytes of a shadow cell of global memory
  u32 dynamic_shared = 0, dynamic_base = 0;
  vector<u8> params;
  u32 cluster_count = 0, warps_per_cta = 0, warps_per_cluster = 0, agents = 0;
  vector<std::unique_ptr<Cluster>> active;
  u64 progress = 0;                            // counts everything a polling loop may wait for
  std::unordered_map<u64, std::shared_ptr<const Counters>> sync_variables;
  std::unordered_map<const void*, vector<Observer>> observers;   // by cell whose flag Observed is set
  u32 highest_shared = 0;
  Counters global_proxy_fences;                // by warp of the grid: own counter at its last fence.proxy.async for global memory

  // results
  Statistics statistics;
  std::map<const Kernel*, vector<u64>> executed;         // per instruction
  std::map<const Kernel*, vector<u8>> waited;            // per instruction: a wait that had something to wait for
  std::map<string, u32> shared_touched;                  // by kernel: dynamic bytes
  vector<Finding> findings;
  std::map<string, size_t> finding_index;
  struct Seen { u32 count = 0; size_t finding = 0; };
  std::unordered_map<u64, Seen> seen;                    // by kind and place
  std::map<string, u64> counted;                         // by kind, those that are not kept included
  u64 reports = 0;                                       // calls of report
  bool stopped = false;
  vector<string> origins;                                // of poison
  std::map<int, u16> origin_index;                       // by pc of the load, from 1
  bool quiet = false;                                    // reports are not wanted
  string printed;                                        // by vprintf

  u32 first_mbarrier_agent() const { return warps_per_cluster + (warps_per_cluster + 3) / 4; }
  void launch(const Kernel& k, const u32* g, const u32* b, const u32* c, u32 shared, const u8* p, size_t n);
  void report(const char* kind, const string& message, const Warp* w, const Instr* at = nullptr, bool advice = false);
  void advise(const char* kind, const string& message, const Warp* w, const Instr* at = nullptr) { report(kind, message, w, at, true); }
  bool seen_often(const char* kind, const Warp& w);      // then it is only counted: no message needs to be made
  // a finding after which the launch ends, unless it is to go on without this instruction
  u8* fault(const char* kind, const string& message, const Warp* w);
  void note_wait(const Warp& w) {
    auto& of = waited[w.kernel];
    if (of.empty()) of.resize(w.kernel->code.size());
    of[size_t(w.pc)] = 1;
  }
  [[noreturn]] void stop(const char* kind, const string& message, const Warp* w, const Instr* at = nullptr);
  [[noreturn]] void halt(const char* kind, const string& message, const Warp* w);   // whatever go_on says
  string place(const Instr& i) const;          // `kernel.cu:33` or empty
};

void run_blocks(Machine& m, const Kernel& k);  // of the launch that m describes (scheduler.cpp)
void load_special(Warp& w, const Kernel::Preloaded& s);   // a special register into its slot (special.cpp)
string format(const char* f, ...) __attribute__((format(printf, 1, 2)));

// ---- registers --------------------------------------------------------------------------------------------------------
template <class T>
inline T* reg(Warp& w, int slot) { return reinterpret_cast<T*>(w.registers + slot); }
inline u32& pred(Warp& w, int slot) { return *reinterpret_cast<u32*>(w.registers + slot); }
inline void set_pred(Warp& w, int slot, u32 mask, u32 value) {
  u32& p = pred(w, slot);
  p = (p & ~mask) | (value & mask);
}
template <class F>
inline void for_lanes(u32 mask, F f) {
  for (; mask; mask &= mask - 1) f(__builtin_ctz(mask));
}
// registers[slot][lane] = f(lane) for the lanes of mask; the full-warp loop is one the compiler vectorises
template <class T, class F>
inline void write_lanes(Warp& w, int slot, u32 mask, F f) {
  T* d = reg<T>(w, slot);
  if (mask == ~0u) for (int l = 0; l < 32; ++l) d[l] = f(l);
  else for (int l = 0; l < 32; ++l) if (mask >> l & 1) d[l] = f(l);
}
template <class T>
inline T lane_value(Warp& w, int slot, u32 mask) { return reg<T>(w, slot)[__builtin_ctz(mask)]; }
// one lane's bits of a register of 64 or 32 bits
inline u64 bits_of(Warp& w, int slot, int lane, bool wide) { return wide ? reg<u64>(w, slot)[lane] : reg<u32>(w, slot)[lane]; }
inline void set_bits(Warp& w, int slot, int lane, bool wide, u64 value) {
  if (wide) reg<u64>(w, slot)[lane] = value;
  else reg<u32>(w, slot)[lane] = u32(value);
}
template <class T>
inline T load_from(const void* p) {
  T t;
  memcpy(&t, p, sizeof t);
  return t;
}
inline u32 swizzle_rows(int span) { return span == 128 ? 7 : span == 64 ? 3 : span == 32 ? 1 : 0; }   // a mask of the row's number
inline void nothing(Warp&, const Instr&, u32) {}          // the handler of what changes nothing here
template <class V, class F>
inline void drop_if(V& list, F gone) {         // in order, each asked once
  auto kept = list.begin();
  for (auto& x : list) {
    if (gone(x)) continue;
    if (&*kept != &x) *kept = std::move(x);
    ++kept;
  }
  list.erase(kept, list.end());
}

// ---- memory (shadow.cpp, memory.cpp) ------------------------------------------------------------------------------------------------
struct Accessor {                              // who accesses memory
  Warp* warp;
  int lane;                                    // kAnyLane: no single lane
  u32 agent;
  const Clock* clock;
  bool async;                                  // through the async proxy
  const char* what;
  bool strong = false;                         // atomic or volatile: does not race with its like
  u8 leaves = 0;                               // flags of the cells that a write leaves behind
  bool lands = false;                          // the write of an asynchronous copy, which had left its cells `Pending`
};
void check_access(Cta& cta, u32 address, u32 bytes, bool write, const Accessor& by);
[[noreturn]] void outside(const Cta& cta, u32 address, u32 bytes, const char* what, Warp& w);
inline void check_bounds(const Cta& cta, u32 address, u32 bytes, const char* what, Warp& w) {
  if (address < kSharedStart || u64(address) + bytes > cta.top) outside(cta, address, bytes, what, w);
}
// accesses of `bytes` each by the lanes of the mask
void check_lanes(Cta& cta, const u32* addresses, u32 mask, u32 bytes, bool write, const Accessor& by);
void check_chunks(Cta& cta, const u32* addresses, size_t count, bool write, const Accessor& by);   // 16 bytes each
// of the plain store being executed: whether two lanes write one value to one place; whether a lane writes what is there
bool stores_the_same(Warp& w, int other, int lane);
bool stores_again(Warp& w, int lane, u64 address, const u8* there, u32 bytes, bool shared);
void set_flags(Cta& cta, u32 address, u32 bytes, u8 set, u8 clear);
Cta& shared_target(Warp& w, u32& address);     // resolves shared::cluster addresses
struct Span { u32 low, high, bits; };          // of the addresses of some lanes: lowest, highest, bits that any has
Span span_of(const u32* addresses, u32 mask);
void count_banks(Warp& w, const u32* addresses, u32 mask, const Span& span, int bytes, bool store);
// device address -> host pointer after all checks; null only when bounds are not checked and the address is bad
u8* global_pointer(Warp& w, u64 address, u32 bytes, bool write, const char* what);
void check_global_access(Warp& w, u64 address, u32 bytes, bool write, int lane, bool strong, const Clock& clock, bool async = false);
inline Buffer* buffer_at(Machine& m, u64 address) {    // whose window holds the address; null when there is none
  const size_t k = size_t(address >> kWindowBits) - 1;
  return k < m.buffers.size() && m.buffers[k].data ? &m.buffers[k] : nullptr;
}
inline bool has_shadow(Machine& m, u64 address) {      // accesses to it have to be checked
  const Buffer* b = buffer_at(m, address);
  return b && b->writable;
}
bool written_by(Warp& w, u64 address, u32 bytes);     // by this instruction of this warp, and nobody else since
u8* access(Warp& w, Space s, u64 address, u32 bytes, bool write, int lane, const char* what);   // of one lane, after every check
void mark_pending(Warp& w, u64 address, u32 bytes);   // global memory that a bulk store in flight will write
void mark_readers(Warp& w, u64 address, u32 bytes, int change);   // and that one more (or less) copy in flight reads
inline u64 address_of(Warp& w, const Address& a, int lane) {
  u64 base = a.slot < 0 ? 0 : bits_of(w, a.slot, lane, a.wide);
  return base + u64(a.offset);
}
inline u32 shared_address_of(Warp& w, const Address& a, int lane) {   // 64-bit ones may be generic addresses
  u64 at = address_of(w, a, lane);
  return u32(at >= kSharedWindow ? at - kSharedWindow : at);
}
u64 combine_atomic(int op, Type t, u64 old, u64 operand, u64 compare);
void reduce_at(u8* at, const u8* operand, int op, Type t);   // *at = *at op *operand
int decode_atomic_operation(class Decoder& d);

// ---- clocks of warps ----------------------------------------------------------------------------------------------------
inline void release(Warp& w, Clock& to) {
  to.join(w.clock);
  ++w.clock.local[w.agent];
}
struct At {                                    // while it lives, findings name another instruction
  Warp& warp;
  const int pc;
  At(Warp& w, int other) : warp(w), pc(w.pc) { w.pc = other; }
  ~At() { warp.pc = pc; }
};
inline void acquire(Warp& w, const Clock& from) { w.clock.join(from); }

// ---- order (order.cpp) ------------------------------------------------------------------------------------------------------
// Instr::flags of loads, stores and atomics
constexpr int kAcquire = 1, kRelease = 2, kStrong = 4, kGpuScope = 8;
u64 sync_key(Warp& w, Space s, u64 address);   // names a location; shared ones by cluster and CTA
void sync_read(Warp& w, u64 key, int flags, bool shared);
void sync_write(Warp& w, u64 key, int flags, bool read_modify_write, bool shared);

// ---- asynchronous engine (async.cpp, bulk.cpp) ----------------------------------------------------------------------------------
void land(Cluster& c, size_t which);           // one transfer completes
void finish_copies(Warp& w, u32 mask, u32 keep_groups);
void finish_stores(Warp& w, u32 mask, u32 keep_groups, bool read_only);
void check_in_flight(Warp& w);                 // at the end of a warp

// ---- poison (poison.cpp) ------------------------------------------------------------------------------------------------------
void taint_step(Warp& w, const Instr& i, u32 mask);     // before an instruction of a warp with poison
void taint_loaded(Warp& w, const Instr& i, u32 element, bool sign);   // what `fresh` says, after a load of elements of so many bytes
void taint_matrices(Warp& w, const Instr& i);

// ---- tensor cores (tensor.cpp) ------------------------------------------------------------------------------------------
void check_owned(Warp& w, const Instr& i);

}  // namespace emu
