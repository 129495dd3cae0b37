#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorad {

// The checkpoints of one job: folders `step-N` with state.safetensors and manifest.json, which holds the digest of the
// state. A folder appears under its name when it is whole and on disk.
//
// Threads  one.
class Checkpoints final {
 public:
  // `dir` is made when it is missing; what an interrupted write left is removed.
  static absl::StatusOr<Checkpoints> Open(const std::string& dir);

  // `save` writes the state to the path it is given and syncs it. The older ones but `keep` - 1 are removed after.
  // Errors: `save`'s; ResourceExhausted when the disk is full; nothing is left behind then.
  absl::Status Write(int64_t step, int64_t trained_tokens, int keep,
                     const std::function<absl::Status(const std::string& path)>& save);

  struct Found {
    int64_t step = 0;
    int64_t trained_tokens = 0;
    std::string state_path;
  };
  absl::StatusOr<std::vector<int64_t>> Steps() const;  // newest first
  // The checkpoint of `step`, its digest checked. Errors: as IsDamaged tells them apart.
  absl::StatusOr<Found> Read(int64_t step) const;
  // It is none any more, but lies beside them as `damaged-N`, for whoever wants to know why.
  absl::Status SetAside(int64_t step);

 private:
  explicit Checkpoints(std::string dir) : dir_(std::move(dir)) {}
  absl::Status Remove(int64_t step);
  std::string dir_;
};

// What an error of reading a checkpoint, or of loading its state, is about: true, the checkpoint itself is damaged or
// not the job's (its digest or shapes are wrong, a file of it is missing); false, something else that may pass (a disk
// that cannot be read now, no file handles, another base), so that nothing may be given up for it.
bool IsDamaged(const absl::Status& error);

// Makes `dir` with its parents. Renames `from` to `to`, whose parent is synced: after a crash one of the two is there.
absl::Status MakeFolders(const std::string& dir);
absl::Status RenameSynced(const std::string& from, const std::string& to);
// The files of `from`, which has no folders, in `to` as well, in place of what was there: linked where the disk can,
// else copied; whole and on disk, or not at all.
absl::Status CopyFolder(const std::string& from, const std::string& to);
// A folder and all below it; none is fine.
absl::Status RemoveFolder(const std::string& dir);
// Hex SHA-256 of a file's content.
absl::StatusOr<std::string> FileDigest(const std::string& path);

}  // namespace lorad
