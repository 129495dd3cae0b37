#include "tests/fuzz/mutator.h"

#include <algorithm>
#include <array>
#include <cctype>

namespace lorad {
namespace {

constexpr size_t kMaxInputBytes = 1 << 19;
// Where sizes and signs turn over.
constexpr std::array<uint64_t, 14> kNumbers = {0,
                                               1,
                                               2,
                                               0x7F,
                                               0x80,
                                               0xFF,
                                               0x7FFF,
                                               0xFFFF,
                                               0x7FFFFFFF,
                                               0x80000000,
                                               0xFFFFFFFF,
                                               0x7FFFFFFFFFFFFFFF,
                                               0x8000000000000000,
                                               0xFFFFFFFFFFFFFFFF};
constexpr std::array<const char*, 16> kTexts = {"0",
                                                "-1",
                                                "1",
                                                "513",
                                                "4294967296",
                                                "9223372036854775807",
                                                "9223372036854775808",
                                                "18446744073709551616",
                                                "1e400",
                                                "-0.0",
                                                "0.5",
                                                "null",
                                                "true",
                                                "[]",
                                                "{}",
                                                "\"\""};

}  // namespace

std::string Mutator::Mutate(std::string input, const std::string& other) {
  const size_t changes = 1 + (Below(4) == 0 ? Below(16) : Below(3));
  for (size_t i = 0; i < changes; ++i) Change(&input, other);
  if (input.size() > kMaxInputBytes) input.resize(kMaxInputBytes);
  return input;
}

void Mutator::Change(std::string* input, const std::string& other) {
  const size_t at = Below(input->size() + 1);
  const size_t left = input->size() - at;
  const size_t length = std::min(left, size_t{1} << Below(10));
  switch (Below(10)) {
    case 0:
      if (left > 0) (*input)[at] = static_cast<char>((*input)[at] ^ (1 << Below(8)));
      break;
    case 1:
      if (left > 0) (*input)[at] = static_cast<char>(Below(256));
      break;
    case 2:
      input->erase(at, Below(length + 1));
      break;
    case 3:
      input->insert(Below(input->size() + 1), input->substr(at, length));
      break;
    case 4:
      input->resize(at);
      break;
    case 5:
      input->replace(at, Below(length + 1), other, Below(other.size() + 1), Below(257));
      break;
    case 6:
      OverwriteNumber(input);
      break;
    case 7:
    case 8:
      ReplaceDigits(input);
      break;
    default:
      if (!words_.empty()) input->replace(at, Below(2) * std::min<size_t>(length, 8), words_[Below(words_.size())]);
  }
}

void Mutator::OverwriteNumber(std::string* input) {
  const size_t size = size_t{1} << Below(4);
  if (input->size() < size) return;
  const size_t at = Below(input->size() - size + 1);
  const uint64_t number = kNumbers[Below(kNumbers.size())] + Below(3) - 1;
  for (size_t i = 0; i < size; ++i) (*input)[at + i] = static_cast<char>(number >> (8 * i));
}

// A number in text becomes another one, or something that is none.
void Mutator::ReplaceDigits(std::string* input) {
  const auto is_digit = [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; };
  const auto begin =
      std::find_if(input->begin() + static_cast<std::ptrdiff_t>(Below(input->size() + 1)), input->end(), is_digit);
  const auto end = std::find_if_not(begin, input->end(), is_digit);
  if (begin != end) input->replace(begin, end, kTexts[Below(kTexts.size())]);
}

}  // namespace lorad
