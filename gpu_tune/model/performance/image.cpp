// What a prediction needs of a cubin at once: the machine code of a kernel, its registers and shared memory, and the PTX. See
// image.hpp.
#include "image.hpp"

#include <algorithm>

namespace {

using namespace perf;

enum { REGISTERS = 0x2F, RESERVED_SHARED = 1024 };

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
        !image.bytes_of(image.sections[symbols->link], strings))
        return false;
    return image.sound && records(body, [&](int attribute, const Bytes& payload) {
        if (attribute != REGISTERS || payload.size != 8) return true;
        const int64_t index = payload.at<uint32_t>(0);
        if (24 * (index + 1) > table.size) return false;
        const int64_t at = table.at<uint32_t>(24 * index), rest = strings.size - at;
        if (rest <= int64_t(name.size())) return rest > 0;
        const char* const text = reinterpret_cast<const char*>(strings.from + at);
        if (!text[name.size()] && !name.compare(0, name.size(), text, name.size())) found = payload.at<uint32_t>(4);
        return true;
    });
}

}  // namespace

// found: place and bytes of the machine code of a kernel; its registers, and bytes of static shared memory; compute capability.
// Returns 0 where that is known, 1 where the cubin has no such kernel, -1 where something is odd.
extern "C" int32_t perf_code_of(const uint8_t* data, int64_t size, const char* kernel, int64_t* found) {
    Image image(data, size);
    if (!image.sound) return -1;
    const Section *code = image.find(".text.", kernel), *own = image.find(".nv.info.", kernel), *shared = image.find(".nv.shared.", kernel);
    Bytes bytes, body;
    if (!image.sound) return -1;
    if (!code || !own) return 1;
    if (code->kind == 8 || code->size % 16 || !image.bytes_of(*code, bytes) || !image.bytes_of(*own, body)) return -1;
    if (!records(body, [](int, const Bytes&) { return true; })) return -1;
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
