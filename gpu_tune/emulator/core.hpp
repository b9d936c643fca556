// Plain data shared by all parts of the emulator: PTX types, decoded instructions, kernels, modules.
#pragma once
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace emu {

using u8 = uint8_t;
using s8 = int8_t;
using u16 = uint16_t;
using s16 = int16_t;
using u32 = uint32_t;
using s32 = int32_t;
using u64 = uint64_t;
using s64 = int64_t;
using std::string;
using std::vector;

// PTX fundamental and packed types. The .bN types are told apart only where their size is not enough.
enum class Type : u8 {
  None, U8, S8, B8, U16, S16, B16, U32, S32, B32, U64, S64, B64, F16, BF16, F32, F64, Pred,
  F16x2, BF16x2, TF32, E4M3, E5M2, E4M3x2, E5M2x2, B128, U16x2, S16x2, F32x2, B1, S4, U4, S2, U2
};
int type_size(Type t);                     // bytes in memory
Type type_from_name(const string& name);   // Type::None when it is no type
inline bool is_float(Type t) { return t == Type::F16 || t == Type::BF16 || t == Type::F32 || t == Type::F64; }
inline bool is_signed(Type t) { return t == Type::S8 || t == Type::S16 || t == Type::S32 || t == Type::S64; }

enum class Space : u8 { Generic, Global, Shared, Local, Param, Const };

// A malformed or unsupported PTX text: the module is refused at load.
struct LoadError : std::runtime_error {
  int line;
  LoadError(const string& what, int l) : std::runtime_error(what), line(l) {}
};

// What the scheduler has to know about an instruction besides its handler.
enum class Flow : u8 {
  Plain,      // the handler does everything
  Branch, BranchIndex, Return, Trap,
  Aligned,    // the handler runs once all live lanes of the warp (or of the member mask) are here
  Sync,       // like Aligned, and the handler may refuse to go on (returns false): the warp blocks and retries
  Barrier, WarpSync, MbarrierWait, ClusterArrive, ClusterWait, Yield
};

// How an instruction hands on what nothing has written (poison.cpp).
enum class Taint : u8 { Union, Move, And, Or, Load, Store, Tensor };
enum : u8 { kSteeredB = 1, kSteeredC = 2, kSteeredMember = 4 };

struct Warp;
struct Instr;
using Handler = void (*)(Warp&, const Instr&, u32 mask);
using SyncHandler = bool (*)(Warp&, const Instr&, u32 mask);

struct Address {                   // memory operand: base register (-1: absolute) plus bytes
  int slot = -1;
  bool wide = false;               // the base is a 64-bit register
  s64 offset = 0;
};

// A decoded instruction. Operands are byte offsets into the warp's register file (constants and special registers are
// preloaded slots there), -1 when absent.
struct Instr {
  Handler run = nullptr;
  SyncHandler sync = nullptr;      // for Flow::Sync and Flow::MbarrierWait
  Flow flow = Flow::Plain;
  bool guard_negated = false;
  bool aligned = false;            // barrier forms: .aligned
  int guard = -1;
  int dst = -1, dst2 = -1, a = -1, b = -1, c = -1, e = -1;
  Address mem, mem2, mem3;
  int member = -1;                 // register with the member mask of .sync instructions
  int target = -1;                 // branch target
  Space space = Space::Generic;
  Type type = Type::None, type2 = Type::None;
  int op = 0, mode = 0, flags = 0; // meaning is local to the handler
  s64 imm = 0;
  vector<int> regs;                // vector operands; for BranchIndex the targets
  vector<int> written;             // those of them that it writes
  vector<int> reads;               // and those that it reads
  Taint taint = Taint::Union;
  u8 steered = 0;
  int line = 0;                    // line in the PTX text
  int place = 0;                   // index into Module::places
  int opcode = 0;                  // index into Module::opcodes
};

constexpr int kHalf = 256;         // from the low half of a 128-bit register to the high one

struct Param {
  string name;
  int offset, size;
};

enum : int { kPartialLoad = 1 << 20 };   // Instr::flags of a load: some vector elements go nowhere (register -1)

struct Kernel {
  string name;
  string refusal;                        // why it cannot be run: an instruction that is not supported
  vector<Param> params;
  int param_bytes = 0;
  vector<Instr> code;
  struct Preloaded { int slot; u64 value; int width; };
  vector<Preloaded> constants, specials;   // the value; the number of the special register
  int register_bytes = 64;
  vector<int> read;                      // by slot / 64: operands that read it
  vector<u8> widths{0};                  // by slot / 64: bytes of the register, 1 for predicates
  int required_threads[3] = {0, 0, 0};   // .reqntid
  int max_threads = 0;                   // .maxntid product
  int min_blocks = 0;                    // .minnctapersm
  int max_registers = 0;                 // .maxnreg
  int required_cluster[3] = {0, 0, 0};   // .reqnctapercluster
  u32 local_bytes = 0;
  u32 static_shared = 0;                 // bytes
  u32 dynamic_align = 16;
  int shared_granularity = 16;           // smallest access: the size of a shadow cell
  int global_granularity = 16;
  void note_access(Space s, int bytes) {
    if (s == Space::Shared || s == Space::Generic) shared_granularity = bytes < shared_granularity ? bytes : shared_granularity;
    if (s == Space::Global || s == Space::Generic) global_granularity = bytes < global_granularity ? bytes : global_granularity;
  }
};

struct GlobalVariable {
  vector<u8> initial;
  u32 align;
  bool constant;
  int index;
};

// A place in the CUDA source: the line, then the calls that inlined it, outermost last (the kernel's own body).
using Place = vector<std::pair<int, int>>;       // file, line

struct Module {
  std::map<string, Kernel> kernels;
  std::map<string, GlobalVariable> globals;
  string text;                           // the PTX, its comments left out
  std::map<int, string> files;           // .file
  vector<Place> places{Place()};         // from .loc; the first is `unknown`
  vector<string> opcodes;
};

std::unique_ptr<Module> parse_module(const string& ptx, const string& only);   // kernels, apart by spaces; none: all

// Address space. Every buffer of a run has its own 64 GiB; the other state spaces are windows of the generic space.
constexpr int kWindowBits = 36;
constexpr u64 kSharedWindow = 0x7E0ull << kWindowBits;
constexpr u64 kLocalWindow = 0x7E1ull << kWindowBits;
constexpr u64 kParamWindow = 0x7E2ull << kWindowBits;
inline Space space_of(u64 address) {     // of a generic address
  const u64 window = address >> kWindowBits << kWindowBits;
  if (window == kSharedWindow) return Space::Shared;
  return window == kLocalWindow ? Space::Local : window == kParamWindow ? Space::Param : Space::Global;
}
constexpr u32 kSharedStart = 1024;       // the first KiB of shared memory belongs to the system, as on the device
constexpr int kMaxBuffers = 2000;
constexpr int kFirstGlobalVariable = 512; // buffers from here on are the module's .global and .const variables
constexpr u64 kFunctionWindow = 0x7E3ull << kWindowBits;   // addresses of device functions, 16 apart
constexpr u64 kGridWorkspace = u64(kFirstGlobalVariable) << kWindowBits;   // the window before the variables

}  // namespace emu
