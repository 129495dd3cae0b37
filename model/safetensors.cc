#include "model/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxDims = 16;
constexpr size_t kMaxPrintableBytes = 200;

std::optional<DType> ParseDType(absl::string_view name) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kF64, DType::kI64, DType::kI32, DType::kI16,
                            DType::kI8, DType::kU8, DType::kBool}) {
    const std::string_view known = Name(dtype);
    if (name == absl::string_view(known.data(), known.size())) return dtype;
  }
  return std::nullopt;
}

bool IsOtherSafetensorsDType(absl::string_view name) {
  for (const absl::string_view other :
       {"F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "F6_E3M2", "U16", "U32", "U64", "C64"}) {
    if (name == other) return true;
  }
  return false;
}

// Takes the header apart while it is parsed, so that duplicate keys, which a parsed object no longer shows, are seen
// and nothing deeper than the format's own nesting is kept.
class HeaderHandler final : public nlohmann::json_sax<Json> {
 public:
  HeaderHandler(const std::string& path, int64_t data_offset_bytes, int64_t data_bytes, SafetensorsIndex* index)
      : path_(path), data_offset_bytes_(data_offset_bytes), data_bytes_(data_bytes), index_(index) {}

  const absl::Status& status() const { return status_; }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool binary(binary_t&) override { return Unexpected("binary data"); }
  bool number_float(number_float_t value, const string_t&) override {
    return Unexpected(absl::StrCat("the number ", value));
  }
  bool number_integer(number_integer_t value) override { return Unexpected(absl::StrCat("the number ", value)); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kArray) return Unexpected(absl::StrCat("the number ", value));
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Fail(absl::StrCat(field_, " too large: ", value));
    }
    std::vector<int64_t>& numbers = field_ == "shape" ? tensor_.shape : offsets_;
    if (numbers.size() >= (field_ == "shape" ? kMaxDims : 2)) {
      return Fail(absl::StrCat(field_, " has too many numbers; limit: ", field_ == "shape" ? kMaxDims : 2));
    }
    numbers.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      index_->metadata[field_] = std::move(value);
      return true;
    }
    if (place_ != Place::kTensor || field_ != "dtype") return Unexpected("a string");
    const std::optional<DType> dtype = ParseDType(value);
    if (!dtype.has_value()) {
      if (!IsOtherSafetensorsDType(value)) return Fail(absl::StrCat("unknown dtype: ", Printable(value)));
      status_ = absl::UnimplementedError(
          absl::StrCat(path_, ": tensor ", Printable(name_), ": dtype not supported: ", value));
      return false;
    }
    tensor_.dtype = *dtype;
    return true;
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kRoot;
      return true;
    }
    if (place_ != Place::kRoot) return Unexpected("an object");
    place_ = name_ == "__metadata__" ? Place::kMetadata : Place::kTensor;
    tensor_ = SafetensorsEntry();
    offsets_.clear();
    seen_.clear();
    return true;
  }

  bool key(string_t& value) override {
    if (place_ == Place::kRoot) {
      name_ = std::move(value);
      const bool is_metadata = name_ == "__metadata__";
      if ((is_metadata && std::exchange(saw_metadata_, true)) || index_->tensors.contains(name_)) {
        return Fail("duplicate name");
      }
      return true;
    }
    field_ = std::move(value);
    if (!seen_.insert(field_).second) return Fail(absl::StrCat("duplicate key: ", Printable(field_)));
    if (place_ == Place::kTensor && field_ != "dtype" && field_ != "shape" && field_ != "data_offsets") {
      return Fail(absl::StrCat("unknown key: ", Printable(field_)));
    }
    return true;
  }

  bool end_object() override {
    const Place ended = place_;
    place_ = ended == Place::kRoot ? Place::kEnd : Place::kRoot;
    return ended == Place::kTensor ? FinishTensor() : true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::kTensor || field_ == "dtype") return Unexpected("an array");
    place_ = Place::kArray;
    return true;
  }

  bool end_array() override {
    place_ = Place::kTensor;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const Json::exception& error) override {
    // The parser quotes what it read, which may not be UTF-8.
    status_ = absl::DataLossError(
        absl::StrCat(path_, ": header is not valid JSON at byte ", position, ": ", absl::CHexEscape(error.what())));
    return false;
  }

 private:
  enum class Place : uint8_t { kStart, kRoot, kMetadata, kTensor, kArray, kEnd };

  bool Fail(const std::string& what) {
    status_ = absl::DataLossError(name_.empty() ? absl::StrCat(path_, ": header: ", what)
                                                : absl::StrCat(path_, ": tensor ", Printable(name_), ": ", what));
    return false;
  }

  bool Unexpected(const std::string& what) {
    switch (place_) {
      case Place::kStart:
        return Fail(absl::StrCat("must be an object, is ", what));
      case Place::kRoot:
        return Fail(absl::StrCat("must be an object, is ", what));
      default:
        return Fail(absl::StrCat(Printable(field_), " cannot hold ", what));
    }
  }

  bool FinishTensor() {
    for (const char* field : {"dtype", "shape", "data_offsets"}) {
      if (!seen_.contains(field)) return Fail(absl::StrCat("missing key: ", field));
    }
    if (offsets_.size() != 2) return Fail(absl::StrCat("data_offsets must be two numbers; found: ", offsets_.size()));
    const int64_t begin = offsets_[0];
    const int64_t end = offsets_[1];
    if (begin > end || end > data_bytes_) {
      return Fail(absl::StrCat("data_offsets outside the file: ", begin, "..", end, "; data bytes: ", data_bytes_));
    }
    int64_t size = SizeBytes(tensor_.dtype);
    for (const int64_t dim : tensor_.shape) {
      if (__builtin_mul_overflow(size, dim, &size)) {
        return Fail(absl::StrCat("shape overflows: ", ShapeText(tensor_.shape)));
      }
    }
    if (size != end - begin) {
      return Fail(absl::StrCat("shape ", ShapeText(tensor_.shape), " needs bytes: ", size,
                               "; data_offsets give: ", end - begin));
    }
    tensor_.offset_bytes = data_offset_bytes_ + begin;
    tensor_.size_bytes = size;
    index_->tensors.emplace(std::move(name_), std::move(tensor_));
    name_.clear();
    return true;
  }

  const std::string& path_;
  const int64_t data_offset_bytes_;
  const int64_t data_bytes_;
  SafetensorsIndex* const index_;
  absl::Status status_;
  Place place_ = Place::kStart;
  bool saw_metadata_ = false;
  std::string name_;
  std::string field_;
  std::set<std::string, std::less<>> seen_;
  SafetensorsEntry tensor_;
  std::vector<int64_t> offsets_;
};

