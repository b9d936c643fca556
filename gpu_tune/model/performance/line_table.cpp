// A line-number program of a cubin, run: the twin of LineProgram.run() in gpu_tune/cuda/lines.py, which explains what it reads,
// for the PTX line of each instruction alone. What is malformed is left to the twin, whose errors say why.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

enum { EXTENDED, COPY, ADVANCE_PC, ADVANCE_LINE, SET_FILE, CONST_ADD_PC = 8, FIXED_ADVANCE_PC = 9 };
enum { END = 1, SET_ADDRESS = 2 };
constexpr int64_t INSTRUCTION_BYTES = 16, MOST = int64_t(1) << 40;
constexpr int32_t NONE = INT32_MIN;

struct Reader {
    const uint8_t* body;
    int64_t at, end;
    bool bad = false;

    int64_t number(bool is_signed = false) {
        uint64_t value = 0;
        for (int shift = 0; at < end && shift < 42; shift += 7) {
            const uint8_t byte = body[at++];
            value |= uint64_t(byte & 0x7F) << shift;
            if (byte < 0x80) return is_signed && byte & 0x40 ? int64_t(value) - (int64_t(1) << (shift + 7)) : int64_t(value);
        }
        bad = true;
        return 0;
    }
};

// What a program refers to: places, sections and addresses of relocations, by ascending place.
struct Target {
    int64_t place, section, address;
    bool operator<(const Target& other) const { return place < other.place; }
};
struct RowOf {
    int64_t section, instruction, line;
};

template <class T>
T at(const uint8_t* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// The header of a line-number program up to its first instruction; false where something is malformed.
struct Header {
    int64_t step, line_base, line_range, base, first;
    const uint8_t* operands;

    bool read(const uint8_t* body, int64_t start, int64_t end) {
        static const uint8_t fixed[] = {0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1};
        if (start + 15 > end) return false;
        const int version = at<uint16_t>(body + start);
        first = start + 6 + at<uint32_t>(body + start + 2);
        if (version < 2 || version > 4 || first > end) return false;
        int64_t here = start + 6;
        step = body[here++];
        here += (version == 4) + 1;
        line_base = int8_t(body[here]), line_range = body[here + 1], base = body[here + 2];
        here += 3;
        operands = body + here;
        if (!line_range || !base || here + base - 1 > end) return false;
        if (std::memcmp(operands, fixed, std::size_t(std::min<int64_t>(base - 1, 12)))) return false;
        Reader in{body, here + base - 1, end};
        int64_t folders = 1;
        while (const int64_t length = name(in)) folders += length > 0;
        while (name(in) && !in.bad)
            if (in.number() >= folders || (in.number(), in.number(), in.bad)) return false;
        return !in.bad;
    }

  private:
    static int64_t name(Reader& in) {
        const void* stop = in.at < in.end ? std::memchr(in.body + in.at, 0, std::size_t(in.end - in.at)) : nullptr;
        if (!stop) in.bad = true;
        if (in.bad) return 0;
        const int64_t length = static_cast<const uint8_t*>(stop) - (in.body + in.at);
        in.at += length + 1;
        return length;
    }
};

// The rows of a line-number program in `body`; false where something is malformed.
bool run(const uint8_t* body, const Header& header, int64_t end, const std::vector<Target>& targets, std::vector<RowOf>& rows) {
    const int64_t step = header.step, line_base = header.line_base, line_range = header.line_range, base = header.base;
    Reader in{body, header.first, end};
    int64_t section = 0, address = 0, line = 1;
    while (in.at < end) {
        const int opcode = body[in.at++];
        if (opcode >= base) {
            address += (opcode - base) / line_range * step;
            line += line_base + (opcode - base) % line_range;
        } else if (opcode == ADVANCE_PC) {
            address += in.number() * step;
            if (in.bad || address > MOST) return false;
            continue;
        } else if (opcode == ADVANCE_LINE) {
            line += in.number(true);
            if (in.bad || line > INT32_MAX || line <= NONE) return false;
            continue;
        } else if (opcode == CONST_ADD_PC) {
            address += (255 - base) / line_range * step;
            continue;
        } else if (opcode == FIXED_ADVANCE_PC) {
            if (in.at + 2 > end) return false;
            address += body[in.at] | body[in.at + 1] << 8;
            in.at += 2;
            continue;
        } else if (opcode == EXTENDED) {
            const int64_t size = in.number(), start = in.at;
            if (in.bad || size <= 0 || size > end - start) return false;
            if (body[start] == SET_ADDRESS) {
                if (size != 9) return false;
                uint64_t value = 0;
                std::memcpy(&value, body + start + 1, 8);
                section = address = 0;
                const auto to = std::lower_bound(targets.begin(), targets.end(), Target{start + 1, 0, 0});
                if (to != targets.end() && to->place == start + 1) section = to->section, address = to->address;
                if (value > uint64_t(MOST) || address > MOST || address < 0) return false;
                address += int64_t(value);
            } else if (body[start] == END) {
                section = address = 0, line = 1;
            }
            in.at = start + size;
            continue;
        } else if (opcode != COPY) {
            for (int k = 0; k < header.operands[opcode - 1]; ++k) in.number();
            if (in.bad) return false;
            continue;
        }
        if (address < 0 || address > MOST || line > INT32_MAX || line <= NONE) return false;
        rows.push_back({section, std::min(address / INSTRUCTION_BYTES, int64_t(INT32_MAX)), line});
    }
    return true;
}

}  // namespace

