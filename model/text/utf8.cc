#include "model/text/utf8.h"

namespace lorad {
namespace {

struct Lead {
  size_t continuations;
  unsigned char second_min;  // The bounds of the second byte exclude overlong forms, surrogates and > U+10FFFF.
  unsigned char second_max;
};

std::optional<Lead> LeadOf(unsigned char byte) {
  if (byte < 0x80) return Lead{0, 0, 0};
  if (byte < 0xC2) return std::nullopt;
  if (byte < 0xE0) return Lead{1, 0x80, 0xBF};
  if (byte == 0xE0) return Lead{2, 0xA0, 0xBF};
  if (byte == 0xED) return Lead{2, 0x80, 0x9F};
  if (byte < 0xF0) return Lead{2, 0x80, 0xBF};
  if (byte == 0xF0) return Lead{3, 0x90, 0xBF};
  if (byte < 0xF4) return Lead{3, 0x80, 0xBF};
  if (byte == 0xF4) return Lead{3, 0x80, 0x8F};
  return std::nullopt;
}

}  // namespace

std::optional<size_t> FindInvalidUtf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const std::optional<Lead> lead = LeadOf(static_cast<unsigned char>(text[i]));
    if (!lead.has_value() || text.size() - i <= lead->continuations) return i;
    for (size_t k = 1; k <= lead->continuations; ++k) {
      const unsigned char byte = static_cast<unsigned char>(text[i + k]);
      const unsigned char min = k == 1 ? lead->second_min : 0x80;
      const unsigned char max = k == 1 ? lead->second_max : 0xBF;
      if (byte < min || byte > max) return i;
    }
    i += lead->continuations + 1;
  }
  return std::nullopt;
}

}  // namespace lorad
