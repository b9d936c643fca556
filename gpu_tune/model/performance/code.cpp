// Machine code decoded, its loops and ways found and its costs looked up: the twin of gpu_tune/cuda/sass.py, trace.py and costs.py,
// which explain what it does. Both compute with the same operations in the same order: results are equal to the last bit.
#include "code.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace perf {
namespace {

enum { PLAIN, MEMORY, COPY, SYNC, GMMA, COMMIT, COMMIT_WAIT, GMMA_WAIT, EXIT };
enum { DEPENDENCY = 8, INSTRUCTION_BYTES = 16, SECTOR = 32 };
constexpr int64_t WIDTHS = 64;  // above the bytes of any lane: what makes a line and bytes one number

int64_t bits(uint64_t word, int start, int count) { return int64_t(word >> start & ((uint64_t(1) << count) - 1)); }

int32_t argument_of(int number, uint64_t low, uint64_t high) {
    switch (number) {
        case 0x11A: return int32_t(bits(low, 38, 6));                           // DEPBAR
        case 0x1C5: return bits(low, 47, 1) ? int32_t(bits(high, 8, 5)) : -1;   // WARPGROUP
        case 0x1F0: case 0x1F1: case 0x1F3: return bits(high, 20, 3) == 0;      // HGMMA, IGMMA, QGMMA
        case 0x1A7: return bits(low, 9, 3) == 2;                                // SYNCS
        case 0x11D: return int32_t((bits(low, 11, 1) ? bits(low, 54, 4) : -1) + 16 * bits(high, 13, 1));  // BAR
        case 0x1C8: return int32_t(bits(low, 32, 9));                           // USETMAXREG
        case 0x1B4: return int32_t(bits(high, 11, 1));                          // UTMALDG
        default: return 0;
    }
}

void matrix(Instruction& i, uint64_t low, uint64_t high) {
    const bool half = i.number == 0x03C, integer = i.number == 0x037, eight = i.number == 0x07A;
    const bool four = bits(high, 19, 3) == 7, group = !half && !integer && !eight;
    const int deep = int(bits(high, 11, 1));
    i.columns = int16_t(group ? 8 * (bits(low, 53, 5) + 1) : 0);
    if (half) i.data = uint8_t(bits(high, 18, 2));
    else if (integer) i.data = four ? 5 : 3;
    else if (eight || i.number == 0x1F3) i.data = 4;
    else if (i.number == 0x1F1) i.data = 3;
    else i.data = bits(low, 58, 1) ? 2 : uint8_t(bits(low, 62, 1));
    static const int group_k[] = {16, 16, 8, 32, 32, 64};
    if (group) {
        i.macs = 64 * i.columns * group_k[i.data];
    } else {
        const int rows = integer && !bits(high, 22, 1) ? 8 : 16;
        const int k = half ? (bits(high, 14, 1) ? 4 : 8 << deep) : integer && four ? 64 : 16 << deep;
        i.macs = rows * 8 * k;
    }
    i.wide_sum = half ? bits(high, 12, 1) : eight ? bits(high, 13, 1) : true;
}

}  // namespace

Code::Code(const uint8_t* bytes, int count, const Operations& operations) : at(count), of(operations) {
    for (int p = 0; p < count; ++p) {
        uint64_t low, high;
        std::memcpy(&low, bytes + INSTRUCTION_BYTES * p, 8), std::memcpy(&high, bytes + INSTRUCTION_BYTES * p + 8, 8);
        Instruction& i = at[p];
        const int guard = int(bits(low, 12, 4));
        const uint32_t control = uint32_t(high >> 41);
        i.number = int32_t(low & 0x1FF);
        i.stall = control & 15, i.write_barrier = control >> 5 & 7, i.read_barrier = control >> 8 & 7, i.wait = control >> 11 & 63;
        i.never = guard == 15;
        i.guarded = (guard & 7) != 7 || (i.number == 0x147 && bits(low, 9, 3) == 2);
        const bool half = i.number == 0x031 || (i.number == 0x035 && of.cc < 100);
        i.constant = half && bits(low, 24, 8) == 0xFF && bits(low, 9, 3) == 2;
        i.width = of.widths[16 * i.number + int(high >> 8 & 15)];
        i.target = -1;
        if (i.number == 0x147) {
            const int64_t word = int64_t(low), distance = of.cc >= 90 ? 4 * ((word >> 34) * 256 | (word >> 16 & 0xFF)) : word >> 32;
            const int64_t to = p + 1 + (distance >> 4);
            if (to >= 0 && to < count) i.target = int32_t(to);
        }
        i.argument = argument_of(i.number, low, high);
        i.macs = 0, i.columns = 0, i.data = 0, i.wide_sum = true;
        if (of.ints[i.number][FLAGS] & MATRIX) matrix(i, low, high);
        if ((is(p, ENDS) && !i.guarded) || i.target >= 0) {
            places.push_back(p), targets.push_back(i.target), certain.push_back(!i.guarded);
            if (i.target >= 0 && i.target < p && !i.never) loops.push_back({i.target, p});
        }
    }
}

