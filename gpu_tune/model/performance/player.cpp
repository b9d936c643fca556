// The warps of one sub-partition of an SM, played; the twin of play_in_python() in player.py, which explains what it
// does. Both do the same operations in the same order, so that their results are equal to the last bit.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <utility>
#include <vector>

#include "code.hpp"

namespace {

using perf::Row;

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

// The running warps by the time at which they may issue, equal ones as they came to be ready. Warps leave in front and come in
// near the end, so the queue slides through its memory.
class Queue {
  public:
    explicit Queue(std::size_t most) : places(16 * most) {}
    bool empty() const { return head == tail; }
    int first() const { return places[head].warp; }
    bool other_before(double time) const { return tail - head > 1 && places[head + 1].ready < time; }
    void pop() { ++head; }
    void push(const Place& place) {
        if (tail == places.size()) {
            std::copy(places.begin() + head, places.end(), places.begin());
            tail -= head, head = 0;
        }
        std::size_t at = tail++;
        for (; at > head && places[at - 1].ready > place.ready; --at) places[at] = places[at - 1];
        places[at] = place;
    }
    // Takes a warp out, if it is in.
    void remove(int warp) {
        std::size_t at = head;
        while (at < tail && places[at].warp != warp) ++at;
        if (at == tail) return;
        std::copy(places.begin() + at + 1, places.begin() + tail, places.begin() + at);
        --tail;
    }

  private:
    std::vector<Place> places;
    std::size_t head = 0, tail = 0;
};

struct Ring {
    int stages, waits, readers, consumers, interleaved;
};

// Events that leave in the order in which they came.
template <class T>
struct Line {
    std::vector<T> items;
    std::size_t head = 0;
    std::size_t size() const { return items.size() - head; }
    const T& front() const { return items[head]; }
    void pop() {
        if (++head == items.size()) items.clear(), head = 0;
    }
};

struct Warp {
    double ready = 0.0;
    int why = DEPENDENCY;
    int place = 0, end = 0, group = 0, block = 0, reader = 0;
    int waited = -1;  // the place whose scoreboards `ready` takes into account
    int mark = 0;  // the next one that it passes
    Event boards[BOARDS];
    Event copied;
    Line<Event> copies;
    Line<double> gmmas;
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

// The time at which an instruction may issue, and what it waited for: whatever came last.
struct Moment {
    double time;
    int why;
    void later(double other, int reason) {
        const bool is_later = other > time;
        time = is_later ? other : time;
        why = is_later ? reason : why;
    }
};

class Player {
  public:
    Player(const std::vector<Row>& rows, const int32_t* trace, const int32_t* marks, int mark_count, int warp_count,
           const int32_t* cast, const Ring& ring, const double* constants, double* result)
        : rows(rows), trace(trace), marks(marks), mark_count(mark_count), ring(ring), queue(constants[0]),
          barrier(constants[1]), release(constants[2]), result(result), warps(warp_count), line(std::size_t(warp_count)),
          total(mark_count) {
        int groups = 0, blocks = 0;
        for (int w = 0; w < warp_count; ++w) {
            Warp& x = warps[w];
            line.push({0.0, w});
            x.place = cast[w];
            x.end = cast[warp_count + w];
            x.group = cast[2 * warp_count + w];
            x.block = cast[3 * warp_count + w];
            x.reader = cast[4 * warp_count + w];
            to_finish += x.reader >= 0;
            if (x.group >= groups) groups = x.group + 1;
            if (x.block >= blocks) blocks = x.block + 1;
            while (x.mark < mark_count && marks[x.mark] < x.place) ++x.mark;
            for (int m = x.mark; m < mark_count && marks[m] < x.end; ++m) ++total[m];
        }
        waiting.resize(groups);
        alive.resize(groups);
        slots.resize(blocks);
        for (const Warp& x : warps) ++alive[x.group];
        to_pass = total;
    }

