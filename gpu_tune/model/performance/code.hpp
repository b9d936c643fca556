// A kernel's machine code as the player needs it: what each instruction costs, and the way that a warp takes through it.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

namespace perf {

// What an instruction costs, side by side: a step of the play looks at one row.
struct Row {
    double interval, latency, l2;
    int argument;
    uint8_t kind, unit, cause, stall, write_barrier, read_barrier, wait;
    bool moves;
};

// The figures that depend on the operation alone and on the SM; code.py fills them in. ``widths``: bytes that a lane moves, by
// operation and bits 8 to 11 of the second word.
enum Operation { MATRIX_PIPE, KIND, UNIT, CAUSE, ARITHMETIC, FLAGS, WEIGHT, ACCESS, OPERATION_COLUMNS };
enum Flag { ENDS = 1, COUNTS = 2, FETCHES = 4, BULK = 8, COPIES = 16, GLOBAL = 32, MATRIX = 64 };
enum { INTERVAL, BYTES, LATENCY_CYCLES, FROM_L2, WORK, REAL_COLUMNS };
enum { MMA_SHARE = 6, MMA_LATENCY, SHARED_BYTES, L1_BYTES, L1_LATENCY, DRAM_LATENCY, L2_SHARE, NARROW, SCALARS };
struct Operations {
    int32_t ints[512][OPERATION_COLUMNS];
    double reals[512][REAL_COLUMNS];
    double scalars[SCALARS];  // at first multiply-adds a clock of a sub-partition, by what they multiply
    int16_t widths[512 * 16];
    int32_t cc;
};

// The fields of gpu_tune.cuda.sass.Program.
struct Instruction {
    int32_t number, target, argument, macs;
    int16_t width, columns;
    uint8_t stall, write_barrier, read_barrier, wait, data;
    bool guarded, never, constant, wide_sum;
};

using Span = std::pair<int, int>;

class Code {
  public:
    Code(const uint8_t* bytes, int count, const Operations& of);
    bool is(int i, int flags) const { return !at[i].never && of.ints[at[i].number][FLAGS] & flags; }
    std::vector<int32_t> walk(int start, int stop, bool around_counts) const;
    bool hot_loop(Span& found) const;

    std::vector<Instruction> at;
    std::vector<Span> loops;  // of every branch backwards
    const Operations& of;

  private:
    std::vector<int> places, targets;  // where a warp may not go on to the next instruction
    std::vector<char> certain;
};

struct Kernel {
    std::vector<int32_t> head, body, tail;
    std::vector<Row> rows;
    double work = 0.0;
};

}  // namespace perf
