#include "model/ops/compare_forms_cuda.h"

#include <algorithm>
#include <cmath>
#include <exception>

#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <cuda_runtime.h>

#include "absl/strings/str_cat.h"
#include "model/ops/cuda/fast_attention.h"
#include "model/ops/cuda/grouped_gemm.h"
#include "model/ops/quantized_tiles_cuda.h"

namespace lorad::cuda {
namespace {

// The largest difference, NaN if there is one.
double Difference(const at::Tensor& a, const at::Tensor& b) {
  double largest = 0.0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    const double difference = std::abs(a.const_data_ptr<float>()[i] - b.const_data_ptr<float>()[i]);
    if (!(difference <= largest)) largest = difference;
    if (std::isnan(difference)) break;
  }
  return largest;
}

// What a library's call left unread would be taken for LibTorch's next operator's.
struct LeavesNoError {
  ~LeavesNoError() { cudaGetLastError(); }
};

}  // namespace

at::Tensor DrawnOnDevice(int64_t rows, int64_t columns, uint64_t seed) {
  at::Tensor drawn = at::empty({rows, columns}, at::kFloat);
  auto* const values = drawn.mutable_data_ptr<float>();
  for (int64_t i = 0; i < drawn.numel(); ++i) {
    seed = NextSeed(seed);
    values[i] = static_cast<float>(seed >> 40) * (2.0f / (1 << 24)) - 1.0f;
  }
  return drawn.to(at::Device(at::kCUDA), at::kBFloat16);
}

at::Tensor IntsOnDevice(const std::vector<int32_t>& values, const std::vector<int64_t>& shape) {
  at::Tensor ints = at::empty(shape, at::kInt);
  std::copy(values.begin(), values.end(), ints.mutable_data_ptr<int32_t>());
  return ints.to(at::Device(at::kCUDA));
}

std::optional<std::string> ObjectionTo(const FormResult& fast, const FormResult& ours, double limit) {
  const LeavesNoError at_end;
  try {
    const absl::StatusOr<at::Tensor> expected = ours();
    if (!expected.ok()) return std::string(expected.status().message());
    const absl::StatusOr<at::Tensor> actual = fast();
    if (!actual.ok()) return std::string(actual.status().message());
    const double difference = Difference(*expected, *actual);
    if (difference <= limit) return std::nullopt;
    return absl::StrCat("differs from ours by ", difference, "; limit: ", limit);
  } catch (const c10::Error& error) {  // of the device
    return std::string(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return std::string(error.what());
  }
}

std::vector<std::string> CheckFastForms(std::vector<std::string>* used) {
  const c10::InferenceMode no_autograd;
  std::vector<std::string> objections = CheckFastAttention(used);
  for (std::string& objection : CheckGroupedGemm(used)) objections.push_back(std::move(objection));
  for (std::string& objection : CheckQuantizedTiles(used)) objections.push_back(std::move(objection));
  return objections;
}

void LeaveOutFastForms() {
  LeaveOutFastAttention();
  LeaveOutGroupedGemm();
  LeaveOutQuantizedTiles();
}

}  // namespace lorad::cuda
