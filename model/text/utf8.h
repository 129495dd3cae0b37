#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace lorad {

// U+FFFD, what bytes that are no UTF-8 are shown as.
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// The offset of the first byte that does not belong to a character: overlong forms, surrogates, characters beyond
// U+10FFFF and a last one that is cut off are all invalid.
std::optional<size_t> FindInvalidUtf8(std::string_view text);

// True inside a character: the byte at `offset` continues it.
inline bool IsContinuation(std::string_view text, size_t offset) {
  return offset < text.size() && (static_cast<unsigned char>(text[offset]) & 0xC0) == 0x80;
}

}  // namespace lorad