// The tensors must tile the data: sorted by place, each begins where the one before it ended.
absl::Status CheckTiling(const SafetensorsIndex& index, int64_t data_offset_bytes) {
  std::vector<const std::pair<const std::string, SafetensorsEntry>*> in_order;
  in_order.reserve(index.tensors.size());
  for (const auto& named : index.tensors) in_order.push_back(&named);
  std::sort(in_order.begin(), in_order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.offset_bytes, a->second.size_bytes) <
           std::pair(b->second.offset_bytes, b->second.size_bytes);
  });
  int64_t expected = data_offset_bytes;
  for (const auto* named : in_order) {
    const SafetensorsEntry& entry = named->second;
    if (entry.offset_bytes != expected) {
      return absl::DataLossError(
          absl::StrCat(index.path, ": tensor ", Printable(named->first), ": ",
                       entry.offset_bytes < expected ? "overlaps the tensor before it" : "leaves a hole before it",
                       "; begins at data byte: ", entry.offset_bytes - data_offset_bytes,
                       "; expected: ", expected - data_offset_bytes));
    }
    expected += entry.size_bytes;
  }
  if (expected != index.file_bytes) {
    return absl::DataLossError(
        absl::StrCat(index.path, ": bytes after the last tensor: ", index.file_bytes - expected));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReadTensor(FileSource& files, const std::string& path, const SafetensorsEntry& entry,
                        std::byte* destination) {
  if (entry.strides.empty()) return files.ReadAt(path, entry.offset_bytes, entry.size_bytes, destination);
  if (entry.size_bytes == 0) return absl::OkStatus();
  const int64_t item_bytes = SizeBytes(entry.dtype);
  int64_t span_bytes = item_bytes;
  for (size_t i = 0; i < entry.shape.size(); ++i) span_bytes += (entry.shape[i] - 1) * entry.strides[i] * item_bytes;
  constexpr int64_t kMostSpread = 16;
  if (span_bytes / kMostSpread > entry.size_bytes) {
    return absl::UnimplementedError(absl::StrCat(path, ": a view of bytes: ", entry.size_bytes, " spread over bytes: ",
                                                 span_bytes, "; limit: ", kMostSpread, " times; save it contiguous"));
  }
  std::vector<std::byte> span(static_cast<size_t>(span_bytes));
  RETURN_IF_ERROR(files.ReadAt(path, entry.offset_bytes, span_bytes, span.data()));
  std::vector<int64_t> at(entry.shape.size(), 0);
  for (int64_t done = 0; done < entry.size_bytes; done += item_bytes) {
    int64_t element = 0;
    for (size_t i = 0; i < at.size(); ++i) element += at[i] * entry.strides[i];
    std::memcpy(destination + done, span.data() + element * item_bytes, static_cast<size_t>(item_bytes));
    for (size_t i = at.size(); i-- > 0 && ++at[i] == entry.shape[i];) at[i] = 0;
  }
  return absl::OkStatus();
}

std::string Printable(absl::string_view name) {
  if (name.size() <= kMaxPrintableBytes) return absl::Utf8SafeCHexEscape(name);
  size_t length = kMaxPrintableBytes;
  while (length > 0 && (static_cast<unsigned char>(name[length]) & 0xC0) == 0x80) --length;  // not inside a character
  return absl::StrCat(absl::Utf8SafeCHexEscape(name.substr(0, length)), "…");
}

std::string ShapeText(const std::vector<int64_t>& shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

absl::StatusOr<SafetensorsIndex> ParseSafetensorsJson(absl::string_view header, int64_t data_offset_bytes,
                                                      int64_t data_bytes, const std::string& path) {
  SafetensorsIndex index;
  index.path = path;
  index.file_bytes = data_offset_bytes + data_bytes;
  if (header.empty() || header.front() != '{') {
    return absl::DataLossError(absl::StrCat(path, ": header does not begin with '{': not a safetensors file"));
  }
  HeaderHandler handler(path, data_offset_bytes, data_bytes, &index);
  if (!Json::sax_parse(header.begin(), header.end(), &handler)) return handler.status();
  RETURN_IF_ERROR(CheckTiling(index, data_offset_bytes));
  return index;
}

absl::StatusOr<SafetensorsIndex> ParseSafetensorsHeader(FileSource& files, const std::string& path) {
  ASSIGN_OR_RETURN(const int64_t file_bytes, files.SizeBytes(path));
  constexpr int64_t kLengthBytes = 8;
  if (file_bytes < kLengthBytes) {
    return absl::DataLossError(
        absl::StrCat(path, ": too short for a safetensors file; bytes: ", file_bytes, "; at least: ", kLengthBytes));
  }
  std::byte length[kLengthBytes];
  RETURN_IF_ERROR(files.ReadAt(path, 0, kLengthBytes, length));
  uint64_t header_bytes = 0;
  for (int i = kLengthBytes - 1; i >= 0; --i) header_bytes = header_bytes << 8 | static_cast<uint64_t>(length[i]);
  const int64_t limit = std::min(kMaxSafetensorsHeaderBytes, file_bytes - kLengthBytes);
  if (header_bytes > static_cast<uint64_t>(limit)) {
    return absl::DataLossError(absl::StrCat(path, ": header bytes: ", header_bytes, "; limit: ", limit,
                                            "; the file is truncated or not a safetensors file"));
  }
  std::string header(header_bytes, '\0');
  const int64_t data_offset = kLengthBytes + static_cast<int64_t>(header_bytes);
  RETURN_IF_ERROR(files.ReadAt(path, kLengthBytes, static_cast<int64_t>(header_bytes),
                               reinterpret_cast<std::byte*>(header.data())));
  return ParseSafetensorsJson(header, data_offset, file_bytes - data_offset, path);
}

}  // namespace lorad
