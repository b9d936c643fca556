// The warps of one sub-partition of an SM, played; the twin of play() in player.py, which explains what it does. Both
// do the same operations in the same order, so that their results are equal to the last bit.

#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

namespace {

enum Kind { PLAIN, MEMORY, COPY, SYNC, GMMA, COMMIT, COMMIT_WAIT, GMMA_WAIT, EXIT };
enum Cause { ISSUE, TENSOR, FMA, ALU, SHARED, L2, LATENCY, BARRIER, DEPENDENCY, CAUSES };
enum { UNITS = 8, BOARDS = 8, NO_BOARD = 7 };
constexpr double MEMORY_ISSUE = 2.0, SOURCES_READ = 12.0, AFTER_QUEUE = 8.0, COPY_READ = 16.0;

struct Board {
    double until = 0.0;
    int why = LATENCY;
};

struct Warp {
    double ready = 0.0;
    int64_t order = 0;
    int why = DEPENDENCY;
    int place = 0;
    bool running = true;
    Board boards[BOARDS];
    Board copied;
    std::deque<Board> copies;
    std::deque<double> gmmas;
};

}  // namespace

// ints: rows kind, unit, cause, stall, write barrier, read barrier, wait, argument of `count` instructions; reals: rows
// interval, latency, l2. marks: ascending places of the trace. constants: queue, barrier. result: the end; for each mark
// when the first and the last warp passed it, then CAUSES and UNITS cycles spent and busy by then; the same for the end.
extern "C" void perf_play(const int32_t* ints, const double* reals, int32_t count, const int32_t* trace, int32_t length,
                          const int32_t* marks, int32_t mark_count, int32_t warp_count, int32_t per_block,
                          const double* constants, double* result) {
    const int32_t *kinds = ints, *units = ints + count, *causes = ints + 2 * count, *stalls = ints + 3 * count;
    const int32_t *write_barriers = ints + 4 * count, *read_barriers = ints + 5 * count, *waits = ints + 6 * count;
    const int32_t* arguments = ints + 7 * count;
    const double *intervals = reals, *latencies = reals + count, *l2s = reals + 2 * count;
    const double queue = constants[0], barrier = constants[1];
    const int groups = (warp_count + per_block - 1) / per_block;
    std::vector<Warp> warps(warp_count);
    std::vector<std::vector<int>> waiting(groups);
    std::vector<int> alive(groups);
    for (int w = 0; w < warp_count; ++w) {
        warps[w].order = w;
        ++alive[w / per_block];
    }
    std::vector<int> to_pass(mark_count, warp_count), mark_at(length, -1);
    for (int m = 0; m < mark_count; ++m) mark_at[marks[m]] = m;
    double free[UNITS] = {}, busy[UNITS] = {}, spent[CAUSES] = {};
    double issue = 0.0, memory = 0.0, l2_done = 0.0, end = 0.0;
    int64_t turn = warp_count;
    int running = warp_count;
    constexpr int ROW = 2 + CAUSES + UNITS;
    const auto snapshot = [&](double* row, double time) {
        row[1] = time;
        for (int c = 0; c < CAUSES; ++c) row[2 + c] = spent[c];
        for (int u = 0; u < UNITS; ++u) row[2 + CAUSES + u] = busy[u];
    };
    while (running) {
        int next = -1, second = -1;
        for (int v = 0; v < warp_count; ++v) {
            if (!warps[v].running) continue;
            const Warp& x = warps[v];
            const auto before = [&](int other) {
                const Warp& y = warps[other];
                return x.ready < y.ready || (x.ready == y.ready && x.order < y.order);
            };
            if (next < 0 || before(next)) {
                second = next;
                next = v;
            } else if (second < 0 || before(second)) {
                second = v;
            }
        }
        Warp& warp = warps[next];
        const int i = trace[warp.place], kind = kinds[i], unit = units[i];
        const bool moves = kind == MEMORY || kind == COPY;
        double t = warp.ready;
        int reason = warp.why;
        if (!(t > issue)) {
            t = issue;
            reason = ISSUE;
        }
        for (int b = 0, wait = waits[i]; wait; wait >>= 1, ++b) {
            if ((wait & 1) && warp.boards[b].until > t) {
                t = warp.boards[b].until;
                reason = warp.boards[b].why;
            }
        }
        if (kind == COMMIT_WAIT) {
            for (; static_cast<int>(warp.copies.size()) > arguments[i]; warp.copies.pop_front()) {
                if (warp.copies.front().until > t) {
                    t = warp.copies.front().until;
                    reason = warp.copies.front().why;
                }
            }
        } else if (kind == GMMA_WAIT) {
            for (; static_cast<int>(warp.gmmas.size()) > arguments[i]; warp.gmmas.pop_front()) {
                if (warp.gmmas.front() > t) {
                    t = warp.gmmas.front();
                    reason = TENSOR;
                }
            }
        }
        if (free[unit] > t) {
            t = free[unit];
            reason = moves ? static_cast<int>(SHARED) : causes[i];
        }
        if (moves && memory - t > queue) {
            t = memory - queue;
            reason = SHARED;
        }
        if (t > warp.ready && t > issue && second >= 0 && warps[second].ready < t) {
            warp.ready = t;
            warp.why = reason;
            warp.order = turn++;
            continue;
        }
        if (t > issue) spent[reason] += t - issue;
        spent[ISSUE] += 1.0;
        issue = t + 1.0;
        double done = t;
        int source = causes[i];
        const int read_barrier = read_barriers[i], write_barrier = write_barriers[i];
        if (moves) {
            free[unit] = t + MEMORY_ISSUE;
            memory = (memory > t ? memory : t) + intervals[i];
            busy[unit] += intervals[i];
            done = memory;
            const double read = kind == COPY ? t + COPY_READ : memory;
            if (l2s[i] != 0.0) {
                l2_done = (l2_done > t ? l2_done : t) + l2s[i];
                if (l2_done > done) {
                    done = l2_done;
                    source = L2;
                }
            }
            done += latencies[i];
            if (kind == COPY && done > warp.copied.until) warp.copied = {done, source};
            if (read_barrier != NO_BOARD && read + AFTER_QUEUE > warp.boards[read_barrier].until)
                warp.boards[read_barrier] = {read + AFTER_QUEUE, SHARED};
        } else {
            if (unit) {
                free[unit] = t + intervals[i];
                busy[unit] += intervals[i];
                done = t + intervals[i] + latencies[i];
            } else {
                done = t + latencies[i];
            }
            if (kind == GMMA) {
                if (arguments[i]) warp.gmmas.push_back(done);
            } else if (kind == COMMIT) {
                warp.copies.push_back(warp.copied);
            }
            if (read_barrier != NO_BOARD && t + SOURCES_READ > warp.boards[read_barrier].until)
                warp.boards[read_barrier] = {t + SOURCES_READ, DEPENDENCY};
            if (done > end) end = done;
        }
        if (write_barrier != NO_BOARD && done > warp.boards[write_barrier].until)
            warp.boards[write_barrier] = {done, source};
        const int mark = mark_at[warp.place];
        if (mark >= 0) {
            double* row = result + 1 + mark * ROW;
            if (to_pass[mark] == warp_count) row[0] = t;
            if (--to_pass[mark] == 0) snapshot(row, t);
        }
        ++warp.place;
        const double after = t + stalls[i];
        const int group = next / per_block;
        double resumes = after;
        if (kind == EXIT || warp.place >= length) {
            if (after > end) end = after;
            warp.running = false;
            --running;
            --alive[group];
        } else if (kind == SYNC) {
            waiting[group].push_back(next);
            warp.running = false;
            --running;
            resumes = t + barrier;
        } else {
            warp.ready = after;
            warp.why = DEPENDENCY;
            warp.order = turn++;
            continue;
        }
        if (!waiting[group].empty() && static_cast<int>(waiting[group].size()) >= alive[group]) {
            for (const int v : waiting[group]) {
                warps[v].ready = resumes;
                warps[v].why = BARRIER;
                warps[v].order = turn++;
                warps[v].running = true;
                ++running;
            }
            waiting[group].clear();
        }
    }
    if (end > issue) spent[LATENCY] += end - issue;
    result[0] = result[1 + mark_count * ROW] = end;
    snapshot(result + 1 + mark_count * ROW, end);
}
