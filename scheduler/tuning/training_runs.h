#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/image.h"
#include "adapters/train/shared_batch.h"
#include "adapters/train/training_run.h"
#include "scheduler/tuning/revisions.h"
#include "scheduler/tuning/run_op.h"
#include "scheduler/tuning/run_queue.h"

namespace lorad {

// What a new run begins as.
struct RunBeginning {
  std::string spec;                     // from which it is made, now and after restarts
  std::optional<AdapterImage> weights;  // that it begins from, and which are kept; none: those it is made with
};

struct RunInfo {
  std::string id;
  int64_t last_sequence = 0;  // done
  std::string name = {};
  absl::Status left = {};  // why it lies on disk and cannot go on; OK: it can
};

// Runs whose steps callers decide on. The operations of a run happen in the order of their sequence numbers, each once:
// the same number again gets the same answer, as long as that is kept. Those of different runs that compute share
// batches. A run lives in a folder; after a restart it is as it was at its newest saved state, or at its beginning, and
// last_sequence says so.
//
// Threads  any, but what is said to be the trainer's.
// Errors   NotFound: no such run or state. FailedPrecondition: a sequence number that cannot come now, or a run that
//          was left as it lies. Aborted: the run was deleted, or the same number asked for again. ResourceExhausted:
//          too many runs, or operations that wait, or no memory for another. Unavailable: the daemon ends.
class TrainingRuns final {
 public:
  struct Parts {
    std::string dir;  // a folder for each run, by id
    std::string base_name;
    Revisions* revisions;
    // A run with fresh weights, or one that begins from a state, from what its caller said of it; opaque here. May take
    // minutes; `go_on` is asked meanwhile.
    using MakeFn = std::function<absl::StatusOr<std::unique_ptr<TrainingRun>>(
        const std::string& spec, bool begins_from_state, const GoOnFn& go_on)>;
    MakeFn make;
    // Turns for what making and loading a run asks of a device, elsewhere than on the trainer's thread. Empty: none are
    // needed.
    std::function<void(const std::function<void()>& slice)> in_turn;
    // What `make` will take for its weights, gradients and optimizer; from shapes alone. Empty: nobody counts.
    std::function<absl::StatusOr<int64_t>(const std::string& spec)> state_bytes;
    // That a sequence of it may have, or why there is no memory for any. Empty: any number.
    std::function<absl::StatusOr<int64_t>(const std::string& spec)> max_sequence_tokens;
    // held_bytes() are to be held from now on, or why they cannot be. Empty: nobody counts.
    std::function<absl::Status()> hold;
    std::function<absl::Status(const std::string& name, const std::string& folder, bool replace)> publish;
    // Of a run made from this, that it began from weights which are kept as its first state.
    std::function<bool(const std::string& spec)> begins_from_weights;
    // A run that cannot go on now is left as it lies: until Create of its name and sequence, or Delete.
    std::function<void(const std::string& folder, const absl::Status& why)> not_resumed;
    std::function<void()> wake;  // there is work; must not block
    int64_t max_runs = 64;
    int64_t max_waiting_bytes = int64_t{256} << 20;           // of all runs' operations whose turn has not come
    int64_t max_bytes = std::numeric_limits<int64_t>::max();  // of all runs' states
  };
  static absl::StatusOr<std::unique_ptr<TrainingRuns>> Open(Parts parts);
  ~TrainingRuns();

  // The same name and sequence give the same run; `begin` is asked for a new one. Makes the adapter, unless `go_on`
  // says otherwise: takes a while. One call at a time. Errors: also those of a run of this name and sequence that was
  // left as it lies, and still cannot go on; `go_on`'s.
  using BeginFn = std::function<absl::StatusOr<RunBeginning>()>;
  absl::StatusOr<RunInfo> Create(const std::string& name, int64_t sequence, const BeginFn& begin,
                                 const GoOnFn& go_on = nullptr);
  // `reply` is called once, before the call returns, on the trainer's thread, in Stop, or in a later Do of the number.
  void Do(const std::string& run_id, int64_t sequence, RunOp op, RunQueue::Reply reply);
  absl::StatusOr<RunInfo> Get(const std::string& run_id) const;
  std::vector<RunInfo> List() const;  // by id, those that were left too
  // Its folder with it. One whose folder cannot be removed stays, as one that was left. Errors: Unavailable while
  // Create tries to go on with it.
  absl::Status Delete(const std::string& run_id);
  // The trainer's thread has ended: whatever still waits is answered Unavailable, and so is what comes from now on.
  void Stop();
  int64_t held_bytes() const;  // of their states, and of one that is being made

  // The trainer's. Does what needs no forward, and gives the parts of the next batch: at most `rows`, but always one
  // sequence if there is any. Every member's `put` has to be called before the next TakeMembers, or FailMembers.
  bool has_work() const;
  // Optimizer steps are computed in `turn`, which calls what it is given; disks are waited for outside of it.
  using Turn = std::function<void(const std::function<void()>& slice)>;
  std::vector<BatchMember> TakeMembers(int64_t rows, const Turn& turn);
  void FailMembers(const absl::Status& status);

 private:
  struct Impl;
  explicit TrainingRuns(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace lorad