// The inner loop with the most arithmetic; where inner loops have none, the loop around them with the most.
bool Code::hot_loop(Span& found) const {
    if (loops.empty()) return false;
    std::vector<int64_t> until(at.size() + 1, 0);
    for (std::size_t i = 0; i < at.size(); ++i)
        until[i + 1] = until[i] + (at[i].never || at[i].constant ? 0 : of.ints[at[i].number][WEIGHT]);
    const auto work = [&](const Span& s) { return until[s.second + 1] - until[s.first]; };
    const auto inner = [&](const Span& s) {
        for (const Span& o : loops)
            if (o != s && s.first <= o.first && o.second <= s.second) return false;
        return true;
    };
    const Span* best = nullptr;
    const auto beats = [&](const Span& s, int sign) {
        if (!best) return true;
        const int64_t mine = work(s), its = work(*best);
        return mine != its ? mine > its : sign * (s.second - s.first) > sign * (best->second - best->first);
    };
    for (const Span& s : loops) if (inner(s) && beats(s, 1)) best = &s;
    if (!work(*best)) {
        best = nullptr;
        for (const Span& s : loops) if (beats(s, -1)) best = &s;
    }
    found = *best;
    return true;
}

// trace.walk(); around_counts: a conditional branch forward is taken where it leads past an atomic that counts.
std::vector<int32_t> Code::walk(int start, int stop, bool around_counts) const {
    std::vector<int32_t> way;
    std::vector<std::pair<int, std::size_t>> untaken;
    std::vector<int> seen, tried;
    const auto has = [](const std::vector<int>& of, int x) { return std::find(of.begin(), of.end(), x) != of.end(); };
    for (int here = start; start <= here && here < stop;) {
        const std::size_t nearest = std::size_t(std::lower_bound(places.begin(), places.end(), here) - places.begin());
        const int place = nearest < places.size() ? places[nearest] : int(at.size());
        for (int i = here; i < std::min(place + 1, stop); ++i) way.push_back(i);
        if (place >= stop) break;
        const int target = targets[nearest];
        const auto counts = [&] {
            for (int i = place; i < target; ++i) if (is(i, COUNTS)) return true;
            return false;
        };
        if (target < 0) {
            if (stop >= int(at.size()) || untaken.empty()) break;
            here = untaken.back().first;
            way.resize(untaken.back().second);
            untaken.pop_back();
            tried.push_back(here);
        } else if (certain[nearest] && (target > place || !has(seen, target))) {
            seen.push_back(target);
            if (target >= stop || target < start) break;
            here = target;
        } else if (around_counts && place < target && target <= stop && counts()) {
            here = target;
        } else {
            if (!certain[nearest] && place < target && target <= stop && !has(tried, target)) untaken.push_back({target, way.size()});
            here = place + 1;
        }
    }
    return way;
}

