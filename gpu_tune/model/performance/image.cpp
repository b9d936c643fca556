// What a prediction needs of a cubin at once: the machine code of a kernel, its registers and shared memory, and the PTX. See
// image.hpp.
#include "image.hpp"

#include <algorithm>

namespace {

using namespace perf;

enum { FRAME = 0x11, REGISTERS = 0x2F, RESERVED_SHARED = 1024 };

// The records of a section, by form, attribute and payload; false where one reaches past it.
template <class F>
bool records(const Bytes& body, F each) {
    for (int64_t at = 0; at + 4 <= body.size;) {
        const int form = body.at<uint8_t>(at), attribute = body.at<uint8_t>(at + 1), value = body.at<uint16_t>(at + 2);
        const int64_t size = form == 4 ? value : 0;
        at += 4;
        if (size > body.size - at || !each(attribute, Bytes{body.from + at, size})) return false;
        at += size;
    }
    return true;
}

// The registers of a kernel by the records of all kernels.
bool registers_of(Image& image, std::string_view name, int64_t& found) {
    const Section *common = image.find(".nv.info"), *symbols = nullptr;
    Bytes body, table, strings;
    for (const Section& of : image.sections)
        if (of.kind == 2 && !symbols) symbols = &of;
    if (!common) return image.sound;
    if (!symbols || symbols->link >= image.sections.size() || !image.bytes_of(*common, body) || !image.bytes_of(*symbols, table) ||
        !image.bytes_of(image.sections[symbols->link], strings) || table.size % 24)
        return false;
    return image.sound && records(body, [&](int attribute, const Bytes& payload) {
        if ((attribute != REGISTERS && attribute != FRAME) || payload.size != 8) return true;
        const int64_t index = payload.at<uint32_t>(0);
        if (24 * (index + 1) > table.size) return false;
        const int64_t at = table.at<uint32_t>(24 * index);
        const void* const end = at < strings.size ? std::memchr(strings.from + at, 0, std::size_t(strings.size - at)) : nullptr;
        if (!end) return false;
        const char* const text = reinterpret_cast<const char*>(strings.from + at);
        const std::string_view symbol(text, std::size_t(static_cast<const char*>(end) - text));
        for (const char c : symbol) if (c & 0x80) return false;
        if (attribute == REGISTERS && symbol == name) found = payload.at<uint32_t>(4);
        return true;
    });
}

// Whether the machine code and the records of all kernels are whole, as the twin wants them.
bool all_whole(const Image& image) {
    Bytes body;
    for (const Section& of : image.sections) {
        const bool code = !of.name.rfind(".text.", 0), own = !of.name.rfind(".nv.info.", 0);
        if ((code || own) && !image.bytes_of(of, body)) return false;
        if ((code && body.size % 16) || (own && !records(body, [](int, const Bytes&) { return true; }))) return false;
    }
    return true;
}

}  // namespace

// found: place and bytes of the machine code of a kernel; its registers, and bytes of static shared memory; compute capability.
// Returns 0 where that is known, 1 where the cubin has no such kernel, -1 where something is odd.
extern "C" int32_t perf_code_of(const uint8_t* data, int64_t size, const char* kernel, int64_t* found) {
    Image image(data, size);
    if (!image.sound) return -1;
    const Section *code = image.find(".text.", kernel), *own = image.find(".nv.info.", kernel), *shared = image.find(".nv.shared.", kernel);
    Bytes bytes;
    if (!image.sound) return -1;
    if (!code || !own) return 1;
    if (code->kind == 8 || !image.bytes_of(*code, bytes) || !all_whole(image) || (shared && shared->size < 0)) return -1;
    found[0] = bytes.from - data, found[1] = bytes.size, found[2] = 0, found[4] = image.cc;
    found[3] = !shared ? 0 : image.cc >= 90 ? std::max<int64_t>(0, shared->size - RESERVED_SHARED) : shared->size;
    return registers_of(image, kernel, found[2]) ? 0 : -1;
}

// found: place and bytes of the PTX. Returns as perf_code_of.
extern "C" int32_t perf_ptx_of(const uint8_t* data, int64_t size, int64_t* found) {
    Image image(data, size);
    const Section* ptx = image.sound ? image.find(".nv_debug_ptx_txt") : nullptr;
    Bytes bytes;
    if (!image.sound || (ptx && !image.bytes_of(*ptx, bytes))) return -1;
    if (!bytes.size) return 1;
    found[0] = bytes.from - data, found[1] = bytes.size;
    return 0;
}
