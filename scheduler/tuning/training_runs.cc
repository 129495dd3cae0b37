#include "scheduler/tuning/training_runs.h"

#include <algorithm>
#include <deque>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "model/base/sha256.h"
#include "model/base/status_macros.h"
#include "scheduler/tuning/checkpoints.h"
#include "scheduler/tuning/run_folder.h"

namespace lorad {
namespace {

constexpr size_t kKeptAnswers = 16, kMaxWaiting = 256;

template <typename T>
std::vector<T> Slice(const std::vector<T>& of, size_t first, size_t count) {
  if (of.empty()) return {};
  const auto begin = of.begin() + static_cast<int64_t>(first);
  return {begin, begin + static_cast<int64_t>(count)};
}

// The same for the same name and number, so that a run that was asked for twice is found again.
std::string IdOf(const std::string& name, int64_t sequence) {
  Sha256 digest;
  digest.Update(absl::StrCat(sequence, ":", name));
  return absl::StrCat("run-", digest.HexDigest().substr(0, 16));
}

}  // namespace

struct TrainingRuns::Run {
  struct Waiting {
    RunOp op;
    std::vector<Reply> replies;
  };
  std::string id;
  std::string name;
  std::unique_ptr<TrainingRun> training;  // the trainer's, but for its making
  int64_t last_sequence = 0;
  std::map<int64_t, Waiting> waiting;
  std::deque<std::pair<int64_t, absl::StatusOr<RunResult>>> answers;  // the newest
  bool deleted = false;

  // The forward and backward under way; the trainer's.
  size_t next_datum = 0;
  size_t next_row = 0;
  RunResult result;
};

struct TrainingRuns::Impl {
  explicit Impl(Parts given) : parts(std::move(given)) {}

  std::string PathOf(const std::string& id) const { return absl::StrCat(parts.dir, "/", id); }
  RunFolder FolderOf(const std::string& id) const { return RunFolder(PathOf(id)); }
  absl::StatusOr<std::shared_ptr<Run>> Make(const RunFolder::Identity& identity) const;
  absl::Status Restore();
  std::shared_ptr<Run> Find(const std::string& id) const;
  // The operation that comes next, or null.
  RunOp* Next(Run* run) const;
  void Answer(const std::shared_ptr<Run>& run, absl::StatusOr<RunResult> result);
  absl::StatusOr<RunResult> DoAtOnce(Run* run, const RunOp& op);
  absl::StatusOr<RunResult> SaveState(Run* run, const std::string& label);
  absl::StatusOr<RunResult> LoadState(Run* run, const std::string& state_id);
  absl::StatusOr<RunResult> SaveForSampling(Run* run, bool make_current);
  BatchMember TakePart(const std::shared_ptr<Run>& run, const RunOp& op, int64_t* rows);
  std::vector<std::shared_ptr<Run>> All() const;

