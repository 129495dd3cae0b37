#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"

namespace lorad::cuda {

// What tells on the device at hand whether a library's kernels compute what ours do.

// A seed's next; its upper bits are drawn.
constexpr uint64_t NextSeed(uint64_t seed) { return seed * 6364136223846793005u + 1442695040888963407u; }
// bf16 on the current device: numbers in [-1, 1), the same each time.
at::Tensor DrawnOnDevice(int64_t rows, int64_t columns, uint64_t seed);
at::Tensor IntsOnDevice(const std::vector<int32_t>& values, const std::vector<int64_t>& shape);

// f32 on the host, by one form.
using FormResult = std::function<absl::StatusOr<at::Tensor>()>;
// Runs both. What speaks against the fast form: that either failed, or that they differ by more than `limit` somewhere;
// else nothing.
std::optional<std::string> ObjectionTo(const FormResult& fast, const FormResult& ours, double limit);

// CheckFastAttention, CheckGroupedGemm, CheckQuantizedTiles.
std::vector<std::string> CheckFastForms(std::vector<std::string>* used);
void LeaveOutFastForms();

}  // namespace lorad::cuda
