#include "adapters/train/tensor_file.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include "absl/strings/str_cat.h"
#include "model/base/file_source.h"
#include "model/base/status_macros.h"
#include "model/safetensors.h"
#include "model/safetensors_writer.h"

namespace lorad {
namespace {

std::vector<int64_t> ShapeOf(const at::Tensor& tensor) { return tensor.sizes().vec(); }

}  // namespace

absl::Status SaveTensors(const std::string& path, const NamedTensors& tensors,
                         const std::map<std::string, std::string>& metadata) {
  std::vector<TensorToWrite> written;
  std::vector<at::Tensor> on_host;  // until they are written
  for (const auto& [name, tensor] : tensors) {
    on_host.push_back(tensor.detach().cpu());
    const auto* bytes = static_cast<const std::byte*>(on_host.back().const_data_ptr());
    written.push_back({name, DType::kF32, ShapeOf(tensor), {bytes, tensor.nbytes()}});
  }
  return WriteSafetensors(path, written, metadata);
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
    at::Tensor read = tensor.is_cpu() ? tensor : at::empty(tensor.sizes(), at::TensorOptions().dtype(at::kFloat));
    auto* const data = static_cast<std::byte*>(read.mutable_data_ptr());
    RETURN_IF_ERROR(ReadTensor(*files, path, index.tensors.find(name)->second, data));
    if (!tensor.is_cpu()) tensor.copy_(read);
  }
  return absl::OkStatus();
}

}  // namespace lorad
