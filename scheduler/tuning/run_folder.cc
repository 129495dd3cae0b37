#include "scheduler/tuning/run_folder.h"

#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "adapters/train/synced_file.h"
#include "adapters/train/training_run.h"
#include "model/base/file_source.h"
#include "model/base/sha256.h"
#include "model/base/status_macros.h"
#include "scheduler/tuning/checkpoints.h"

namespace lorad {
namespace {

constexpr int kKeptStates = 1 << 30;  // callers name them, so none goes by itself
constexpr int64_t kMaxSpecBytes = 16 << 20;
constexpr absl::string_view kIdPrefix = "run-";
constexpr size_t kIdDigits = 16;

}  // namespace

std::string RunIdOf(const std::string& name, int64_t sequence) {
  Sha256 digest;
  digest.Update(absl::StrCat(sequence, ":", name));
  return absl::StrCat(kIdPrefix, digest.HexDigest().substr(0, kIdDigits));
}

bool IsRunId(const std::string& name) {
  return absl::StartsWith(name, kIdPrefix) && name.size() == kIdPrefix.size() + kIdDigits;
}

absl::StatusOr<RunFolder::Identity> RunFolder::Read() const {
  const std::unique_ptr<FileSource> files = LocalFiles();
  const auto read = [&](const char* file) {
    return ReadWholeFile(*files, absl::StrCat(path_, "/", file), kMaxSpecBytes);
  };
  Identity identity;
  ASSIGN_OR_RETURN(const std::string sequence, read("sequence"));
  if (sequence.empty()) return absl::NotFoundError(absl::StrCat(path_, "/sequence: its writing was interrupted"));
  const absl::StatusOr<std::string> name = read("name"), spec = read("spec");
  // Both were there before the number was.
  if (absl::IsNotFound(name.status()) || absl::IsNotFound(spec.status()) ||
      !absl::SimpleAtoi(sequence, &identity.sequence)) {
    return absl::DataLossError(absl::StrCat(path_, ": name, spec or sequence: damaged"));
  }
  RETURN_IF_ERROR(name.status());
  RETURN_IF_ERROR(spec.status());
  identity.name = *name;
  identity.spec = *spec;
  return identity;
}

absl::Status RunFolder::Write(const Identity& identity) const {
  RETURN_IF_ERROR(MakeFolders(path_));
  RETURN_IF_ERROR(WriteSyncedFile(absl::StrCat(path_, "/name"), identity.name));
  RETURN_IF_ERROR(WriteSyncedFile(absl::StrCat(path_, "/spec"), identity.spec));
  return WriteSyncedFile(absl::StrCat(path_, "/sequence"), absl::StrCat(identity.sequence));
}

bool RunFolder::HasStates() const {
  const absl::StatusOr<Checkpoints> states = Checkpoints::Open(States());
  if (!states.ok()) return false;
  const absl::StatusOr<std::vector<int64_t>> steps = states->Steps();
  return steps.ok() && !steps->empty();
}

absl::Status RunFolder::SaveState(int64_t sequence, const TrainingRun& run) const {
  ASSIGN_OR_RETURN(Checkpoints states, Checkpoints::Open(States()));
  return states.Write(sequence, /*trained_tokens=*/0, kKeptStates,
                      [&](const std::string& path) { return run.SaveState(path); });
}

absl::Status RunFolder::LoadState(int64_t sequence, TrainingRun* run) const {
  ASSIGN_OR_RETURN(const Checkpoints states, Checkpoints::Open(States()));
  ASSIGN_OR_RETURN(const Checkpoints::Found found, states.Read(sequence));
  return run->LoadState(found.state_path);
}

absl::StatusOr<int64_t> RunFolder::LoadNewest(int64_t first_sequence, bool began_from_state, TrainingRun* run) const {
  ASSIGN_OR_RETURN(const Checkpoints states, Checkpoints::Open(States()));
  ASSIGN_OR_RETURN(const std::vector<int64_t> sequences, states.Steps());
  for (const int64_t sequence : sequences) {
    const absl::StatusOr<Checkpoints::Found> found = states.Read(sequence);
    const absl::Status status = found.ok() ? run->LoadState(found->state_path) : found.status();
    if (status.ok()) return sequence;
    // It may be readable at the next start, or on its own base, and then the run has not lost it.
    if (!IsDamaged(status)) return status;
  }
  if (!began_from_state) return first_sequence;
  return absl::DataLossError(absl::StrCat(States(), ": what the run began from is damaged"));
}

absl::StatusOr<std::string> RunFolder::EmptyAdapterFolder() const {
  const std::string unfinished = absl::StrCat(path_, "/adapter.unfinished");
  RETURN_IF_ERROR(RemoveFolder(unfinished));
  RETURN_IF_ERROR(MakeFolders(unfinished));
  return unfinished;
}

}  // namespace lorad
