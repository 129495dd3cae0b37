#pragma once

#include <cstdint>

namespace lorad {

class CausalLm;

// What a batch of training may take.
struct BatchLimits {
  int64_t activation_bytes = 0;  // in all, of the memory that serving and training share
  int64_t kept_bytes = 0;        // of them, for inner values of layers; the rest is for rows
  int64_t max_rows = 1;          // of a batch of several jobs
};
BatchLimits BatchLimitsOf(const CausalLm& model, int64_t memory_bytes);

}  // namespace lorad
