#include "adapters/train/example_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr int32_t kMaxTokens = 1 << 24;

absl::Status SystemError(const std::string& path) {
  const int error = errno;
  const std::string message = absl::StrCat(path, ": ", std::strerror(error));
  if (error == ENOSPC || error == EDQUOT) return absl::ResourceExhaustedError(message);
  return error == ENOENT ? absl::NotFoundError(message) : absl::UnavailableError(message);
}

bool Write(std::FILE* file, const void* data, size_t size_bytes) {
  return size_bytes == 0 || std::fwrite(data, 1, size_bytes, file) == size_bytes;
}

bool Sync(std::FILE* file) { return std::fflush(file) == 0 && fsync(fileno(file)) == 0; }

absl::Status ReadExactly(int file, const std::string& path, int64_t offset, void* to, size_t size_bytes) {
  size_t done = 0;
  while (done < size_bytes) {
    const ssize_t count = pread(file, static_cast<char*>(to) + done, size_bytes - done,
                                static_cast<off_t>(offset) + static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return absl::DataLossError(absl::StrCat(path, ": ends too soon, or cannot be read"));
    done += static_cast<size_t>(count);
  }
  return absl::OkStatus();
}

}  // namespace

ExampleStoreWriter::ExampleStoreWriter(std::string prefix, std::FILE* data, std::FILE* index)
    : prefix_(std::move(prefix)), data_(data), index_(index) {}

ExampleStoreWriter::~ExampleStoreWriter() {
  std::fclose(data_);
  std::fclose(index_);
}

absl::StatusOr<std::unique_ptr<ExampleStoreWriter>> ExampleStoreWriter::Create(const std::string& prefix) {
  std::FILE* data = std::fopen(absl::StrCat(prefix, ".bin").c_str(), "wbe");
  if (data == nullptr) return SystemError(prefix);
  std::FILE* index = std::fopen(absl::StrCat(prefix, ".index").c_str(), "wbe");
  if (index == nullptr) {
    std::fclose(data);
    return SystemError(prefix);
  }
  return std::unique_ptr<ExampleStoreWriter>(new ExampleStoreWriter(prefix, data, index));
}

absl::Status ExampleStoreWriter::Append(const Example& example) {
  const auto count = static_cast<int32_t>(example.token_ids.size());
  const size_t bytes = example.token_ids.size() * sizeof(int32_t);
  if (!Write(index_, &offset_bytes_, sizeof(offset_bytes_)) || !Write(data_, &count, sizeof(count)) ||
      !Write(data_, example.token_ids.data(), bytes) || !Write(data_, example.labels.data(), bytes)) {
    return SystemError(prefix_);
  }
  digest_.UpdateInt(count);
  digest_.Update(example.token_ids.data(), bytes);
  digest_.Update(example.labels.data(), bytes);
  offset_bytes_ += static_cast<int64_t>(sizeof(count) + 2 * bytes);
  return absl::OkStatus();
}

absl::StatusOr<std::string> ExampleStoreWriter::Finish() {
  if (!Sync(data_) || !Sync(index_)) return SystemError(prefix_);
  return digest_.HexDigest();
}

ExampleStore::ExampleStore(std::string prefix, int data, int index, int64_t count)
    : prefix_(std::move(prefix)), data_(data), index_(index), count_(count) {}

ExampleStore::~ExampleStore() {
  close(data_);
  close(index_);
}

absl::StatusOr<std::shared_ptr<const ExampleStore>> ExampleStore::Open(const std::string& prefix) {
  const int data = open(absl::StrCat(prefix, ".bin").c_str(), O_RDONLY | O_CLOEXEC);
  if (data < 0) return SystemError(prefix);
  const int index = open(absl::StrCat(prefix, ".index").c_str(), O_RDONLY | O_CLOEXEC);
  struct stat info = {};
  if (index < 0 || fstat(index, &info) != 0) {
    const absl::Status status = SystemError(prefix);
    close(data);
    if (index >= 0) close(index);
    return status;
  }
  const int64_t count = info.st_size / static_cast<int64_t>(sizeof(int64_t));
  std::shared_ptr<const ExampleStore> store(new ExampleStore(prefix, data, index, count));
  if (count > 0 && info.st_size % static_cast<int64_t>(sizeof(int64_t)) == 0) return store;
  return absl::DataLossError(absl::StrCat(prefix, ".index: bytes: ", info.st_size, "; limit: 8 for each example"));
}

absl::StatusOr<ExampleStore::Place> ExampleStore::Find(int64_t index) const {
  int64_t offset = 0;
  RETURN_IF_ERROR(ReadExactly(index_, prefix_, index * static_cast<int64_t>(sizeof(offset)), &offset, sizeof(offset)));
  int32_t count = 0;
  RETURN_IF_ERROR(ReadExactly(data_, prefix_, offset, &count, sizeof(count)));
  if (count <= 0 || count > kMaxTokens) {
    return absl::DataLossError(absl::StrCat(prefix_, ": example ", index, ": tokens: ", count));
  }
  return Place{offset + static_cast<int64_t>(sizeof(count)), count};
}

absl::StatusOr<int64_t> ExampleStore::Tokens(int64_t index) const {
  ASSIGN_OR_RETURN(const Place place, Find(index));
  return place.tokens;
}

absl::StatusOr<Example> ExampleStore::Get(int64_t index) const {
  ASSIGN_OR_RETURN(const Place place, Find(index));
  const auto tokens = static_cast<size_t>(place.tokens);
  const size_t bytes = tokens * sizeof(int32_t);
  Example example;
  example.token_ids.resize(tokens);
  example.labels.resize(tokens);
  RETURN_IF_ERROR(ReadExactly(data_, prefix_, place.offset_bytes, example.token_ids.data(), bytes));
  const int64_t labels = place.offset_bytes + static_cast<int64_t>(bytes);
  RETURN_IF_ERROR(ReadExactly(data_, prefix_, labels, example.labels.data(), bytes));
  return example;
}

}  // namespace lorad
