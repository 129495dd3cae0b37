#include "model/safetensors_writer.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "model/base/output_file.h"
#include "model/base/status_macros.h"
#include "model/safetensors.h"

namespace lorad {
namespace {

constexpr size_t kAlignmentBytes = 64;

absl::StatusOr<std::string> HeaderText(absl::Span<const TensorToWrite> tensors,
                                       const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const TensorToWrite& tensor : tensors) {
    const int64_t size = tensor.size_bytes();
    if (size < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Printable(tensor.name), ": shape ", ShapeText(tensor.shape), "; too large"));
    }
    if (header.contains(tensor.name)) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", Printable(tensor.name), ": name comes twice"));
    }
    header[tensor.name] = {
        {"dtype", Name(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + size}}};
    offset += size;
  }
  std::string text = header.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  text.append((kAlignmentBytes - (text.size() + 8) % kAlignmentBytes) % kAlignmentBytes, ' ');
  return text;
}

absl::Status WriteParts(const std::string& header, absl::Span<const TensorToWrite> tensors, const TensorMaker& make,
                        OutputFile* file) {
  std::byte length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<std::byte>(static_cast<uint64_t>(header.size()) >> (8 * i));
  RETURN_IF_ERROR(file->Write(length));
  RETURN_IF_ERROR(file->Write(header));
  for (const TensorToWrite& tensor : tensors) {
    ASSIGN_OR_RETURN(const absl::Span<const std::byte> bytes, make(tensor));
    if (static_cast<int64_t>(bytes.size()) != tensor.size_bytes()) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", Printable(tensor.name), ": shape ",
                                                     ShapeText(tensor.shape), "; bytes: ", bytes.size()));
    }
    RETURN_IF_ERROR(file->Write(bytes));
  }
  return file->Finish();
}

}  // namespace

int64_t TensorToWrite::size_bytes() const {
  int64_t size = SizeBytes(dtype);
  for (const int64_t dim : shape) {
    if (dim < 0 || __builtin_mul_overflow(size, dim, &size)) return -1;
  }
  return size;
}

absl::Status WriteSafetensors(const std::string& path, absl::Span<const TensorToWrite> tensors,
                              const std::map<std::string, std::string>& metadata) {
  for (const TensorToWrite& tensor : tensors) {
    if (tensor.size_bytes() == static_cast<int64_t>(tensor.bytes.size())) continue;
    return absl::InvalidArgumentError(absl::StrCat("tensor ", Printable(tensor.name), ": shape ",
                                                   ShapeText(tensor.shape), "; bytes: ", tensor.bytes.size()));
  }
  return WriteSafetensors(path, tensors, metadata, [](const TensorToWrite& tensor) { return tensor.bytes; });
}

absl::Status WriteSafetensors(const std::string& path, absl::Span<const TensorToWrite> tensors,
                              const std::map<std::string, std::string>& metadata, const TensorMaker& make) {
  ASSIGN_OR_RETURN(const std::string header, HeaderText(tensors, metadata));
  ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path));
  return WriteParts(header, tensors, make, &file);
}

}  // namespace lorad