namespace {

double work_of(const Code& code, int i) {
    const Instruction& x = code.at[i];
    if (x.never || x.constant) return 0.0;
    switch (code.of.ints[x.number][MATRIX_PIPE]) {
        case 1: return x.macs;
        case 2: return x.macs / 4.0;  // of a warpgroup's four warps
        default: return code.of.reals[x.number][WORK];
    }
}

// trace.unrolled()
void unroll(const Code& code, const Span& loop, std::vector<int32_t>& body, double copied) {
    std::vector<char> nested(code.at.size(), 0);
    for (const Span& s : code.loops)
        if (loop.first <= s.first && s.second <= loop.second && s != loop) std::fill(&nested[s.first], &nested[s.second] + 1, 1);
    double each = 0.0, others = 0.0;
    for (const int i : body)
        if (code.is(i, FETCHES)) (nested[i] ? each : others) += 32.0 * code.at[i].width;
    const double times = each != 0.0 ? std::nearbyint((copied - others) / each) : 1.0;
    if (!(times > 1.0)) return;
    std::vector<int32_t> longer;
    for (std::size_t first = 0, last; first < body.size(); first = last) {
        for (last = first; last < body.size() && nested[body[last]] == nested[body[first]];) ++last;
        for (double k = 0; k < (nested[body[first]] ? times : 1.0); ++k) longer.insert(longer.end(), &body[first], &body[last - 1] + 1);
    }
    body.swap(longer);
}

struct Lanes {
    const int64_t *shared, *touched;
    const double *wavefronts, *sectors, *hits;
    int64_t shared_count, touched_count, hit_count;

    bool are_of(int count) const {
        const auto inside = [&](int64_t i) { return 0 <= i && i < count; };
        return std::all_of(shared, shared + shared_count, inside) && std::all_of(touched, touched + touched_count, inside);
    }
};

// costs.alone()
std::vector<Row> costs(const Code& code, const Lanes& lanes) {
    const Operations& of = code.of;
    const double* scalar = of.scalars;
    std::vector<Row> rows(code.at.size());
    for (std::size_t p = 0; p < rows.size(); ++p) {
        const Instruction& i = code.at[p];
        const int32_t* whole = of.ints[i.number];
        const double* real = of.reals[i.number];
        const double moved = 32.0 * i.width;
        int kind = whole[KIND];
        if ((kind == SYNC && i.argument >= 16) || (kind == GMMA_WAIT && i.argument < 0) || (kind == EXIT && i.guarded)) kind = PLAIN;
        Row& row = rows[p];
        row = {std::max(real[INTERVAL], moved / real[BYTES]), real[LATENCY_CYCLES], moved * real[FROM_L2], i.argument, uint8_t(kind),
               uint8_t(whole[UNIT]), uint8_t(whole[CAUSE]), uint8_t(i.stall > 1 ? i.stall : 1), i.write_barrier, i.read_barrier, i.wait,
               false};
        if (whole[MATRIX_PIPE] == 1) {
            const double twice = !i.wide_sum && scalar[NARROW] != 0.0 ? 2.0 : 1.0;
            row.interval = i.macs / (scalar[i.data] * twice * scalar[MMA_SHARE]);
            row.latency = scalar[MMA_LATENCY];
        } else if (whole[MATRIX_PIPE] == 2) {
            row.interval = std::max(i.macs / (4 * scalar[i.data]), (2048 + 32 * i.columns) / scalar[SHARED_BYTES]);
            row.latency = scalar[MMA_LATENCY];
        }
    }
    for (int64_t k = 0; k < lanes.shared_count; ++k) rows[lanes.shared[k]].interval = std::max(1.0, lanes.wavefronts[k]);
    for (int64_t k = 0; k < lanes.touched_count; ++k) {
        Row& row = rows[lanes.touched[k]];
        const double hit = lanes.hit_count == lanes.touched_count ? lanes.hits[k] : 0.0;
        row.l2 = lanes.sectors[k] * SECTOR * (1 - hit) * scalar[L2_SHARE];
        row.latency = hit * scalar[L1_LATENCY] + (1 - hit) * scalar[DRAM_LATENCY];
        if (code.is(int(lanes.touched[k]), GLOBAL)) row.interval = std::max(1.0, lanes.sectors[k] * SECTOR / scalar[L1_BYTES]);
    }
    for (std::size_t p = 0; p < rows.size(); ++p) {
        Row& row = rows[p];
        if (code.at[p].never) {  // they take an issue slot and nothing else
            row.kind = PLAIN, row.unit = 0, row.cause = DEPENDENCY, row.interval = 1.0, row.l2 = 0.0;
            if (!of.ints[code.at[p].number][ARITHMETIC]) row.latency = 0.0;
        }
        row.moves = row.kind == MEMORY || row.kind == COPY;
    }
    return rows;
}

}  // namespace
}  // namespace perf