// The PTX line of each instruction by the line tables in `body`. relocations: `relocation_bytes` of entries of `entry` bytes;
// symbols: of 24 bytes each. counts: for each of `sections` the number of its instructions, -1 where it is no code; starts: where
// its lines begin in `found`; known: set to 1 where they are. Returns 0, or -1 where something is malformed.
extern "C" int32_t perf_ptx_lines(const uint8_t* body, int64_t size, const uint8_t* relocations, int64_t relocation_bytes, int64_t entry,
                                  const uint8_t* symbols, int64_t symbol_bytes, const int64_t* counts, const int64_t* starts,
                                  int64_t sections, int32_t* found, uint8_t* known) {
    std::vector<Target> targets;
    if (relocation_bytes && entry != 16 && entry != 24) return -1;
    for (int64_t k = 0; k < relocation_bytes; k += entry) {
        const uint8_t* from = relocations + k;
        const uint64_t place = at<uint64_t>(from);
        const int64_t symbol = int64_t(at<uint64_t>(from + 8) >> 32);
        if (24 * (symbol + 1) > symbol_bytes || place > uint64_t(MOST)) return -1;
        const uint8_t* of = symbols + 24 * symbol;
        const int64_t value = at<int64_t>(of + 8), more = entry == 24 ? at<int64_t>(from + 16) : 0;
        if (value < -MOST || value > MOST || more < -MOST || more > MOST) return -1;
        targets.push_back({int64_t(place), at<uint16_t>(of + 6), value + more});
    }
    std::stable_sort(targets.begin(), targets.end());
    for (std::size_t k = 1; k < targets.size(); ++k) if (targets[k].place == targets[k - 1].place) return -1;
    std::vector<RowOf> rows;
    for (int64_t start = 0; start < size;) {
        if (start + 4 > size) return -1;
        const int64_t length = at<uint32_t>(body + start), end = start + 4 + length;
        Header header;
        rows.clear();
        if (!length || end > size || !header.read(body, start + 4, end) || !run(body, header, end, targets, rows)) return -1;
        for (const RowOf& row : rows) {
            if (row.section >= sections || counts[row.section] < 0) return -1;
            if (known[row.section] != 2) std::fill_n(found + starts[row.section], counts[row.section], NONE), known[row.section] = 2;
            if (row.instruction < counts[row.section]) found[starts[row.section] + row.instruction] = int32_t(row.line);
        }
        for (int64_t section = 0; section < sections; ++section) {
            if (known[section] != 2) continue;
            known[section] = 1;
            int32_t line = 0;
            for (int32_t *here = found + starts[section], *const stop = here + counts[section]; here != stop; ++here)
                line = *here = *here == NONE ? line : *here;
        }
        start = end;
    }
    return 0;
}
