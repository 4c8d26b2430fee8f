#include "base/printable.h"

#include <algorithm>

namespace synergy {

std::size_t shown_character(std::string_view text) {
    const auto byte = [text](std::size_t i) {
        return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
    };
    const unsigned first = byte(0);
    const unsigned second = byte(1);
    if (first < 0x80)
        return first >= 0x20 && first != 0x7f ? 1 : 0;
    // RFC 3629 4, without the control characters from U+0080 on.
    const std::size_t length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    unsigned least = 0x80;
    if (first == 0xc2 || first == 0xe0)
        least = 0xa0;
    else if (first == 0xf0)
        least = 0x90;
    const unsigned most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (first < 0xc2 || first > 0xf4 || second < least || second > most)
        return 0;
    for (std::size_t i = 2; i < length; i++)
        if ((byte(i) & 0xc0U) != 0x80)
            return 0;
    return length;
}

namespace {

/// `shown_bytes`: how many of the beginning can be shown as they are.
template <typename ShownBytes>
std::string escaped(std::string_view text, std::size_t most, ShownBytes shown_bytes) {
    constexpr char digits[] = "0123456789abcdef";
    std::string shown;
    for (std::size_t at = 0; at < std::min(text.size(), most);) {
        const std::size_t length = shown_bytes(text.substr(at));
        const auto byte = static_cast<unsigned char>(text[at]);
        if (length == 0)
            shown.append({'\\', 'x', digits[byte >> 4U], digits[byte & 0xfU]});
        else
            shown.append(text.substr(at, length));
        at += std::max<std::size_t>(length, 1);
    }
    return text.size() > most ? shown + "..." : shown;
}

} // namespace

std::string printable(std::string_view text, std::size_t most) {
    return escaped(text, most, shown_character);
}

std::string printable_ascii(std::string_view text) {
    return escaped(text, text.size(), [](std::string_view rest) {
        return shown_character(rest) == 1 ? std::size_t{1} : 0;
    });
}

} // namespace synergy