  const Parts parts;
  mutable std::mutex mutex;  // of what follows and of what runs hold, but what is the trainer's
  std::map<std::string, std::shared_ptr<Run>> runs;
  std::vector<std::shared_ptr<Run>> computing;  // the trainer's: who has a part in the batch
};

TrainingRuns::TrainingRuns(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TrainingRuns::~TrainingRuns() = default;

absl::StatusOr<std::unique_ptr<TrainingRuns>> TrainingRuns::Open(Parts parts) {
  RETURN_IF_ERROR(MakeFolders(parts.dir));
  auto impl = std::make_unique<Impl>(std::move(parts));
  RETURN_IF_ERROR(impl->Restore());
  return std::unique_ptr<TrainingRuns>(new TrainingRuns(std::move(impl)));
}

absl::Status TrainingRuns::Impl::Restore() {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(parts.dir, error)) {
    const std::string path = entry.path().string();
    const RunFolder folder(path);
    const absl::StatusOr<RunFolder::Identity> identity = folder.Read();
    if (!identity.ok()) {
      RETURN_IF_ERROR(RemoveFolder(path));  // was never answered
      continue;
    }
    const absl::StatusOr<std::shared_ptr<Run>> run = Make(*identity);
    if (!run.ok()) continue;  // of another base, perhaps: left as it lies
    const absl::StatusOr<int64_t> newest = folder.LoadNewest(identity->sequence, (*run)->training.get());
    if (!newest.ok()) continue;  // the same
    (*run)->last_sequence = *newest;
    runs[(*run)->id] = *run;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<TrainingRuns::Run>> TrainingRuns::Impl::Make(const RunFolder::Identity& identity) const {
  auto run = std::make_shared<Run>();
  run->id = IdOf(identity.name, identity.sequence);
  run->name = identity.name;
  run->last_sequence = identity.sequence;
  ASSIGN_OR_RETURN(run->training, parts.make(identity.spec));
  return run;
}

std::shared_ptr<TrainingRuns::Run> TrainingRuns::Impl::Find(const std::string& id) const {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = runs.find(id);
  return found == runs.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<TrainingRuns::Run>> TrainingRuns::Impl::All() const {
  const std::lock_guard<std::mutex> lock(mutex);
  std::vector<std::shared_ptr<Run>> all;
  for (const auto& [id, run] : runs) all.push_back(run);
  return all;
}

absl::StatusOr<RunInfo> TrainingRuns::Create(const std::string& name, int64_t sequence, const BeginFn& begin) {
  const std::string id = IdOf(name, sequence);
  if (const absl::StatusOr<RunInfo> known = Get(id); known.ok()) return known;
  {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    if (static_cast<int64_t>(impl_->runs.size()) >= impl_->parts.max_runs) {
      return absl::ResourceExhaustedError(absl::StrCat("runs: ", impl_->runs.size(), "; limit: ", impl_->parts.max_runs,
                                                       "; delete one that is no longer needed"));
    }
  }
  ASSIGN_OR_RETURN(const RunBeginning beginning, begin());
  const RunFolder::Identity identity{name, beginning.spec, sequence};
  ASSIGN_OR_RETURN(const std::shared_ptr<Run> run, impl_->Make(identity));
  const RunFolder folder = impl_->FolderOf(id);
  if (beginning.weights.has_value()) {
    RETURN_IF_ERROR(run->training->CopyFrom(*beginning.weights));
    RETURN_IF_ERROR(folder.SaveState(sequence, *run->training));
  }
  RETURN_IF_ERROR(folder.Write(identity));
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  impl_->runs[id] = run;
  return RunInfo{id, sequence};
}

absl::StatusOr<RunInfo> TrainingRuns::Get(const std::string& run_id) const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  const auto found = impl_->runs.find(run_id);
  if (found != impl_->runs.end()) return RunInfo{run_id, found->second->last_sequence};
  return absl::NotFoundError(absl::StrCat("run: ", run_id.substr(0, 300), "; limit: one that CreateRun gave"));
}

absl::Status TrainingRuns::Delete(const std::string& run_id) {
  RETURN_IF_ERROR(Get(run_id).status());
  std::vector<Reply> replies;
  {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    const auto found = impl_->runs.find(run_id);
    if (found == impl_->runs.end()) return absl::OkStatus();
    found->second->deleted = true;
    for (auto& [sequence, waiting] : found->second->waiting) {
      for (Reply& reply : waiting.replies) replies.push_back(std::move(reply));
      waiting.replies.clear();
    }
    impl_->runs.erase(found);
  }
  for (const Reply& reply : replies) reply(absl::AbortedError(absl::StrCat("run: ", run_id, "; deleted meanwhile")));
  return RemoveFolder(impl_->PathOf(run_id));
}

void TrainingRuns::Do(const std::string& run_id, int64_t sequence, RunOp op, Reply reply) {
  const auto queue = [&]() -> std::optional<absl::StatusOr<RunResult>> {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    const auto found = impl_->runs.find(run_id);
    if (found == impl_->runs.end()) {
      return absl::NotFoundError(absl::StrCat("run: ", run_id.substr(0, 300), "; limit: one that CreateRun gave"));
    }
    Run& run = *found->second;
    for (const auto& [number, answer] : run.answers) {
      if (number == sequence) return answer;
    }
    if (sequence <= run.last_sequence) {
      return absl::FailedPreconditionError(absl::StrCat("sequence: ", sequence, "; limit: from ", run.last_sequence + 1,
                                                        " on; its answer is no longer kept"));
    }
    if (run.waiting.size() >= kMaxWaiting) {
      return absl::ResourceExhaustedError(
          absl::StrCat("operations that wait: ", run.waiting.size(), "; limit: ", kMaxWaiting, "; retry later"));
    }
    Run::Waiting& waiting = run.waiting[sequence];
    if (waiting.replies.empty()) waiting.op = std::move(op);
    waiting.replies.push_back(std::move(reply));
    return std::nullopt;
  };
  if (const std::optional<absl::StatusOr<RunResult>> answer = queue(); answer.has_value()) {
    reply(*answer);
  } else {
    impl_->parts.wake();
  }
}

RunOp* TrainingRuns::Impl::Next(Run* run) const {
  const std::lock_guard<std::mutex> lock(mutex);
  if (run->deleted) return nullptr;
  const auto next = run->waiting.find(run->last_sequence + 1);
  return next == run->waiting.end() ? nullptr : &next->second.op;
}

bool TrainingRuns::has_work() const {
  for (const std::shared_ptr<Run>& run : impl_->All()) {
    if (impl_->Next(run.get()) != nullptr) return true;
  }
  return false;
}

// An operation that failed is done, too: what it would have done has not happened.
void TrainingRuns::Impl::Answer(const std::shared_ptr<Run>& run, absl::StatusOr<RunResult> result) {
  std::vector<Reply> replies;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto done = run->waiting.find(++run->last_sequence);
    replies = std::move(done->second.replies);
    run->waiting.erase(done);
    run->answers.emplace_back(run->last_sequence, result);
    if (run->answers.size() > kKeptAnswers) run->answers.pop_front();
  }
  for (const Reply& reply : replies) reply(result);
}

std::vector<BatchMember> TrainingRuns::TakeMembers(int64_t rows) {
  std::vector<BatchMember> members;
  impl_->computing.clear();
  for (const std::shared_ptr<Run>& run : impl_->All()) {
    RunOp* op = impl_->Next(run.get());
    while (op != nullptr && op->kind != RunOpKind::kForwardBackward) {
      impl_->Answer(run, impl_->DoAtOnce(run.get(), *op));
      op = impl_->Next(run.get());
    }
    if (op == nullptr || (rows <= 0 && !members.empty())) continue;
    members.push_back(impl_->TakePart(run, *op, &rows));
    impl_->computing.push_back(run);
  }
  return members;
}

// The next sequences of the operation that fit `rows`, one at least.
BatchMember TrainingRuns::Impl::TakePart(const std::shared_ptr<Run>& run, const RunOp& op, int64_t* rows) {
  if (run->next_datum == 0) {
    run->next_row = 0;
    run->result = RunResult();
  }
  std::vector<TrainSequence> sequences;
  size_t row_count = 0;
  while (run->next_datum < op.sequences.size()) {
    const TrainSequence& next = op.sequences[run->next_datum];
    const auto tokens = static_cast<int64_t>(next.token_ids.size());
    if (!sequences.empty() && tokens > *rows) break;
    sequences.push_back(next);
    row_count += next.token_ids.size();
    *rows -= tokens;
    ++run->next_datum;
  }
  RowLoss loss = op.loss;
  loss.weights = Slice(op.loss.weights, run->next_row, row_count);
  loss.advantages = Slice(op.loss.advantages, run->next_row, row_count);
  loss.old_logprobs = Slice(op.loss.old_logprobs, run->next_row, row_count);
  run->next_row += row_count;
  std::vector<size_t> lengths;
  for (const TrainSequence& sequence : sequences) lengths.push_back(sequence.token_ids.size());
  const bool last = run->next_datum == op.sequences.size();
  return {run->training->PartOf(std::move(sequences), std::move(loss)),
          [this, run, last, lengths = std::move(lengths)](const PartResult& part) {
            run->result.loss += part.loss_sum;
            size_t first = 0;
            for (const size_t length : lengths) {
              run->result.logprobs.push_back(Slice(part.logprobs, first, length));
              first += length;
            }
            if (!last) return;
            run->next_datum = 0;
            Answer(run, std::move(run->result));
          }};
}

void TrainingRuns::FailMembers(const absl::Status& status) {
  for (const std::shared_ptr<Run>& run : std::exchange(impl_->computing, {})) {
    run->training->DropGradients();
    run->next_datum = 0;
    impl_->Answer(run,
                  absl::Status(status.code(), absl::StrCat(status.message(), "; the run's gradients are dropped")));
  }
}

absl::StatusOr<RunResult> TrainingRuns::Impl::DoAtOnce(Run* run, const RunOp& op) {
  switch (op.kind) {
    case RunOpKind::kOptimStep: {
      RunResult result;
      ASSIGN_OR_RETURN(result.grad_norm, run->training->OptimStep(op.optimizer));
      return result;
    }
    case RunOpKind::kSaveState:
      return SaveState(run, op.label);
    case RunOpKind::kLoadState:
      return LoadState(run, op.state_id);
    case RunOpKind::kSaveForSampling:
      return SaveForSampling(run, op.make_current);
    case RunOpKind::kForwardBackward:
      break;
  }
  return absl::InternalError("not done at once");
}

// An id is RUN/SEQUENCE, with the label behind it for people.
absl::StatusOr<RunResult> TrainingRuns::Impl::SaveState(Run* run, const std::string& label) {
  const int64_t sequence = run->last_sequence + 1;
  RETURN_IF_ERROR(FolderOf(run->id).SaveState(sequence, *run->training));
  RunResult result;
  result.id = absl::StrCat(run->id, "/", sequence, label.empty() ? "" : ":", label);
  return result;
}

absl::StatusOr<RunResult> TrainingRuns::Impl::LoadState(Run* run, const std::string& state_id) {
  const size_t slash = state_id.find('/');
  const std::string owner = state_id.substr(0, slash),
                    number = state_id.substr(slash + 1, state_id.find(':') - slash - 1);
  int64_t sequence = 0;
  // The run's name is looked up, so that an id leads nowhere but to a run's folder.
  if (slash == std::string::npos || !absl::SimpleAtoi(number, &sequence) || !Find(owner)) {
    return absl::NotFoundError(absl::StrCat("state: ", state_id.substr(0, 300), "; limit: one that SaveState gave"));
  }
  RETURN_IF_ERROR(FolderOf(owner).LoadState(sequence, run->training.get()));
  return RunResult();
}

absl::StatusOr<RunResult> TrainingRuns::Impl::SaveForSampling(Run* run, bool make_current) {
  ASSIGN_OR_RETURN(const std::string unfinished, FolderOf(run->id).EmptyAdapterFolder());
  RETURN_IF_ERROR(run->training->SaveAdapter(unfinished, parts.base_name));
  RunResult result;
  ASSIGN_OR_RETURN(result.id, parts.revisions->Take(run->name, unfinished));
  if (!make_current) return result;
  RETURN_IF_ERROR(parts.publish(run->name, parts.revisions->Folder(result.id), /*replace=*/true));
  RETURN_IF_ERROR(parts.revisions->MakeCurrent(run->name, result.id));
  return result;
}

}  // namespace lorad
