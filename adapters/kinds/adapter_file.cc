#include "adapters/kinds/adapter_file.h"

#include "absl/strings/str_cat.h"
#include "adapters/float_convert.h"
#include "model/base/status_macros.h"
#include "model/torch_file.h"

namespace lorad {

absl::StatusOr<SafetensorsIndex> FindAdapterTensors(FileSource& files, const std::string& dir) {
  const std::string safetensors = absl::StrCat(dir, "/adapter_model.safetensors");
  const std::string pickled = absl::StrCat(dir, "/adapter_model.bin");
  const bool is_pickled = !files.Exists(safetensors);
  if (is_pickled && !files.Exists(pickled)) {
    return absl::DataLossError(absl::StrCat(dir, ": neither adapter_model.safetensors nor adapter_model.bin"));
  }
  ASSIGN_OR_RETURN(SafetensorsIndex index,
                   is_pickled ? ParseTorchFile(files, pickled) : ParseSafetensorsHeader(files, safetensors));
  if (index.tensors.empty()) return absl::DataLossError(absl::StrCat(index.path, ": holds no tensors"));
  return index;
}

absl::Status CheckFinite(const std::string& about, const HostTensor& host, DType pool_dtype) {
  const int64_t at = FirstNotFinite(host.dtype, host.data(), host.elements(), pool_dtype);
  if (at < 0) return absl::OkStatus();
  if (FirstNotFinite(host.dtype, host.data(), host.elements(), host.dtype) >= 0) {
    return absl::DataLossError(absl::StrCat(about, "NaN or infinity at element: ", at));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(about, "too large for the serving type ", std::string(Name(pool_dtype)), " at element: ", at));
}

absl::Status CheckFitsPool(const std::string& path, const std::vector<ImageSlot>& slots,
                           const AdapterReadOptions& options) {
  if (options.max_pool_bytes == 0) return absl::OkStatus();
  AdapterImage unread;
  unread.slots = slots;
  const int64_t bytes = PlanLayout(unread, options.pool_dtype).total_bytes;
  if (bytes <= options.max_pool_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, ": adapter larger than the memory for KV and adapters: bytes: ",
                                                 bytes, "; limit: ", options.max_pool_bytes, "; raise --memory-bytes"));
}

}  // namespace lorad
