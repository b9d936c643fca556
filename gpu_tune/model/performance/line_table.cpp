// A line-number program of a cubin, run: the twin of LineProgram.run() in gpu_tune/cuda/lines.py, which explains what it reads,
// for the PTX line of each instruction alone. What is malformed is left to the twin, whose errors say why.

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

enum { EXTENDED, COPY, ADVANCE_PC, ADVANCE_LINE, SET_FILE, CONST_ADD_PC = 8, FIXED_ADVANCE_PC = 9 };
enum { END = 1, SET_ADDRESS = 2 };
constexpr int64_t INSTRUCTION_BYTES = 16, MOST = int64_t(1) << 40;

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

}  // namespace

// header: least length of an instruction, line base, line range, opcode base. operands: of the standard opcodes. targets:
// `count` rows place, section, address of relocations, by ascending place. rows: section, instruction and line of each row of
// the table; it has room for one a byte. Returns their number, -1 where something is malformed.
extern "C" int64_t perf_line_table(const uint8_t* body, int64_t at, int64_t end, const int64_t* header, const uint8_t* operands,
                                   const int64_t* targets, int64_t count, int32_t* rows) {
    const int64_t step = header[0], line_base = header[1], line_range = header[2], base = header[3];
    Reader in{body, at, end};
    int64_t section = 0, address = 0, line = 1, found = 0;
    while (in.at < end) {
        const int opcode = body[in.at++];
        if (opcode >= base) {
            address += (opcode - base) / line_range * step;
            line += line_base + (opcode - base) % line_range;
        } else if (opcode == ADVANCE_PC) {
            address += in.number() * step;
            if (in.bad || address > MOST) return -1;
            continue;
        } else if (opcode == ADVANCE_LINE) {
            line += in.number(true);
            if (in.bad || line > INT32_MAX || line < INT32_MIN) return -1;
            continue;
        } else if (opcode == CONST_ADD_PC) {
            address += (255 - base) / line_range * step;
            continue;
        } else if (opcode == FIXED_ADVANCE_PC) {
            if (in.at + 2 > end) return -1;
            address += body[in.at] | body[in.at + 1] << 8;
            in.at += 2;
            continue;
        } else if (opcode == EXTENDED) {
            const int64_t size = in.number(), start = in.at;
            if (in.bad || size <= 0 || size > end - start) return -1;
            if (body[start] == SET_ADDRESS) {
                if (size != 9) return -1;
                uint64_t value = 0;
                std::memcpy(&value, body + start + 1, 8);
                section = address = 0;
                for (int64_t low = 0, high = count; low < high;) {
                    const int64_t middle = (low + high) / 2;
                    if (targets[3 * middle] == start + 1) {
                        section = targets[3 * middle + 1], address = targets[3 * middle + 2];
                        break;
                    }
                    if (targets[3 * middle] < start + 1) low = middle + 1;
                    else high = middle;
                }
                if (value > uint64_t(MOST) || address > MOST || address < 0) return -1;
                address += int64_t(value);
            } else if (body[start] == END) {
                section = address = 0, line = 1;
            }
            in.at = start + size;
            continue;
        } else if (opcode != COPY) {
            for (int k = 0; k < operands[opcode - 1]; ++k) in.number();
            if (in.bad) return -1;
            continue;
        }
        if (address < 0 || address > MOST || line > INT32_MAX || line < INT32_MIN) return -1;
        rows[3 * found] = int32_t(section);
        rows[3 * found + 1] = int32_t(std::min(address / INSTRUCTION_BYTES, int64_t(INT32_MAX)));
        rows[3 * found + 2] = int32_t(line);
        ++found;
    }
    return found;
}
