// The sections of a cubin: the twin of Elf in gpu_tune/cuda/cubin.py, which explains what it reads. Whatever is odd is left to the
// twin, whose errors say why.
#pragma once
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace perf {

struct Bytes {
    const uint8_t* from = nullptr;
    int64_t size = 0;
    template <class T>
    T at(int64_t offset) const {
        T value;
        std::memcpy(&value, from + offset, sizeof value);
        return value;
    }
};

struct Section {
    std::string_view name;
    uint32_t kind, link;
    int64_t offset, size;
};

class Image {
  public:
    Image(const uint8_t* data, int64_t size) : whole{data, size} { sound = read(); }

    bool sound;  // whether it is a cubin and its sections have names
    int cc = 0;
    std::vector<Section> sections;

    // Whether these are bytes of the file; a section of kind 8 has none.
    bool bytes_of(const Section& of, Bytes& found) const {
        found = of.kind == 8 ? Bytes{} : Bytes{whole.from + of.offset, of.size};
        return of.kind == 8 || inside(of.offset, of.size);
    }
    // The only section of that name; null where there is none, and not sound where there are several.
    const Section* find(std::string_view before, std::string_view after = "") {
        const Section* found = nullptr;
        for (const Section& of : sections) {
            if (of.name.size() != before.size() + after.size() || of.name.substr(0, before.size()) != before ||
                of.name.substr(before.size()) != after)
                continue;
            if (found) sound = false;
            found = &of;
        }
        return found;
    }

  private:
    bool inside(int64_t offset, int64_t size) const {
        return offset >= 0 && size >= 0 && offset <= whole.size && size <= whole.size - offset;
    }
    bool read() {
        if (whole.size < 64 || std::memcmp(whole.from, "\x7f" "ELF\x02\x01", 6) || whole.at<uint16_t>(18) != 190) return false;
        const uint32_t flags = whole.at<uint32_t>(48);
        cc = int((whole.at<uint8_t>(8) >= 8 ? flags >> 8 : flags) & 0xFF);
        const int64_t table = whole.at<int64_t>(40);
        const int count = whole.at<uint16_t>(60), names = whole.at<uint16_t>(62);
        if (whole.at<uint16_t>(58) != 64 || names >= count || !inside(table, 64 * int64_t(count))) return false;
        const int64_t start = whole.at<int64_t>(table + 64 * names + 24), size = whole.at<int64_t>(table + 64 * names + 32);
        if (!inside(start, size)) return false;
        const char* const strings = reinterpret_cast<const char*>(whole.from + start);
        for (int k = 0; k < count; ++k) {
            const int64_t at = table + 64 * k, name = whole.at<uint32_t>(at);
            const void* const end = name < size ? std::memchr(strings + name, 0, std::size_t(size - name)) : nullptr;
            if (!end) return false;
            const std::string_view text(strings + name, std::size_t(static_cast<const char*>(end) - strings - name));
            for (const char c : text) if (c & 0x80) return false;
            sections.push_back({text, whole.at<uint32_t>(at + 4), whole.at<uint32_t>(at + 40), whole.at<int64_t>(at + 24),
                                whole.at<int64_t>(at + 32)});
        }
        return true;
    }
    const Bytes whole;
};

}  // namespace perf
