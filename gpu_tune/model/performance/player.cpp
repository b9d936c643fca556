// The warps of one sub-partition of an SM, played; the twin of play_in_python() in player.py, which explains what it
// does. Both do the same operations in the same order, so that their results are equal to the last bit.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <utility>
#include <vector>

namespace {

enum Kind {
    PLAIN, MEMORY, COPY, SYNC, GMMA, COMMIT, COMMIT_WAIT, GMMA_WAIT, EXIT,  // of any kernel
    ACQUIRE, FILL, TAKE, GIVE, TURN, PASS                                   // of warp-specialised ones
};
enum Cause { ISSUE, TENSOR, FMA, ALU, SHARED, L2, LATENCY, BARRIER, DEPENDENCY, FETCH, CAUSES };
enum { UNITS = 8, BOARDS = 8, NO_BOARD = 7, COLUMNS = 2 + CAUSES + UNITS };
constexpr double MEMORY_ISSUE = 2.0, SOURCES_READ = 12.0, AFTER_QUEUE = 8.0, COPY_READ = 16.0;

struct Event {
    double time = 0.0;
    int why = LATENCY;
};

struct Place {
    double ready;
    int warp;
};

struct Ring {
    int stages, waits, readers, consumers, interleaved;
};

// What an instruction costs, side by side: a step of the play looks at one row.
struct Row {
    double interval, latency, l2;
    int kind, unit, cause, stall, write_barrier, read_barrier, wait, argument;
};

struct Warp {
    double ready = 0.0;
    int why = DEPENDENCY;
    int place = 0, end = 0, group = 0, block = 0, reader = 0;
    bool running = true;
    Event boards[BOARDS];
    Event copied;
    std::deque<Event> copies;
    std::deque<double> gmmas;
    int taken = 0, given = 0, turns = 0;
    std::vector<double> passes;
};

// The ring of a block: when fills were there, and when all their readers had released them.
struct Slots {
    int acquired = 0;
    Event pending;
    std::vector<Event> filled;
    std::unordered_map<int, double> released;
    std::unordered_map<int, int> left;
    std::vector<int> parked;
};

class Player {
  public:
    Player(const int32_t* ints, const double* reals, int count, const int32_t* trace, int length, const int32_t* marks,
           int mark_count, int warp_count, const int32_t* cast, const Ring& ring, const double* constants, double* result)
        : rows(count), trace(trace), mark_count(mark_count), ring(ring), queue(constants[0]), barrier(constants[1]),
          release(constants[2]), result(result), warps(warp_count), total(mark_count), mark_at(length, -1) {
        int groups = 0, blocks = 0;
        for (int i = 0; i < count; ++i) {
            const auto number = [&](int row) { return ints[row * count + i]; };
            rows[i] = {reals[i],  reals[count + i], reals[2 * count + i], number(0), number(1), number(2),
                       number(3), number(4),        number(5),            number(6), number(7)};
        }
        for (int w = 0; w < warp_count; ++w) {
            Warp& x = warps[w];
            line.push_back({0.0, w});
            x.place = cast[w];
            x.end = cast[warp_count + w];
            x.group = cast[2 * warp_count + w];
            x.block = cast[3 * warp_count + w];
            x.reader = cast[4 * warp_count + w];
            to_finish += x.reader >= 0;
            if (x.group >= groups) groups = x.group + 1;
            if (x.block >= blocks) blocks = x.block + 1;
        }
        waiting.resize(groups);
        alive.resize(groups);
        slots.resize(blocks);
        for (const Warp& x : warps) ++alive[x.group];
        for (int m = 0; m < mark_count; ++m) {
            mark_at[marks[m]] = m;
            for (const Warp& x : warps) total[m] += x.place <= marks[m] && marks[m] < x.end;
        }
        to_pass = total;
        running = warp_count;
    }

    // Whether all warps came to their ends.
    bool run() {
        while (to_finish) {
            if (!running) return false;
            step();
        }
        if (end > issue) spent[LATENCY] += end - issue;
        double* last = result + mark_count * COLUMNS;
        last[0] = end;
        snapshot(last, end);
        return true;
    }

  private:
    void snapshot(double* row, double time) const {
        row[1] = time;
        for (int c = 0; c < CAUSES; ++c) row[2 + c] = spent[c];
        for (int u = 0; u < UNITS; ++u) row[2 + CAUSES + u] = busy[u];
    }

