#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorad {

class TrainingRun;

// Of a run: the same for the same name and number, so that one that was asked for twice is found again.
std::string RunIdOf(const std::string& name, int64_t sequence);
bool IsRunId(const std::string& name);

// What is kept of a run of service Training: who it is, in files `name`, `spec` and `sequence`, the last one written
// last; and its states, each by the sequence number behind which it was saved. One of the first number is what the run
// began from, where that was something else than fresh weights.
//
// Threads  one call at a time for a run.
// Errors   of files; as Checkpoints and TrainingRun.
class RunFolder final {
 public:
  struct Identity {
    std::string name;
    std::string spec;
    int64_t sequence = 0;  // the first
  };

  // In `dir`, as all runs' folders are.
  RunFolder(const std::string& dir, const std::string& id) : path_(dir + "/" + id) {}
  const std::string& path() const { return path_; }

  // NotFound: Write has not ended, so nobody was told of the run. What is damaged is DataLoss.
  absl::StatusOr<Identity> Read() const;
  absl::Status Write(const Identity& identity) const;

  bool HasStates() const;
  absl::Status SaveState(int64_t sequence, const TrainingRun& run) const;
  absl::Status LoadState(int64_t sequence, TrainingRun* run) const;
  // The newest state that is whole, and its number; the first where there is none, and the run is as it was made.
  // DataLoss: the run began from a state, and none is whole. FailedPrecondition: the newest is of another base. Others:
  // a state cannot be read now.
  absl::StatusOr<int64_t> LoadNewest(int64_t first_sequence, bool began_from_state, TrainingRun* run) const;

  // An empty folder for an adapter that is being written.
  absl::StatusOr<std::string> EmptyAdapterFolder() const;

 private:
  std::string States() const { return path_ + "/states"; }

  const std::string path_;
};

}  // namespace lorad
