#include "model/weights.h"

#include <cstring>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include "model/base/check.h"

namespace lorad {
namespace {

at::Tensor Mapped(const StoredTensor& tensor) {
  // LibTorch has no const tensors; nothing writes it, and the mapping would fault.
  void* data = const_cast<std::byte*>(tensor.data);
  return at::from_blob(
      data, tensor.shape, [file = tensor.file](void*) {}, at::TensorOptions().dtype(ToScalarType(tensor.dtype)));
}

// C++ wants elements where their type may be.
bool IsAligned(const StoredTensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.data) % static_cast<uintptr_t>(SizeBytes(tensor.dtype)) == 0;
}

// Converts `tensor` into `out`, which has its shape. A misaligned source goes through aligned memory first.
void ConvertInto(const StoredTensor& tensor, at::Tensor out) {
  if (out.scalar_type() == ToScalarType(tensor.dtype)) {
    std::memcpy(out.data_ptr(), tensor.data, static_cast<size_t>(tensor.size_bytes));
  } else if (IsAligned(tensor)) {
    out.copy_(Mapped(tensor));
  } else {
    at::Tensor aligned = at::empty(tensor.shape, at::TensorOptions().dtype(ToScalarType(tensor.dtype)));
    std::memcpy(aligned.data_ptr(), tensor.data, static_cast<size_t>(tensor.size_bytes));
    out.copy_(aligned);
  }
  tensor.file->Drop(tensor.data, tensor.size_bytes);
}

// What the tensors take in `dtype`, each on a cache line of its own, and matrices with room for their panels.
int64_t BytesIn(at::ScalarType dtype, const MatchedWeights& weights) {
  constexpr int64_t kCacheLineBytes = 64;
  int64_t bytes = 0;
  for (const auto& [key, tensor] : weights) {
    const int64_t elements = tensor.shape.size() == 2 ? LinearWeight::PackedElements(tensor.shape[0], tensor.shape[1])
                                                      : tensor.size_bytes / SizeBytes(tensor.dtype);
    bytes += elements * static_cast<int64_t>(c10::elementSize(dtype)) + kCacheLineBytes;
  }
  return bytes;
}

}  // namespace

at::ScalarType ToScalarType(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return at::kFloat;
    case DType::kBF16:
      return at::kBFloat16;
    case DType::kF16:
      return at::kHalf;
    case DType::kF64:
      return at::kDouble;
    case DType::kI64:
      return at::kLong;
    case DType::kI32:
      return at::kInt;
    case DType::kI16:
      return at::kShort;
    case DType::kI8:
      return at::kChar;
    case DType::kU8:
      return at::kByte;
    case DType::kBool:
      return at::kBool;
  }
  return at::kFloat;
}

WeightLoader::WeightLoader(MatchedWeights weights, at::ScalarType dtype, Quantization quantization, Progress progress,
                           at::Device device)
    : weights_(std::move(weights)),
      dtype_(dtype),
      quantization_(quantization),
      progress_(std::move(progress)),
      device_(device),
      memory_(device.is_cpu() ? BytesIn(dtype, weights_) : 0) {
  for (const auto& [key, tensor] : weights_) total_bytes_ += tensor.size_bytes;
}

const StoredTensor& WeightLoader::Find(WeightName name, int32_t layer, int32_t expert) const {
  const auto it = weights_.find({name, layer, expert});
  LORAD_CHECK(it != weights_.end());  // MatchWeights found every row that is not optional.
  return it->second;
}

void WeightLoader::Count(int64_t stored_bytes, const at::Tensor& loaded) {
  done_bytes_ += stored_bytes;
  loaded_bytes_ += static_cast<int64_t>(loaded.nbytes());
  if (progress_) progress_(done_bytes_, total_bytes_);
}

at::Tensor WeightLoader::Empty(at::IntArrayRef shape) {
  return device_.is_cpu() ? memory_.Empty(shape, dtype_) : at::empty(shape, dtype_);
}

at::Tensor WeightLoader::Placed(at::Tensor filled) const { return device_.is_cpu() ? filled : filled.to(device_); }

at::Tensor WeightLoader::Load(WeightName name, int32_t layer, int32_t expert) {
  const StoredTensor& stored = Find(name, layer, expert);
  at::Tensor loaded = Empty(stored.shape);
  ConvertInto(stored, loaded);
  Count(stored.size_bytes, loaded);
  return Placed(std::move(loaded));
}

at::Tensor WeightLoader::LoadIfAny(WeightName name, int32_t layer) {
  return Has(name, layer) ? Load(name, layer) : at::Tensor();
}

at::Tensor WeightLoader::LoadStacked(std::initializer_list<WeightName> parts, int32_t layer) {
  if (!Has(*parts.begin(), layer)) return at::Tensor();
  at::Tensor stacked = Empty(StackedShape(parts, layer, /*expert=*/-1));
  Count(ConvertStacked(parts, layer, /*expert=*/-1, stacked), stacked);
  return Placed(std::move(stacked));
}

LinearWeight WeightLoader::LoadMatrix(std::initializer_list<WeightName> parts, int32_t layer, int32_t expert) {
  if (quantization_ == Quantization::kNone) return LoadPacked(parts, layer, expert);
  at::Tensor wide = at::empty(StackedShape(parts, layer, expert), at::kFloat);
  const int64_t stored_bytes = ConvertStacked(parts, layer, expert, wide);
  const LinearWeight made = LinearWeight::Quantize(wide, quantization_);
  at::Tensor panels = device_.is_cpu() ? memory_.Empty(made.weight().sizes(), at::kByte).copy_(made.weight())
                                       : made.weight().to(device_);
  Count(stored_bytes, panels);
  return LinearWeight::FromStored(std::move(panels), made.out_features(), made.in_features(), quantization_);
}

LinearWeight WeightLoader::LoadWhole(WeightName name) { return LoadPacked({name}, /*layer=*/-1, /*expert=*/-1); }

LinearWeight WeightLoader::LoadPacked(std::initializer_list<WeightName> parts, int32_t layer, int32_t expert) {
  at::Tensor stacked = EmptyMatrix(StackedShape(parts, layer, expert));
  Count(ConvertStacked(parts, layer, expert, stacked), stacked);
  return LinearWeight::Pack(Placed(std::move(stacked)));
}

at::Tensor WeightLoader::EmptyMatrix(at::IntArrayRef shape) {
  if (!device_.is_cpu()) return Empty(shape);
  const at::Tensor room = memory_.Empty({LinearWeight::PackedElements(shape[0], shape[1])}, dtype_);
  return room.narrow(0, 0, shape[0] * shape[1]).view(shape);
}

std::vector<int64_t> WeightLoader::StackedShape(std::initializer_list<WeightName> parts, int32_t layer,
                                                int32_t expert) const {
  std::vector<int64_t> shape = Find(*parts.begin(), layer, expert).shape;
  shape[0] = 0;
  for (const WeightName part : parts) shape[0] += Find(part, layer, expert).shape[0];
  return shape;
}

int64_t WeightLoader::ConvertStacked(std::initializer_list<WeightName> parts, int32_t layer, int32_t expert,
                                     at::Tensor& to) const {
  int64_t first_row = 0, stored_bytes = 0;
  for (const WeightName part : parts) {
    const StoredTensor& stored = Find(part, layer, expert);
    ConvertInto(stored, to.narrow(0, first_row, stored.shape[0]));
    first_row += stored.shape[0];
    stored_bytes += stored.size_bytes;
  }
  return stored_bytes;
}

}  // namespace lorad