using namespace perf;

// The kernel of `size` bytes of machine code. lanes: addresses and counts of Lanes. loop: whether a loop is declared; whether its
// units are whole; its multiply-adds a step, bytes that it reads a step, warps of a block. facts: multiply-adds of a warp in an
// iteration; instructions of the body, each counted once; whether it has wgmma, mma.sync, bulk copies and cp.async. Returns null where
// the lanes are of instructions that it does not have.
extern "C" void* perf_kernel(const uint8_t* bytes, int64_t size, const Operations* of, const int64_t* lanes, const double* loop,
                             double* facts) {
    const Lanes known = {reinterpret_cast<const int64_t*>(lanes[0]), reinterpret_cast<const int64_t*>(lanes[1]),
                         reinterpret_cast<const double*>(lanes[2]), reinterpret_cast<const double*>(lanes[3]),
                         reinterpret_cast<const double*>(lanes[4]), lanes[5], lanes[6], lanes[7]};
    const int count = int(size / INSTRUCTION_BYTES);
    if (!known.are_of(count)) return nullptr;
    const Code code(bytes, count, *of);
    auto* kernel = new Kernel;
    Span hot;
    const bool loops = code.hot_loop(hot);
    if (!loops) {
        kernel->head = code.walk(0, count, false);
    } else {
        kernel->head = code.walk(0, hot.first, false);
        kernel->body = code.walk(hot.first, hot.second, false);
        if (kernel->body.empty() || kernel->body.back() != hot.second) kernel->body.push_back(hot.second);
        kernel->tail = code.walk(hot.second + 1, count, loop[1] != 0.0);
    }
    for (const int i : kernel->body) kernel->work += work_of(code, i);
    if (loops && loop[0] != 0.0 && kernel->work != 0.0) {
        const double steps = kernel->work * loop[4] / loop[2];
        unroll(code, hot, kernel->body, loop[3] * steps / loop[4]);
    }
    kernel->rows = costs(code, known);
    std::vector<char> once(code.at.size(), 0);
    double distinct = 0.0;
    for (const int i : kernel->body) distinct += !once[i], once[i] = 1;
    std::fill(facts, facts + 6, 0.0);
    facts[0] = kernel->work, facts[1] = distinct;
    for (int i = 0; i < count; ++i) {
        if (code.at[i].never) continue;
        const int pipe = of->ints[code.at[i].number][MATRIX_PIPE];
        if (pipe) facts[pipe == 2 ? 2 : 3] = 1.0;
        if (code.is(i, BULK)) facts[4] = 1.0;
        if (code.is(i, COPIES)) facts[5] = 1.0;
    }
    return kernel;
}

// Its table and its way, where somebody wants to see them: integers and reals as costs.Costs has them, and the length of head, body
// and tail; with a place for them also what they are.
extern "C" void perf_kernel_table(const void* made, int32_t* integers, double* reals, int32_t* lengths, int32_t* way) {
    const auto& kernel = *static_cast<const Kernel*>(made);
    const std::size_t n = kernel.rows.size();
    for (std::size_t i = 0; integers && i < n; ++i) {
        const Row& row = kernel.rows[i];
        const int32_t fields[] = {row.kind, row.unit, row.cause, row.stall, row.write_barrier, row.read_barrier, row.wait, row.argument};
        for (std::size_t k = 0; k < 8; ++k) integers[k * n + i] = fields[k];
        reals[i] = row.interval, reals[n + i] = row.latency, reals[2 * n + i] = row.l2;
    }
    for (const auto* part : {&kernel.head, &kernel.body, &kernel.tail}) {
        *lengths++ = int32_t(part->size());
        if (way) way = std::copy(part->begin(), part->end(), way);
    }
}

extern "C" void perf_kernel_free(void* made) { delete static_cast<Kernel*>(made); }

