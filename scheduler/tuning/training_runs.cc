#include "scheduler/tuning/training_runs.h"

#include <filesystem>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "scheduler/tuning/checkpoints.h"
#include "scheduler/tuning/run.h"
#include "scheduler/tuning/run_at_once.h"
#include "scheduler/tuning/run_folder.h"
#include "scheduler/tuning/run_maker.h"

namespace lorad {
namespace {

absl::Status NoSuchRun(const std::string& id) {
  return absl::NotFoundError(absl::StrCat("run: ", id.substr(0, 300), "; limit: one that CreateRun gave"));
}

absl::Status Ended() { return absl::UnavailableError("the daemon ends; ask again when it is back"); }

}  // namespace

struct TrainingRuns::Impl {
  // A run that lies on disk and cannot go on.
  struct Left {
    std::string name;  // "" where it cannot be read
    absl::Status why;
  };

  explicit Impl(Parts given)
      : parts(std::move(given)),
        maker(parts),
        at_once(parts, [this](const std::string& id) { return Find(id) != nullptr; }) {}

  RunFolder FolderOf(const std::string& id) const { return RunFolder(parts.dir, id); }
  absl::StatusOr<int64_t> StateBytes(const std::string& spec) const {
    return parts.state_bytes ? parts.state_bytes(spec) : absl::StatusOr<int64_t>(0);
  }
  absl::Status Reserve(const std::string& spec);
  absl::StatusOr<int64_t> MaxSequenceTokens(const std::string& spec) const {
    constexpr int64_t kAny = std::numeric_limits<int64_t>::max();
    return parts.max_sequence_tokens ? parts.max_sequence_tokens(spec) : absl::StatusOr<int64_t>(kAny);
  }
  void Settle(const std::string& id, const absl::StatusOr<std::shared_ptr<Run>>& run);
  int64_t HeldBytes() const;
  absl::Status Resume(const std::string& id, const RunFolder::Identity& identity, const GoOnFn& go_on);
  void Restore();
  std::shared_ptr<Run> Find(const std::string& id) const;
  // The operation that comes next, or null.
  RunOp* Next(Run* run) const;
  void Answer(const std::shared_ptr<Run>& run, const absl::StatusOr<RunResult>& result);
  std::vector<std::shared_ptr<Run>> All() const;
  absl::Status CheckLengths(const RunOp& op, const Run& run) const;
  void LeaveAsItLies(const std::string& id, const std::string& name, const absl::Status& why);
  absl::StatusOr<RunInfo> Create(const std::string& id, const std::string& name, int64_t sequence, const BeginFn& begin,
                                 const GoOnFn& go_on);
  absl::StatusOr<RunInfo> InfoOf(const std::string& id) const;  // under the mutex

