#include "model/torch_file_writer.h"

#include <array>
#include <cstdint>
#include <limits>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "model/base/output_file.h"
#include "model/base/status_macros.h"
#include "model/safetensors.h"

namespace lorad {
namespace {

constexpr char kRoot[] = "adapter_model";  // any name would do

std::string Little(uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text.push_back(static_cast<char>(value >> (8 * i)));
  return text;
}

uint32_t Crc32(absl::Span<const std::byte> bytes) {
  static constexpr std::array<uint32_t, 256> kOfByte = [] {
    std::array<uint32_t, 256> table = {};
    for (uint32_t i = 0; i < 256; ++i) {
      table[i] = i;
      for (int bit = 0; bit < 8; ++bit) table[i] = table[i] >> 1 ^ (0xEDB88320u & (0u - (table[i] & 1u)));
    }
    return table;
  }();
  uint32_t crc = 0xFFFFFFFF;
  for (const std::byte b : bytes) crc = crc >> 8 ^ kOfByte[(crc ^ static_cast<uint32_t>(b)) & 0xFF];
  return ~crc;
}

absl::Span<const std::byte> AsBytes(absl::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

// The pickle's opcodes, as Python's pickletools names them.
std::string BinUnicode(absl::string_view text) { return absl::StrCat("X", Little(text.size(), 4), text); }
std::string Global(absl::string_view module, absl::string_view name) {
  return absl::StrCat("c", module, "\n", name, "\n");
}
std::string Long(int64_t value) { return absl::StrCat("\x8a\x08", Little(static_cast<uint64_t>(value), 8)); }
std::string Tuple(absl::string_view items) { return absl::StrCat("(", items, "t"); }

const char* StorageName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "FloatStorage";
    case DType::kBF16:
      return "BFloat16Storage";
    case DType::kF16:
      return "HalfStorage";
    default:
      return nullptr;
  }
}

// torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)
std::string PickledTensorOf(const TensorToWrite& tensor, size_t storage) {
  int64_t elements = 1;
  std::string sizes, strides;
  for (size_t i = tensor.shape.size(); i-- > 0; elements *= tensor.shape[i]) {
    strides = absl::StrCat(Long(elements), strides);
    sizes = absl::StrCat(Long(tensor.shape[i]), sizes);
  }
  const std::string id = Tuple(absl::StrCat(BinUnicode("storage"), Global("torch", StorageName(tensor.dtype)),
                                            BinUnicode(absl::StrCat(storage)), BinUnicode("cpu"), Long(elements)));
  const std::string no_hooks = absl::StrCat(Global("collections", "OrderedDict"), ")R");
  return absl::StrCat(Global("torch._utils", "_rebuild_tensor_v2"),
                      Tuple(absl::StrCat(id, "Q", Long(0), Tuple(sizes), Tuple(strides), "\x89", no_hooks)), "R");
}

std::string PickleOf(absl::Span<const TensorToWrite> tensors) {
  std::string pickle = "\x80\x02}(";
  for (size_t i = 0; i < tensors.size(); ++i) {
    absl::StrAppend(&pickle, BinUnicode(tensors[i].name), PickledTensorOf(tensors[i], i));
  }
  return pickle + "u.";
}

absl::Status Check(absl::Span<const TensorToWrite> tensors) {
  std::set<absl::string_view> names;
  for (const TensorToWrite& tensor : tensors) {
    const std::string what = absl::StrCat("tensor ", Printable(tensor.name), ": ");
    if (!names.insert(tensor.name).second) return absl::InvalidArgumentError(what + "name comes twice");
    if (StorageName(tensor.dtype) == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(what, "dtype: ", std::string(Name(tensor.dtype))));
    }
    if (tensor.size_bytes() != static_cast<int64_t>(tensor.bytes.size())) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, "shape ", ShapeText(tensor.shape), "; bytes: ", tensor.bytes.size()));
    }
    if (tensor.bytes.size() >= std::numeric_limits<uint32_t>::max()) {
      return absl::InvalidArgumentError(absl::StrCat(what, "bytes: ", tensor.bytes.size(), "; limit: 4 GiB"));
    }
  }
  return absl::OkStatus();
}

// Files stored as they are; the directory has sizes and places in 64 bits, as an archive may be larger than 4 GiB. (All
// three: torch's own reader takes no place of 64 bits beside sizes of 32.)
class ZipWriter final {
 public:
  explicit ZipWriter(OutputFile* file) : file_(*file) {}

  absl::Status Add(absl::string_view name, absl::Span<const std::byte> content) {
    const std::string path = absl::StrCat(kRoot, "/", name);
    // No flags, no compression, midnight of 1980-01-01, the checksum.
    const std::string facts =
        absl::StrCat(Little(0, 2), Little(0, 2), Little(0, 2), Little(0x21, 2), Little(Crc32(content), 4));
    const std::string size = Little(content.size(), 4), path_size = Little(path.size(), 2);
    const std::string in_64 = absl::StrCat(Little(1, 2), Little(24, 2), Little(content.size(), 8),
                                           Little(content.size(), 8), Little(offset_, 8));
    absl::StrAppend(&directory_, Little(0x02014b50, 4), kVersion, kVersion, facts, std::string(8, '\xff'), path_size,
                    Little(in_64.size(), 2), std::string(10, '\0'), std::string(4, '\xff'), path, in_64);
    ++entries_;
    RETURN_IF_ERROR(
        Put(absl::StrCat(Little(0x04034b50, 4), kVersion, facts, size, size, path_size, Little(0, 2), path)));
    offset_ += content.size();
    return file_.Write(content);
  }

  absl::Status Finish() {
    const uint64_t directory_at = offset_;
    RETURN_IF_ERROR(Put(directory_));
    const uint64_t end_at = offset_;
    RETURN_IF_ERROR(
        Put(absl::StrCat(Little(0x06064b50, 4), Little(44, 8), kVersion, kVersion, Little(0, 8), Little(entries_, 8),
                         Little(entries_, 8), Little(directory_.size(), 8), Little(directory_at, 8))));
    RETURN_IF_ERROR(Put(absl::StrCat(Little(0x07064b50, 4), Little(0, 4), Little(end_at, 8), Little(1, 4))));
    RETURN_IF_ERROR(Put(absl::StrCat(Little(0x06054b50, 4), Little(0, 4), std::string(12, '\xff'), Little(0, 2))));
    return file_.Finish();
  }

 private:
  static constexpr absl::string_view kVersion{"\x2d\0", 2};  // 4.5, the first with 64 bits

  absl::Status Put(const std::string& bytes) {
    offset_ += bytes.size();
    return file_.Write(bytes);
  }

  OutputFile& file_;
  uint64_t offset_ = 0;
  uint64_t entries_ = 0;
  std::string directory_;
};

}  // namespace

absl::Status WriteTorchFile(const std::string& path, absl::Span<const TensorToWrite> tensors) {
  RETURN_IF_ERROR(Check(tensors));
  ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path));
  ZipWriter zip(&file);
  RETURN_IF_ERROR(zip.Add("data.pkl", AsBytes(PickleOf(tensors))));
  RETURN_IF_ERROR(zip.Add("byteorder", AsBytes("little")));
  for (size_t i = 0; i < tensors.size(); ++i) RETURN_IF_ERROR(zip.Add(absl::StrCat("data/", i), tensors[i].bytes));
  RETURN_IF_ERROR(zip.Add("version", AsBytes("3\n")));
  return zip.Finish();
}

}  // namespace lorad
