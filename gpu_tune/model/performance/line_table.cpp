// A line-number program of a cubin, run: the twin of LineProgram.run() in gpu_tune/cuda/lines.py, which explains what it reads,
// for the PTX line of each instruction alone. What is malformed is left to the twin, whose errors say why.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "image.hpp"

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

// The header of a line-number program up to its first instruction; false where something is malformed.
struct Header {
    int64_t step, line_base, line_range, base, first;
    const uint8_t* operands;

    bool read(const uint8_t* body, int64_t start, int64_t end) {
        static const uint8_t fixed[] = {0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1};
        if (start + 15 > end) return false;
        const perf::Bytes table{body, end};
        const int version = table.at<uint16_t>(start);
        first = start + 6 + table.at<uint32_t>(start + 2);
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

// The PTX line of each of the `count` instructions of a kernel, 0 where none is known. Returns 0 where they are known, 1 where the
// cubin has no line table of the kernel, -1 where something is odd.
extern "C" int32_t perf_ptx_lines(const uint8_t* data, int64_t data_size, const char* kernel, int64_t count, int32_t* found) {
    perf::Image image(data, data_size);
    if (!image.sound) return -1;
    const perf::Section *table = image.find(".nv_debug_line_sass"), *rel = image.find(".rel.nv_debug_line_sass"),
                        *rela = image.find(".rela.nv_debug_line_sass"), *code = image.find(".text.", kernel);
    if (!image.sound || (rel && rela)) return -1;
    if (!table || !code) return 1;
    const int64_t entry = rela ? 24 : 16, mine = code - image.sections.data();
    perf::Bytes body, relocations, symbols;
    for (const perf::Section& of : image.sections)
        if (of.kind == 2 && !symbols.from && !image.bytes_of(of, symbols)) return -1;
    if (!image.bytes_of(*table, body) || code->size != count * INSTRUCTION_BYTES) return -1;
    if ((rel || rela) && !image.bytes_of(rel ? *rel : *rela, relocations)) return -1;
    if (relocations.size % entry || symbols.size % 24) return -1;
    std::vector<Target> targets;
    for (int64_t k = 0; k < relocations.size; k += entry) {
        const uint64_t place = relocations.at<uint64_t>(k);
        const int64_t symbol = int64_t(relocations.at<uint64_t>(k + 8) >> 32);
        if (24 * (symbol + 1) > symbols.size || place > uint64_t(MOST)) return -1;
        const int64_t value = symbols.at<int64_t>(24 * symbol + 8), more = rela ? relocations.at<int64_t>(k + 16) : 0;
        if (value < -MOST || value > MOST || more < -MOST || more > MOST) return -1;
        targets.push_back({int64_t(place), symbols.at<uint16_t>(24 * symbol + 6), value + more});
    }
    std::stable_sort(targets.begin(), targets.end());
    for (std::size_t k = 1; k < targets.size(); ++k) if (targets[k].place == targets[k - 1].place) return -1;
    std::vector<RowOf> rows;
    bool known = false;
    for (int64_t start = 0; start < body.size;) {
        if (start + 4 > body.size) return -1;
        const int64_t length = body.at<uint32_t>(start), end = start + 4 + length;
        Header header;
        rows.clear();
        if (!length || end > body.size || !header.read(body.from, start + 4, end) || !run(body.from, header, end, targets, rows)) return -1;
        bool here = false;
        for (const RowOf& row : rows) {
            if (row.section >= int64_t(image.sections.size()) || image.sections[row.section].name.rfind(".text.", 0)) return -1;
            if (row.section != mine) continue;
            if (!here) std::fill_n(found, count, NONE), here = known = true;
            if (row.instruction < count) found[row.instruction] = int32_t(row.line);
        }
        int32_t line = 0;
        for (int64_t i = 0; here && i < count; ++i) line = found[i] = found[i] == NONE ? line : found[i];
        start = end;
    }
    return known ? 0 : 1;
}