    // Warp v may issue at `ready`. The line has the running warps by that time, equal ones as they came to be ready: only
    // the first is ever looked at, and what it lets pass is moved up.
    void schedule(int v, double ready, int why) {
        warps[v].ready = ready;
        warps[v].why = why;
        std::size_t at = 0;
        while (at < line.size() && line[at].warp != v) ++at;
        if (at == line.size()) {
            line.push_back({ready, v});
            for (; at && line[at - 1].ready > ready; --at) line[at] = line[at - 1];
        } else {
            for (; at + 1 < line.size() && line[at + 1].ready <= ready; ++at) line[at] = line[at + 1];
        }
        line[at] = {ready, v};
    }

    int fill(const Warp& w, int count) const {
        if (!ring.interleaved) return count;
        return (count / ring.waits * ring.consumers + w.reader) * ring.waits + count % ring.waits;
    }

    void wake(int v, double ready, int why) {
        schedule(v, ready, why);
        if (!warps[v].running) {
            warps[v].running = true;
            ++running;
        }
    }

    void stop(int v) {
        warps[v].running = false;
        std::size_t at = 0;
        while (line[at].warp != v) ++at;
        line.erase(line.begin() + static_cast<std::ptrdiff_t>(at));
        --running;
    }

    void later(Event event) {
        if (event.time > t) {
            t = event.time;
            reason = event.why;
        }
    }

    // Whether what the instruction waits for has a time yet; that time is then taken into account.
    bool waited(Warp& w, Slots& mine, int kind, int argument) {
        switch (kind) {
            case COMMIT_WAIT:
                for (; static_cast<int>(w.copies.size()) > argument; w.copies.pop_front()) later(w.copies.front());
                return true;
            case GMMA_WAIT:
                for (; static_cast<int>(w.gmmas.size()) > argument; w.gmmas.pop_front()) later({w.gmmas.front(), TENSOR});
                return true;
            case ACQUIRE: {
                if (mine.acquired < ring.stages) return true;
                const auto found = mine.released.find(mine.acquired - ring.stages);
                if (found == mine.released.end()) return false;
                later({found->second, BARRIER});
                return true;
            }
            case TAKE: {
                const std::size_t number = fill(w, w.taken);
                if (number >= mine.filled.size()) return false;
                later(mine.filled[number]);
                return true;
            }
            case TURN: {
                const std::size_t needed = w.turns + (w.reader ? 1 : 0);
                if (w.passes.size() < needed) return false;
                if (needed) later({w.passes[needed - 1], BARRIER});
                return true;
            }
            default:
                return true;
        }
    }

    void step() {
        const int x = line[0].warp;
        Warp& w = warps[x];
        Slots& mine = slots[w.block];
        const Row& row = rows[trace[w.place]];
        const int kind = row.kind, unit = row.unit, argument = row.argument;
        const bool moves = kind == MEMORY || kind == COPY;
        t = issue;
        reason = ISSUE;
        if (w.ready > issue) {
            t = w.ready;
            reason = w.why;
        }
        for (int b = 0, wait = row.wait; wait; wait >>= 1, ++b) {
            if (wait & 1) later(w.boards[b]);
        }
        if (!waited(w, mine, kind, argument)) {
            stop(x);
            mine.parked.push_back(x);
            return;
        }
        if (kind != GMMA) later({free[unit], moves ? static_cast<int>(SHARED) : row.cause});
        if (moves && memory - t > queue) {
            t = memory - queue;
            reason = SHARED;
        }
        if (t > w.ready && t > issue && line.size() > 1 && line[1].ready < t) {
            schedule(x, t, reason);
            return;
        }
        if (t > issue) spent[reason] += t - issue;
        spent[ISSUE] += 1.0;
        issue = t + 1.0;
        const bool told = execute(w, mine, row, kind, unit, argument, moves);
        const int mark = mark_at[w.place];
        if (mark >= 0) {
            double* passed = result + mark * COLUMNS;
            if (to_pass[mark] == total[mark]) passed[0] = t;
            if (--to_pass[mark] == 0) snapshot(passed, t);
        }
        if (told) {
            const std::vector<int> parked = std::move(mine.parked);
            mine.parked.clear();
            for (const int v : parked) wake(v, warps[v].ready > t ? warps[v].ready : t, BARRIER);
        }
        advance(x, w, kind, t + row.stall);
    }

