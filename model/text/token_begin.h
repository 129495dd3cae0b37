#pragma once

#include <cstddef>
#include <cstdint>

namespace lorad {

// A token and the byte of the text where it begins.
struct TokenBegin {
  int32_t id;
  size_t begin;
};

}  // namespace lorad