    // Whether all warps came to their ends.
    bool run() {
        while (to_finish) {
            if (line.empty()) return false;
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

    // The first warp of the line may issue at `ready`.
    void defer(Warp& w, double ready, int why) {
        w.ready = ready;
        w.why = why;
        const int x = line.first();
        line.pop();
        line.push({ready, x});
    }

    // Warp v may issue at `ready`, wherever it is in the line, if it is.
    void wake(int v, double ready, int why) {
        warps[v].ready = ready;
        warps[v].why = why;
        line.remove(v);
        line.push({ready, v});
    }

    int fill(const Warp& w, int count) const {
        if (!ring.interleaved) return count;
        return (count / ring.waits * ring.consumers + w.reader) * ring.waits + count % ring.waits;
    }

    // Whether what the instruction waits for has a time yet; that time is then taken into account.
    bool waited(Warp& w, Slots& mine, const Row& row, Moment& now) {
        switch (row.kind) {
            case COMMIT_WAIT:
                for (; static_cast<int>(w.copies.size()) > row.argument; w.copies.pop())
                    now.later(w.copies.front().time, w.copies.front().why);
                return true;
            case GMMA_WAIT:
                for (; static_cast<int>(w.gmmas.size()) > row.argument; w.gmmas.pop()) now.later(w.gmmas.front(), TENSOR);
                return true;
            case ACQUIRE: {
                if (mine.acquired < ring.stages) return true;
                const auto found = mine.released.find(mine.acquired - ring.stages);
                if (found == mine.released.end()) return false;
                now.later(found->second, BARRIER);
                return true;
            }
            case TAKE: {
                const std::size_t number = fill(w, w.taken);
                if (number >= mine.filled.size()) return false;
                now.later(mine.filled[number].time, mine.filled[number].why);
                return true;
            }
            case TURN: {
                const std::size_t needed = w.turns + (w.reader ? 1 : 0);
                if (w.passes.size() < needed) return false;
                if (needed) now.later(w.passes[needed - 1], BARRIER);
                return true;
            }
            default:
                return true;
        }
    }

    void step() {
        const int x = line.first();
        Warp& w = warps[x];
        const Row& row = rows[trace[w.place]];
        const double before = issue;
        Moment now = {before, ISSUE};
        now.later(w.ready, w.why);
        for (unsigned wait = w.waited == w.place ? 0 : row.wait; wait; wait &= wait - 1) {
            const Event& board = w.boards[__builtin_ctz(wait)];
            now.later(board.time, board.why);
        }
        if (row.kind >= COMMIT_WAIT && !waited(w, slots[w.block], row, now)) {
            line.pop();
            slots[w.block].parked.push_back(x);
            return;
        }
        if (row.kind != GMMA) now.later(free[row.unit], row.moves ? static_cast<int>(SHARED) : row.cause);
        if (row.moves && memory - now.time > queue) now = {memory - queue, SHARED};
        const double t = now.time;
        if (t > w.ready && t > before && line.other_before(t)) {
            w.waited = w.place;
            defer(w, t, now.why);
            return;
        }
        if (t > before) spent[now.why] += t - before;
        spent[ISSUE] += 1.0;
        issue = t + 1.0;
        const bool told = row.moves || row.kind == FILL ? moved(w, row, t) : computed(w, row, t);
        if (w.mark < mark_count && marks[w.mark] == w.place) pass_mark(w.mark++, t);
        if (told) {
            const std::vector<int> parked = std::move(slots[w.block].parked);
            slots[w.block].parked.clear();
            for (const int v : parked) wake(v, warps[v].ready > t ? warps[v].ready : t, BARRIER);
        }
        ++w.place;
        if (row.kind == EXIT || row.kind == SYNC || w.place >= w.end) leave(x, w, row.kind, t, t + row.stall);
        else defer(w, t + row.stall, DEPENDENCY);
    }

    void pass_mark(int mark, double t) {
        double* passed = result + mark * COLUMNS;
        if (to_pass[mark] == total[mark]) passed[0] = t;
        if (--to_pass[mark] == 0) snapshot(passed, t);
    }

    static void hold(Event& board, double until, int why) {
        if (until > board.time) board = {until, why};
    }

    // The effects of an instruction that moves data, at time t; whether somebody may have waited for them.
    bool moved(Warp& w, const Row& row, double t) {
        bool told = false;
        int source = row.cause;
        free[row.unit] = t + MEMORY_ISSUE;
        double done = t;
        if (row.moves) {
            memory = (memory > t ? memory : t) + row.interval;
            busy[row.unit] += row.interval;
            done = memory;
        }
        const double read = row.kind == COPY ? t + COPY_READ : done;
        if (row.l2 != 0.0) {
            l2_done = (l2_done > t ? l2_done : t) + row.l2;
            if (l2_done > done) {
                done = l2_done;
                source = L2;
            }
        }
        done += row.latency;
        if (row.kind == COPY) {
            hold(w.copied, done, source);
        } else if (row.kind == FILL) {
            Slots& mine = slots[w.block];
            hold(mine.pending, done, source);
            if (row.argument) {
                mine.filled.push_back(mine.pending);
                mine.pending.time = 0.0;
                told = true;
            }
        }
        if (row.read_barrier != NO_BOARD) hold(w.boards[row.read_barrier], read + AFTER_QUEUE, SHARED);
        if (row.write_barrier != NO_BOARD) hold(w.boards[row.write_barrier], done, source);
        return told;
    }

    // The same of one that does not.
    bool computed(Warp& w, const Row& row, double t) {
        double done = t + row.latency;
        if (row.unit) {
            const double start = row.kind == GMMA && free[row.unit] > t ? free[row.unit] : t;  // wgmma queues, its warp goes on
            free[row.unit] = start + row.interval;
            busy[row.unit] += row.interval;
            done = start + row.interval + row.latency;
        }
        const bool told = row.kind != PLAIN && noted(w, row, t, done);
        if (done > end && w.reader >= 0) end = done;
        if (row.read_barrier != NO_BOARD) hold(w.boards[row.read_barrier], t + SOURCES_READ, DEPENDENCY);
        if (row.write_barrier != NO_BOARD) hold(w.boards[row.write_barrier], done, row.cause);
        return told;
    }

    // What groups and mbarriers note of it.
    bool noted(Warp& w, const Row& row, double t, double done) {
        Slots& mine = slots[w.block];
        switch (row.kind) {
            case GMMA:
                if (row.argument) w.gmmas.items.push_back(done);
                return false;
            case COMMIT:
                w.copies.items.push_back(w.copied);
                return false;
            case ACQUIRE:
                ++mine.acquired;
                return false;
            case TAKE:
                ++w.taken;
                return false;
            case TURN:
                ++w.turns;
                return false;
            case GIVE: {
                const int number = fill(w, w.given++);
                const auto left = mine.left.emplace(number, ring.readers).first;
                if (--left->second) return false;
                mine.released[number] = t + release;
                return true;
            }
            case PASS:
                for (Warp& v : warps) {
                    if (v.block == w.block && v.reader == (w.reader + 1) % ring.consumers) v.passes.push_back(t);
                }
                return true;
            default:
                return false;
        }
    }

    // The first warp of the line comes to its end or to a barrier; whoever waits there goes on once all are there.
    void leave(int x, Warp& w, int kind, double t, double resumes) {
        line.pop();
        if (kind == SYNC && w.place < w.end) {
            waiting[w.group].push_back(x);
            resumes = t + barrier;
        } else {
            if (w.reader >= 0) {
                if (resumes > end) end = resumes;
                --to_finish;
            }
            --alive[w.group];
        }
        std::vector<int>& meeting = waiting[w.group];
        if (!meeting.empty() && static_cast<int>(meeting.size()) >= alive[w.group]) {
            for (const int v : meeting) wake(v, resumes, BARRIER);
            meeting.clear();
        }
    }

    const std::vector<Row>& rows;
    const int32_t *trace, *marks;
    int mark_count;
    Ring ring;
    double queue, barrier, release;
    double* result;
    std::vector<Warp> warps;
    Queue line;
    std::vector<Slots> slots;
    std::vector<std::vector<int>> waiting;
    std::vector<int> alive, total, to_pass;
    double free[UNITS] = {}, busy[UNITS] = {}, spent[CAUSES] = {};
    double issue = 0.0, memory = 0.0, l2_done = 0.0, end = 0.0;
    int to_finish = 0;
};

// The table where `active` resident warps contend for the SM's memory pipe and its way to L2: Costs.shared().
std::vector<Row> shared(const std::vector<Row>& alone, int active) {
    const double sharers = std::min(4, std::max(1, active));
    std::vector<Row> rows = alone;
    for (Row& row : rows)
        if (row.moves) row.interval *= sharers, row.l2 *= sharers;
    return rows;
}

// A run of so many iterations by warps that all do the same: Code._run() in code.py.
class Alike {
  public:
    Alike(const perf::Kernel& kernel, int warps, int blocks, const double* constants)
        : kernel(kernel), rows(shared(kernel.rows, warps * blocks)), constants(constants), count(std::max(1, (warps * blocks + 3) / 4)),
          cast(5 * count, 0) {
        const int per_block = warps >= 4 ? std::max(1, count / blocks) : 1;
        for (int w = 0; w < count; ++w) cast[2 * count + w] = cast[3 * count + w] = w / per_block;
    }
    // Rows of the result; false where warps wait for each other forever.
    bool run(int iterations, std::vector<double>& result) {
        std::vector<int32_t> trace = kernel.head, marks;
        trace.reserve(trace.size() + kernel.body.size() * iterations + kernel.tail.size());
        for (int k = 0; k < iterations; ++k) {
            trace.insert(trace.end(), kernel.body.begin(), kernel.body.end());
            marks.push_back(int32_t(trace.size()) - 1);
        }
        trace.insert(trace.end(), kernel.tail.begin(), kernel.tail.end());
        std::fill(&cast[count], &cast[count] + count, int32_t(trace.size()));
        result.assign((marks.size() + 1) * COLUMNS, 0.0);
        return Player(rows, trace.data(), marks.data(), iterations, count, cast.data(), {1, 1, 1, 1, 0}, constants, result.data()).run();
    }

  private:
    const perf::Kernel& kernel;
    const std::vector<Row> rows;
    const double* constants;
    const int count;
    std::vector<int32_t> cast;
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
    std::vector<Row> rows(count);
    for (int i = 0; i < count; ++i) {
        const auto byte = [&](int row) { return static_cast<uint8_t>(ints[row * count + i]); };
        const uint8_t kind = byte(0);
        rows[i] = {reals[i], reals[count + i], reals[2 * count + i], ints[7 * count + i], kind,   byte(1),
                   byte(2),  byte(3),          byte(4),              byte(5),             byte(6), kind == MEMORY || kind == COPY};
    }
    const Ring shape = {ring[0], ring[1], ring[2], ring[3], ring[4]};
    return Player(rows, trace, marks, mark_count, warp_count, cast, shape, constants, result).run();
}

// The pace of `blocks` resident blocks of `warps` warps of a kernel between two iterations: Code.pace() in code.py. pace: tail, cycles of an iteration; CAUSES of an iteration and of the rest; share of
// UNITS; times when the first iterations are done, from none on. Returns how many these are, 0 where the warps wait for each other
// forever.
extern "C" int32_t perf_pace(const void* made, int32_t warps, int32_t blocks, double queue, double barrier, int32_t first, int32_t last,
                             double* pace) {
    const auto& kernel = *static_cast<const perf::Kernel*>(made);
    const double constants[] = {queue, barrier, 0.0};
    double *causes = pace + 2, *rest = causes + CAUSES, *shares = rest + CAUSES, *passed = shares + UNITS;
    enum { FIRST_TIME, TIME, CAUSE, BUSY = CAUSE + CAUSES };
    Alike alike(kernel, warps, blocks, constants);
    std::vector<double> many, few;
    std::fill(pace, passed + last + 1, 0.0);
    const int count = kernel.body.empty() ? 0 : last;
    if (!alike.run(count, many)) return 0;
    const double* end = &many[count * COLUMNS];
    if (!count) {
        pace[0] = end[TIME];
        std::copy(end + CAUSE, end + BUSY, rest);
        return 1;
    }
    const double *before = &many[(first - 1) * COLUMNS], *after = &many[(last - 1) * COLUMNS], *from = before, *to = after;
    double one = (after[TIME] - before[TIME]) / (last - first);
    const bool uneven = before[TIME] - before[FIRST_TIME] > before[TIME] / 4;  // some warps run far ahead: only whole runs tell it
    if (uneven) {
        if (!alike.run(first, few)) return 0;
        from = &few[first * COLUMNS], to = end;
        one = (to[TIME] - from[TIME]) / (last - first);
    }
    one = std::max(one, 1.0);
    pace[0] = uneven ? 0.0 : end[TIME] - after[TIME];
    pace[1] = one;
    for (int c = 0; c < CAUSES; ++c) {
        causes[c] = (to[CAUSE + c] - from[CAUSE + c]) / (last - first);
        rest[c] = uneven ? from[CAUSE + c] - first * causes[c] : end[CAUSE + c] - last * causes[c];
    }
    for (int u = 0; u < UNITS; ++u) shares[u] = (to[BUSY + u] - from[BUSY + u]) / (last - first) / one;
    const double start = uneven ? std::max(0.0, from[TIME] - first * one) : 0.0;
    for (int k = 0; k <= last; ++k) passed[k] = uneven ? start + one * k : k ? many[(k - 1) * COLUMNS + TIME] : 0.0;
    return last + 1;
}
