#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "scheduler/request.h"

namespace lorad {

struct AdmissionLimits {
  int64_t max_context_tokens = 0;
  int64_t queue_limit = 0;
  int64_t total_pages = 0;
  int64_t pages_per_block = 1;
};

// Whether `request` could ever run: its context, and the memory of one of its sequences beside an adapter of
// `adapter_pages` (0 = base, or not known yet). Pure.
// Errors: InvalidArgument with the numbers.
absl::Status CheckEverFits(const Request& request, int64_t adapter_pages, const AdmissionLimits& limits);

// Most tokens, prompt and generated, that memory holds for one sequence beside such an adapter.
int64_t TokensThatFit(int64_t adapter_pages, const AdmissionLimits& limits);

}  // namespace lorad
