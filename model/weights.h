#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/ops/linear.h"
#include "model/quantization.h"
#include "model/weight_memory.h"
#include "model/weights_match.h"

namespace lorad {

// Turns the stored tensors of one checkpoint into tensors of the model's dtype, on the model's device.
//
// On the CPU all are copies in one WeightMemory, converted and fused where need be; the mapped pages that they came
// from are dropped one by one, and no file stays mapped. A matrix that is to be quantised is in f32 beside them while
// it is made. On a device each is converted on the host and copied, row-major or quantised, into a tensor of its own.
//
// Threads  one.
// Throws c10::Error (out of memory): call under Guarded.
class WeightLoader final {
 public:
  using Progress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;
  WeightLoader(MatchedWeights weights, at::ScalarType dtype, Quantization quantization, Progress progress,
               at::Device device = at::kCPU);

  bool Has(WeightName name, int32_t layer = -1) const { return weights_.contains({name, layer}); }
  at::Tensor Load(WeightName name, int32_t layer = -1, int32_t expert = -1);
  // Undefined when the architecture has no such tensor.
  at::Tensor LoadIfAny(WeightName name, int32_t layer = -1);
  // The parts one below the other: [sum of rows, in], or [sum] for biases. Undefined when there is none of them.
  at::Tensor LoadStacked(std::initializer_list<WeightName> parts, int32_t layer);
  // A matrix of attention or of an FFN (IsQuantized), of one or more parts, as its operator reads it.
  LinearWeight LoadMatrix(std::initializer_list<WeightName> parts, int32_t layer, int32_t expert = -1);
  // A matrix that is never quantised.
  LinearWeight LoadWhole(WeightName name);

  int64_t loaded_bytes() const { return loaded_bytes_; }  // of the model's tensors

 private:
  // [out, in] with room behind it for its panels.
  at::Tensor EmptyMatrix(at::IntArrayRef shape);
  LinearWeight LoadPacked(std::initializer_list<WeightName> parts, int32_t layer, int32_t expert);
  const StoredTensor& Find(WeightName name, int32_t layer, int32_t expert = -1) const;
  // The parts' rows one below the other; and their bytes in the checkpoint.
  std::vector<int64_t> StackedShape(std::initializer_list<WeightName> parts, int32_t layer, int32_t expert) const;
  int64_t ConvertStacked(std::initializer_list<WeightName> parts, int32_t layer, int32_t expert, at::Tensor& to) const;
  void Count(int64_t stored_bytes, const at::Tensor& loaded);
  // [shape] on the host, to be filled and then placed: where it is, or on the device.
  at::Tensor Empty(at::IntArrayRef shape);
  at::Tensor Placed(at::Tensor filled) const;

  const MatchedWeights weights_;
  const at::ScalarType dtype_;
  const Quantization quantization_;
  const Progress progress_;
  const at::Device device_;
  WeightMemory memory_;
  int64_t total_bytes_ = 0;
  int64_t done_bytes_ = 0;
  int64_t loaded_bytes_ = 0;
};

at::ScalarType ToScalarType(DType dtype);

}  // namespace lorad