// The memory instructions that may run: rows index, PTX line and bytes a lane as one number, and kind, each with room for one an
// instruction; and of lines that are known, what is wanted of them: line and bytes, each pair once. facts: accesses, and the first
// and the last instruction of the hot loop, or of all. Returns how many are wanted.
extern "C" int64_t perf_accesses(const uint8_t* bytes, int64_t size, const Operations* of, const int32_t* lines, int64_t* found,
                                 int32_t* wanted, int64_t* facts) {
    const Code code(bytes, int(size / INSTRUCTION_BYTES), *of);
    const int64_t count = int64_t(code.at.size());
    int64_t accesses = 0;
    std::vector<int64_t> places;
    for (int64_t i = 0; i < count; ++i) {
        const Instruction& x = code.at[i];
        const int kind = of->ints[x.number][ACCESS];
        if (x.never || kind < 0) continue;
        const int64_t place = int64_t(lines[i]) * WIDTHS + x.width;
        found[accesses] = i, found[count + accesses] = place, found[2 * count + accesses] = kind;
        if (place >= WIDTHS) places.push_back(place);
        ++accesses;
    }
    std::sort(places.begin(), places.end());
    places.erase(std::unique(places.begin(), places.end()), places.end());
    for (const int64_t place : places) *wanted++ = int32_t(place / WIDTHS), *wanted++ = int32_t(place % WIDTHS);
    Span hot{0, int(count) - 1};
    code.hot_loop(hot);
    facts[0] = accesses, facts[1] = hot.first, facts[2] = hot.second;
    return int64_t(places.size());
}

// Finds for each access of perf_accesses the row of what the emulator counted, if it is of its kind. index: of accesses to shared
// memory, then to global memory, with room for all; figures: wavefronts; sectors, hits and lines. facts: `count`, hot loop; then how
// many are shared, global, known, in the hot loop, and both.
extern "C" void perf_join(const int64_t* accesses, int64_t stride, const uint64_t* rows, int64_t row_count, int64_t* facts,
                          int64_t* index, double* figures) {
    enum { LINE, WIDTH, OF_KIND, COUNT, WAVEFRONTS, SECTORS, LINES, HITS, AGAIN, AGAIN_SECTORS, AGAIN_HITS, ACTIVE, SHARED, TOUCHED, COLUMNS };
    const int64_t count = facts[0];
    std::vector<std::pair<int64_t, const uint64_t*>> places;
    for (int64_t k = 0; k < row_count; ++k) {
        const uint64_t* row = rows + k * COLUMNS;
        if (row[COUNT]) places.push_back({int64_t(row[LINE]) * WIDTHS + int64_t(row[WIDTH]), row});
    }
    std::sort(places.begin(), places.end());
    int64_t shared = 0, touched = 0, known = 0, hot = 0, both = 0;
    double *wavefronts = figures, *sectors = figures + count, *hits = sectors + count, *lines = hits + count;
    for (int64_t k = 0; k < count; ++k) {
        const int64_t i = accesses[k], place = accesses[stride + k];
        const bool inside = facts[1] <= i && i <= facts[2];
        hot += inside;
        const auto at = std::lower_bound(places.begin(), places.end(), std::make_pair(place, static_cast<const uint64_t*>(nullptr)));
        if (at == places.end() || at->first != place || int64_t(at->second[OF_KIND]) != accesses[2 * stride + k]) continue;
        const uint64_t* row = at->second;
        const double times = double(row[COUNT]);
        ++known, both += inside;
        if (row[SHARED]) index[shared] = i, wavefronts[shared++] = double(row[WAVEFRONTS]) / times;
        if (!row[TOUCHED]) continue;
        const bool again = row[AGAIN_SECTORS] > 0;
        const uint64_t of = again ? row[AGAIN_SECTORS] : row[SECTORS];
        index[count + touched] = i;
        sectors[touched] = double(row[SECTORS]) / times, lines[touched] = double(row[LINES]) / times;
        hits[touched++] = double(again ? row[AGAIN_HITS] : row[HITS]) / double(of ? of : 1);
    }
    facts[3] = shared, facts[4] = touched, facts[5] = known, facts[6] = hot, facts[7] = both;
}
