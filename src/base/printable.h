// Text of unknown origin, as it may go to a terminal or a log.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace synergy {

/// How many bytes of the beginning are one character of UTF-8 (RFC 3629) that can be shown; 0: none
/// are.
std::size_t shown_character(std::string_view text);

/// On one line whatever the text holds: what can't be shown is "\x1b", a byte each. Of a text of
/// more than `most` bytes the beginning, and "...".
std::string printable(std::string_view text, std::size_t most);

/// The same of a stranger's text, in ASCII: the bytes of other characters are commands to a
/// terminal that knows no UTF-8 (U+00DB holds 0x9b, CSI), and some characters turn the order of
/// those around them.
std::string printable_ascii(std::string_view text);

} // namespace synergy