  const Parts parts;
  const RunMaker maker;
  const RunAtOnce at_once;
  mutable std::mutex mutex;  // of what follows and of the runs' queues
  std::map<std::string, std::shared_ptr<Run>> runs;
  std::map<std::string, Left> left;
  std::string making;  // the run that Create is at
  bool ended = false;
  int64_t reserved_bytes = 0;  // of the run that is being made, as the next
  int64_t reserved_tokens = 0;
  std::vector<std::shared_ptr<Run>> computing;  // the trainer's: who has a part in the batch
};

TrainingRuns::TrainingRuns(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TrainingRuns::~TrainingRuns() = default;

absl::StatusOr<std::unique_ptr<TrainingRuns>> TrainingRuns::Open(Parts parts) {
  RETURN_IF_ERROR(MakeFolders(parts.dir));
  auto impl = std::make_unique<Impl>(std::move(parts));
  impl->Restore();
  return std::unique_ptr<TrainingRuns>(new TrainingRuns(std::move(impl)));
}

void TrainingRuns::Impl::Restore() {
  std::error_code error;
  std::filesystem::directory_iterator entry(parts.dir, error);
  for (const std::filesystem::directory_iterator end; !error && entry != end; entry.increment(error)) {
    const std::string id = entry->path().filename().string();
    if (!IsRunId(id)) continue;
    const absl::StatusOr<RunFolder::Identity> identity = FolderOf(id).Read();
    absl::Status status = identity.status();
    if (absl::IsNotFound(status)) {
      status = RemoveFolder(FolderOf(id).path());  // was never answered
    } else if (status.ok()) {
      status = Resume(id, *identity, /*go_on=*/nullptr);  // not of another base, perhaps
    }
    const bool is_its_name = identity.ok() && RunIdOf(identity->name, identity->sequence) == id;
    if (!status.ok()) LeaveAsItLies(id, is_its_name ? identity->name : "", status);
  }
  if (error) parts.not_resumed(parts.dir, absl::UnavailableError(error.message()));
}

void TrainingRuns::Impl::LeaveAsItLies(const std::string& id, const std::string& name, const absl::Status& why) {
  parts.not_resumed(FolderOf(id).path(), why);
  const std::lock_guard<std::mutex> lock(mutex);
  left[id] = {name, why};
}

// Its bytes are held by the worker, with those of all others.
absl::Status TrainingRuns::Impl::Resume(const std::string& id, const RunFolder::Identity& identity,
                                        const GoOnFn& go_on) {
  if (RunIdOf(identity.name, identity.sequence) != id) {
    return absl::DataLossError("its name or number is another run's");
  }
  RETURN_IF_ERROR(Reserve(identity.spec));
  const absl::StatusOr<std::shared_ptr<Run>> run = maker.Load(identity, go_on);
  Settle(id, run);
  return run.status();
}

// Counts the bytes of a run with this spec as those of the one that is being made, before any is taken; refused is one
// whose sequences could have no token.
absl::Status TrainingRuns::Impl::Reserve(const std::string& spec) {
  ASSIGN_OR_RETURN(const int64_t bytes, StateBytes(spec));
  ASSIGN_OR_RETURN(const int64_t tokens, MaxSequenceTokens(spec));
  const int64_t others = HeldBytes();
  if (bytes > parts.max_bytes - others) {
    return absl::ResourceExhaustedError(absl::StrCat("memory of the run: bytes: ", bytes,
                                                     "; held by other runs: ", others, "; limit: ", parts.max_bytes,
                                                     " in all; delete a run, lower the rank or raise --memory-bytes"));
  }
  const std::lock_guard<std::mutex> lock(mutex);
  reserved_bytes = bytes;
  reserved_tokens = tokens;
  return absl::OkStatus();
}

// What was reserved is the run's, or free.
void TrainingRuns::Impl::Settle(const std::string& id, const absl::StatusOr<std::shared_ptr<Run>>& run) {
  const std::lock_guard<std::mutex> lock(mutex);
  const int64_t bytes = std::exchange(reserved_bytes, 0);
  if (!run.ok()) return;
  (*run)->state_bytes = bytes;
  (*run)->max_sequence_tokens = reserved_tokens;
  runs[id] = *run;
  left.erase(id);
}

int64_t TrainingRuns::Impl::HeldBytes() const {
  const std::lock_guard<std::mutex> lock(mutex);
  int64_t bytes = reserved_bytes;
  for (const auto& [id, run] : runs) bytes += run->state_bytes;
  return bytes;
}

int64_t TrainingRuns::held_bytes() const { return impl_->HeldBytes(); }

std::shared_ptr<Run> TrainingRuns::Impl::Find(const std::string& id) const {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = runs.find(id);
  return found == runs.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<Run>> TrainingRuns::Impl::All() const {
  const std::lock_guard<std::mutex> lock(mutex);
  std::vector<std::shared_ptr<Run>> all;
  for (const auto& [id, run] : runs) all.push_back(run);
  return all;
}

absl::StatusOr<RunInfo> TrainingRuns::Create(const std::string& name, int64_t sequence, const BeginFn& begin,
                                             const GoOnFn& go_on) {
  const std::string id = RunIdOf(name, sequence);
  if (const absl::StatusOr<RunInfo> known = Get(id); known.ok() && known->left.ok()) return known;
  {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    if (static_cast<int64_t>(impl_->runs.size()) >= impl_->parts.max_runs) {
      return absl::ResourceExhaustedError(absl::StrCat("runs: ", impl_->runs.size(), "; limit: ", impl_->parts.max_runs,
                                                       "; delete one that is no longer needed"));
    }
    impl_->making = id;
  }
  absl::StatusOr<RunInfo> created = impl_->Create(id, name, sequence, begin, go_on);
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  impl_->making.clear();
  return created;
}

absl::StatusOr<RunInfo> TrainingRuns::Impl::Create(const std::string& id, const std::string& name, int64_t sequence,
                                                   const BeginFn& begin, const GoOnFn& go_on) {
  const RunFolder folder = FolderOf(id);
  if (const absl::StatusOr<RunFolder::Identity> kept = folder.Read(); !absl::IsNotFound(kept.status())) {
    // Left as it lies: it goes on, or stays, but is not given up for a new one.
    const absl::Status resumed = kept.ok() ? Resume(id, *kept, go_on) : kept.status();
    parts.wake();  // other bytes are held
    if (resumed.ok()) {
      const std::lock_guard<std::mutex> lock(mutex);
      return InfoOf(id);
    }
    LeaveAsItLies(id, name, resumed);
    return absl::Status(resumed.code(),
                        absl::StrCat("run of this name and sequence: cannot go on: ", resumed.message(),
                                     "; it stays in ", folder.path(), "; use another sequence, or DeleteRun ", id));
  }
  ASSIGN_OR_RETURN(const RunBeginning beginning, begin());
  const RunFolder::Identity identity{name, beginning.spec, sequence};
  RETURN_IF_ERROR(Reserve(identity.spec));
  const absl::StatusOr<std::shared_ptr<Run>> run = maker.Begin(identity, beginning.weights, go_on);
  Settle(id, run);
  if (run.ok()) return RunInfo{id, sequence, name};
  parts.wake();  // less is held
  return run.status();
}

absl::StatusOr<RunInfo> TrainingRuns::Get(const std::string& run_id) const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  return impl_->InfoOf(run_id);
}

std::vector<RunInfo> TrainingRuns::List() const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  std::set<std::string> ids;
  for (const auto& [id, run] : impl_->runs) ids.insert(id);
  for (const auto& [id, left] : impl_->left) ids.insert(id);
  std::vector<RunInfo> infos;
  for (const std::string& id : ids) infos.push_back(impl_->InfoOf(id).value());
  return infos;
}

absl::StatusOr<RunInfo> TrainingRuns::Impl::InfoOf(const std::string& id) const {
  if (const auto run = runs.find(id); run != runs.end()) {
    return RunInfo{id, run->second->queue.last_sequence(), run->second->name};
  }
  if (const auto lies = left.find(id); lies != left.end()) return RunInfo{id, 0, lies->second.name, lies->second.why};
  return NoSuchRun(id);
}

absl::Status TrainingRuns::Delete(const std::string& run_id) {
  ASSIGN_OR_RETURN(const RunInfo info, Get(run_id));
  std::vector<RunQueue::Reply> replies;
  {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    if (impl_->making == run_id) {
      return absl::UnavailableError(absl::StrCat("run: ", run_id, "; CreateRun is at it; delete it when that ended"));
    }
    const auto found = impl_->runs.find(run_id);
    if (found == impl_->runs.end() && impl_->left.erase(run_id) == 0) return absl::OkStatus();  // by somebody else
    if (found != impl_->runs.end()) {
      replies = found->second->queue.Close();
      impl_->runs.erase(found);
    }
  }
  const absl::Status deleted = absl::AbortedError(absl::StrCat("run: ", run_id, "; deleted meanwhile"));
  for (const RunQueue::Reply& reply : replies) reply(deleted);
  impl_->parts.wake();  // less is held
  const absl::Status removed = RemoveFolder(impl_->FolderOf(run_id).path());
  if (!removed.ok()) impl_->LeaveAsItLies(run_id, info.name, removed);
  return removed;
}

// An operation whose turn never came has nobody else to answer it, and a server waits for all of its calls.
void TrainingRuns::Stop() {
  std::vector<RunQueue::Reply> replies;
  {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->ended = true;
    for (const auto& [id, run] : impl_->runs) {
      for (RunQueue::Reply& reply : run->queue.Close()) replies.push_back(std::move(reply));
    }
  }
  for (const RunQueue::Reply& reply : replies) reply(Ended());
}

// One that never fits would fail for want of memory in the middle, with the gradients so far.
absl::Status TrainingRuns::Impl::CheckLengths(const RunOp& op, const Run& run) const {
  const int64_t most = run.max_sequence_tokens;
  for (size_t i = 0; i < op.sequences.size(); ++i) {
    const int64_t tokens = std::ssize(op.sequences[i].token_ids);
    if (tokens <= most) continue;
    return absl::InvalidArgumentError(absl::StrCat("data[", i, "]: tokens: ", tokens, "; limit: ", most,
                                                   ", what the device has memory for; raise --memory-bytes"));
  }
  return absl::OkStatus();
}

void TrainingRuns::Do(const std::string& run_id, int64_t sequence, RunOp op, RunQueue::Reply reply) {
  const auto queue = [&]() -> std::optional<absl::StatusOr<RunResult>> {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    if (impl_->ended) return Ended();
    const auto found = impl_->runs.find(run_id);
    if (found != impl_->runs.end()) {
      if (op.router_loss_weight.has_value() && !found->second->training->has_router_loss()) {
        return absl::InvalidArgumentError(
            "loss_options: router_loss_weight; limit: a run whose adapter has routers with a loss");
      }
      RETURN_IF_ERROR(impl_->CheckLengths(op, *found->second));
      int64_t room_bytes = impl_->parts.max_waiting_bytes;
      for (const auto& [id, run] : impl_->runs) room_bytes -= run->queue.waiting_bytes();
      return found->second->queue.Add(sequence, std::move(op), room_bytes, &reply);
    }
    const auto lies = impl_->left.find(run_id);
    if (lies == impl_->left.end()) return NoSuchRun(run_id);
    return absl::FailedPreconditionError(absl::StrCat("run: ", run_id, "; cannot go on: ", lies->second.why.message(),
                                                      "; CreateRun again when it can, or DeleteRun"));
  };
  if (const std::optional<absl::StatusOr<RunResult>> answer = queue(); answer.has_value()) {
    reply(*answer);
  } else {
    impl_->parts.wake();
  }
}

RunOp* TrainingRuns::Impl::Next(Run* run) const {
  const std::lock_guard<std::mutex> lock(mutex);
  return run->queue.Next();
}

bool TrainingRuns::has_work() const {
  for (const std::shared_ptr<Run>& run : impl_->All()) {
    if (impl_->Next(run.get()) != nullptr) return true;
  }
  return false;
}

// An operation that failed is done, too: what it would have done has not happened.
void TrainingRuns::Impl::Answer(const std::shared_ptr<Run>& run, const absl::StatusOr<RunResult>& result) {
  RunQueue::Reply reply;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    reply = run->queue.Answer(result);
  }
  if (reply) reply(result);
}

