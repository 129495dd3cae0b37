#include "scheduler/tuning/checkpoints.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "adapters/train/synced_file.h"
#include "model/base/file_source.h"
#include "model/base/sha256.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr const char* kPrefix = "step-";
constexpr const char* kUnfinished = "unfinished-";
constexpr const char* kDamaged = "damaged-";
constexpr int64_t kMaxManifestBytes = 1 << 20;

absl::Status FileError(const std::string& path, std::error_code error) {
  const std::string message = absl::StrCat(path, ": ", error.message());
  return error == std::errc::no_space_on_device ? absl::ResourceExhaustedError(message)
                                                : absl::UnavailableError(message);
}

absl::Status Sync(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return FileError(path, std::error_code(errno, std::generic_category()));
  const int code = fsync(file) == 0 ? 0 : errno;
  close(file);
  return code == 0 ? absl::OkStatus() : FileError(path, std::error_code(code, std::generic_category()));
}

}  // namespace

absl::Status MakeFolders(const std::string& dir) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  return error ? FileError(dir, error) : absl::OkStatus();
}

absl::Status RenameSynced(const std::string& from, const std::string& to) {
  RETURN_IF_ERROR(Sync(from));
  std::error_code error;
  std::filesystem::rename(from, to, error);
  if (error) return FileError(to, error);
  return Sync(std::filesystem::path(to).parent_path().string());
}

absl::Status CopyFolder(const std::string& from, const std::string& to) {
  const std::string unfinished = absl::StrCat(to, ".unfinished");
  RETURN_IF_ERROR(RemoveFolder(unfinished));
  RETURN_IF_ERROR(MakeFolders(unfinished));
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(from, error)) {
    const std::string copy = absl::StrCat(unfinished, "/", entry.path().filename().string());
    std::error_code no_links, no_copy;
    std::filesystem::create_hard_link(entry.path(), copy, no_links);
    if (no_links) std::filesystem::copy_file(entry.path(), copy, no_copy);
    if (no_copy) return FileError(copy, no_copy);
    RETURN_IF_ERROR(Sync(copy));
  }
  if (error) return FileError(from, error);
  RETURN_IF_ERROR(RemoveFolder(to));
  return RenameSynced(unfinished, to);
}

absl::Status RemoveFolder(const std::string& dir) {
  std::error_code error;
  std::filesystem::remove_all(dir, error);
  return error ? FileError(dir, error) : absl::OkStatus();
}

absl::StatusOr<std::string> FileDigest(const std::string& path) {
  constexpr int64_t kPieceBytes = int64_t{1} << 20;
  const std::unique_ptr<FileSource> files = LocalFiles();
  ASSIGN_OR_RETURN(const int64_t size_bytes, files->SizeBytes(path));
  Sha256 digest;
  std::string piece;
  for (int64_t offset = 0; offset < size_bytes; offset += kPieceBytes) {
    piece.resize(static_cast<size_t>(std::min(kPieceBytes, size_bytes - offset)));
    RETURN_IF_ERROR(
        files->ReadAt(path, offset, static_cast<int64_t>(piece.size()), reinterpret_cast<std::byte*>(piece.data())));
    digest.Update(piece);
  }
  return digest.HexDigest();
}

absl::StatusOr<Checkpoints> Checkpoints::Open(const std::string& dir) {
  RETURN_IF_ERROR(MakeFolders(dir));
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(dir, error)) {
    if (absl::StartsWith(entry.path().filename().string(), kUnfinished)) {
      RETURN_IF_ERROR(RemoveFolder(entry.path().string()));
    }
  }
  if (error) return FileError(dir, error);
  return Checkpoints(dir);
}

absl::Status Checkpoints::Write(int64_t step, int64_t trained_tokens, int keep,
                                const std::function<absl::Status(const std::string& path)>& save) {
  const std::string unfinished = absl::StrCat(dir_, "/", kUnfinished, step);
  const std::string finished = absl::StrCat(dir_, "/", kPrefix, step);
  const auto write = [&]() -> absl::Status {
    RETURN_IF_ERROR(RemoveFolder(unfinished));
    RETURN_IF_ERROR(MakeFolders(unfinished));
    const std::string state = absl::StrCat(unfinished, "/state.safetensors");
    RETURN_IF_ERROR(save(state));
    ASSIGN_OR_RETURN(const std::string digest, FileDigest(state));
    const nlohmann::ordered_json manifest = {
        {"format", 1}, {"step", step}, {"trained_tokens", trained_tokens}, {"state_sha256", digest}};
    RETURN_IF_ERROR(WriteSyncedFile(absl::StrCat(unfinished, "/manifest.json"), manifest.dump(2) + "\n"));
    RETURN_IF_ERROR(RemoveFolder(finished));  // A corrupt one of this step, which was trained again.
    return RenameSynced(unfinished, finished);
  };
  if (const absl::Status status = write(); !status.ok()) {
    (void)RemoveFolder(unfinished);
    return status;
  }
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, Steps());
  for (size_t i = static_cast<size_t>(keep); i < steps.size(); ++i) RETURN_IF_ERROR(Remove(steps[i]));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int64_t>> Checkpoints::Steps() const {
  std::vector<int64_t> steps;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(dir_, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    int64_t step = 0;
    if (absl::StartsWith(name, kPrefix) && absl::SimpleAtoi(absl::StripPrefix(name, kPrefix), &step)) {
      steps.push_back(step);
    }
  }
  if (error) return FileError(dir_, error);
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

absl::StatusOr<Checkpoints::Found> Checkpoints::Read(int64_t step) const {
  const std::string folder = absl::StrCat(dir_, "/", kPrefix, step);
  const std::unique_ptr<FileSource> files = LocalFiles();
  Found found;
  found.state_path = absl::StrCat(folder, "/state.safetensors");
  ASSIGN_OR_RETURN(const std::string text,
                   ReadWholeFile(*files, absl::StrCat(folder, "/manifest.json"), kMaxManifestBytes));
  const auto manifest = nlohmann::json::parse(text, /*cb=*/nullptr, /*allow_exceptions=*/false);
  const auto number = [&](const char* key) -> int64_t {
    const auto it = manifest.is_object() ? manifest.find(key) : manifest.end();
    return it != manifest.end() && it->is_number_integer() ? it->get<int64_t>() : -1;
  };
  found.step = number("step");
  found.trained_tokens = number("trained_tokens");
  const bool has_digest =
      manifest.is_object() && manifest.contains("state_sha256") && manifest["state_sha256"].is_string();
  if (number("format") != 1 || found.step != step || found.trained_tokens < 0 || !has_digest) {
    return absl::DataLossError(absl::StrCat(folder, "/manifest.json: not a manifest of step ", step));
  }
  ASSIGN_OR_RETURN(const std::string digest, FileDigest(found.state_path));
  if (digest != manifest["state_sha256"].get<std::string>()) {
    return absl::DataLossError(absl::StrCat(found.state_path, ": its digest is not the manifest's"));
  }
  return found;
}

absl::Status Checkpoints::SetAside(int64_t step) {
  const std::string aside = absl::StrCat(dir_, "/", kDamaged, step);
  RETURN_IF_ERROR(RemoveFolder(aside));
  return RenameSynced(absl::StrCat(dir_, "/", kPrefix, step), aside);
}

bool IsDamaged(const absl::Status& error) {
  return absl::IsDataLoss(error) || absl::IsNotFound(error) || absl::IsInvalidArgument(error);
}

absl::Status Checkpoints::Remove(int64_t step) { return RemoveFolder(absl::StrCat(dir_, "/", kPrefix, step)); }

}  // namespace lorad
