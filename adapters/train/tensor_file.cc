#include "adapters/train/tensor_file.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include "absl/strings/str_cat.h"
#include "adapters/train/in_device_turn.h"
#include "model/base/file_source.h"
#include "model/base/status_macros.h"
#include "model/copy_aside.h"
#include "model/safetensors.h"
#include "model/safetensors_writer.h"
#include "model/torch_file_writer.h"

namespace lorad {
namespace {

std::vector<int64_t> ShapeOf(const at::Tensor& tensor) { return tensor.sizes().vec(); }

// Tensors on the host, for as long as a file of them is written.
class HostTensors final {
 public:
  explicit HostTensors(const NamedTensors& tensors) {
    for (const auto& [name, tensor] : tensors) {
      held_.push_back(CopyAside(tensor));
      const auto* bytes = static_cast<const std::byte*>(held_.back().const_data_ptr());
      to_write_.push_back({name, DType::kF32, ShapeOf(tensor), {bytes, tensor.nbytes()}});
    }
  }
  const std::vector<TensorToWrite>& to_write() const { return to_write_; }

 private:
  std::vector<at::Tensor> held_;
  std::vector<TensorToWrite> to_write_;
};

}  // namespace

absl::Status SaveTensors(const std::string& path, const NamedTensors& tensors,
                         const std::map<std::string, std::string>& metadata) {
  return WriteSafetensors(path, HostTensors(tensors).to_write(), metadata);
}

absl::Status SaveTorchTensors(const std::string& path, const NamedTensors& tensors) {
  return WriteTorchFile(path, HostTensors(tensors).to_write());
}

absl::Status LoadTensors(const std::string& path, const NamedTensors& tensors,
                         const std::function<absl::Status(const Metadata& metadata)>& check) {
  const at::NoGradGuard frozen;
  const std::unique_ptr<FileSource> files = LocalFiles();
  ASSIGN_OR_RETURN(const SafetensorsIndex index, ParseSafetensorsHeader(*files, path));
  if (index.tensors.size() != tensors.size()) {
    return absl::DataLossError(
        absl::StrCat(path, ": tensors: ", index.tensors.size(), "; limit: ", tensors.size(), ", as the job has"));
  }
  for (const auto& [name, tensor] : tensors) {
    const auto entry = index.tensors.find(name);
    if (entry == index.tensors.end() || entry->second.dtype != DType::kF32 || entry->second.shape != ShapeOf(tensor)) {
      return absl::DataLossError(absl::StrCat(path, ": ", name, ": missing, or of another shape than the job's"));
    }
  }
  RETURN_IF_ERROR(check(Metadata(index.metadata.begin(), index.metadata.end())));
  for (const auto& [name, tensor] : tensors) {
    const bool in_place = tensor.is_cpu() && tensor.is_contiguous();
    at::Tensor read = in_place ? tensor : at::empty(tensor.sizes(), at::TensorOptions().dtype(at::kFloat));
    auto* const data = static_cast<std::byte*>(read.mutable_data_ptr());
    RETURN_IF_ERROR(ReadTensor(*files, path, index.tensors.find(name)->second, data));
    if (in_place) continue;
    RETURN_IF_ERROR(InDeviceTurn(tensor.device(), [&]() -> absl::Status {
      Send(read, tensor);
      return absl::OkStatus();
    }));
  }
  return absl::OkStatus();
}

}  // namespace lorad