std::vector<BatchMember> TrainingRuns::TakeMembers(int64_t rows, const Turn& turn) {
  std::vector<BatchMember> members;
  impl_->computing.clear();
  for (const std::shared_ptr<Run>& run : impl_->All()) {
    RunOp* op = impl_->Next(run.get());
    while (op != nullptr && op->kind != RunOpKind::kForwardBackward) {
      impl_->Answer(run, impl_->at_once.Do(*op, turn, run.get()));
      op = impl_->Next(run.get());
    }
    if (op == nullptr || (rows <= 0 && !members.empty())) continue;
    const auto put = [this, run](const PartResult& part) {
      const std::optional<RunResult> result = run->pass.Put(part);
      if (result.has_value()) impl_->Answer(run, *result);
    };
    const int64_t sequence = run->queue.last_sequence() + 1;
    for (MicroBatchPart& part : run->pass.Take(*op, sequence, *run->training, &rows)) {
      members.push_back({std::move(part), put});
    }
    impl_->computing.push_back(run);
  }
  return members;
}

void TrainingRuns::FailMembers(const absl::Status& status) {
  for (const std::shared_ptr<Run>& run : std::exchange(impl_->computing, {})) {
    run->training->DropGradients();
    run->pass.Drop();
    impl_->Answer(run,
                  absl::Status(status.code(), absl::StrCat(status.message(), "; the run's gradients are dropped")));
  }
}

}  // namespace lorad