    // The effects of an instruction at time t; whether somebody may have waited for them.
    bool execute(Warp& w, Slots& mine, const Row& row, int kind, int unit, int argument, bool moves) {
        double done = t;
        int source = row.cause;
        bool told = false;
        const int read_barrier = row.read_barrier, write_barrier = row.write_barrier;
        if (moves || kind == FILL) {
            free[unit] = t + MEMORY_ISSUE;
            if (moves) {
                memory = (memory > t ? memory : t) + row.interval;
                busy[unit] += row.interval;
                done = memory;
            }
            const double read = kind == COPY ? t + COPY_READ : done;
            if (row.l2 != 0.0) {
                l2_done = (l2_done > t ? l2_done : t) + row.l2;
                if (l2_done > done) {
                    done = l2_done;
                    source = L2;
                }
            }
            done += row.latency;
            if (kind == COPY) {
                if (done > w.copied.time) w.copied = {done, source};
            } else if (kind == FILL) {
                if (done > mine.pending.time) mine.pending = {done, source};
                if (argument) {
                    mine.filled.push_back(mine.pending);
                    mine.pending.time = 0.0;
                    told = true;
                }
            }
            if (read_barrier != NO_BOARD && read + AFTER_QUEUE > w.boards[read_barrier].time)
                w.boards[read_barrier] = {read + AFTER_QUEUE, SHARED};
        } else {
            if (unit) {
                const double start = kind == GMMA && free[unit] > t ? free[unit] : t;  // wgmma queues, its warp goes on
                free[unit] = start + row.interval;
                busy[unit] += row.interval;
                done = start + row.interval + row.latency;
            } else {
                done = t + row.latency;
            }
            if (kind == GMMA) {
                if (argument) w.gmmas.push_back(done);
            } else if (kind == COMMIT) {
                w.copies.push_back(w.copied);
            } else if (kind == ACQUIRE) {
                ++mine.acquired;
            } else if (kind == TAKE) {
                ++w.taken;
            } else if (kind == TURN) {
                ++w.turns;
            } else if (kind == GIVE) {
                const int number = fill(w, w.given++);
                const auto left = mine.left.emplace(number, ring.readers).first;
                if (--left->second == 0) {
                    mine.released[number] = t + release;
                    told = true;
                }
            } else if (kind == PASS) {
                for (Warp& v : warps) {
                    if (v.block == w.block && v.reader == (w.reader + 1) % ring.consumers) v.passes.push_back(t);
                }
                told = true;
            }
            if (read_barrier != NO_BOARD && t + SOURCES_READ > w.boards[read_barrier].time)
                w.boards[read_barrier] = {t + SOURCES_READ, DEPENDENCY};
            if (done > end && w.reader >= 0) end = done;
        }
        if (write_barrier != NO_BOARD && done > w.boards[write_barrier].time) w.boards[write_barrier] = {done, source};
        return told;
    }

    void advance(int x, Warp& w, int kind, double resumes) {
        ++w.place;
        if (kind == EXIT || w.place >= w.end) {
            if (w.reader >= 0) {
                if (resumes > end) end = resumes;
                --to_finish;
            }
            stop(x);
            --alive[w.group];
        } else if (kind == SYNC) {
            waiting[w.group].push_back(x);
            stop(x);
            resumes = t + barrier;
        } else {
            schedule(x, resumes, DEPENDENCY);
            return;
        }
        std::vector<int>& meeting = waiting[w.group];
        if (!meeting.empty() && static_cast<int>(meeting.size()) >= alive[w.group]) {
            for (const int v : meeting) wake(v, resumes, BARRIER);
            meeting.clear();
        }
    }

    std::vector<Row> rows;
    const int32_t* trace;
    int mark_count;
    Ring ring;
    double queue, barrier, release;
    double* result;
    std::vector<Warp> warps;
    std::vector<Place> line;
    std::vector<Slots> slots;
    std::vector<std::vector<int>> waiting;
    std::vector<int> alive, total, to_pass, mark_at;
    double free[UNITS] = {}, busy[UNITS] = {}, spent[CAUSES] = {};
    double issue = 0.0, memory = 0.0, l2_done = 0.0, end = 0.0, t = 0.0;
    int reason = ISSUE, running = 0, to_finish = 0;
};

}  // namespace

// ints: rows kind, unit, cause, stall, write barrier, read barrier, wait, argument of `count` instructions; reals: rows
// interval, latency, l2. marks: ascending places of the trace. cast: rows begin, end, group, block, reader of the warps.
// ring: stages, waits, readers, consumers, interleaved. constants: queue, barrier, release. result, for each mark and for
// the end: when the first and the last warp passed, then CAUSES and UNITS cycles spent and busy by then. Returns 0 where
// the warps wait for each other forever.
extern "C" int32_t perf_play(const int32_t* ints, const double* reals, int32_t count, const int32_t* trace,
                             int32_t length, const int32_t* marks, int32_t mark_count, int32_t warp_count,
                             const int32_t* cast, const int32_t* ring, const double* constants, double* result) {
    const Ring shape = {ring[0], ring[1], ring[2], ring[3], ring[4]};
    return Player(ints, reals, count, trace, length, marks, mark_count, warp_count, cast, shape, constants, result).run();
}
