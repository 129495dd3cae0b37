#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/tuning/run_op.h"

namespace lorad {

// The operations of one run in the order of their sequence numbers, each once: they may come in any order, and the same
// number again gets the same answer, as long as that is kept.
//
// Threads  its owner's mutex guards it.
// Errors   FailedPrecondition: a number that cannot come now. ResourceExhausted: too many operations wait.
class RunQueue final {
 public:
  using Reply = std::function<void(absl::StatusOr<RunResult>)>;

  // What comes next is behind `last_sequence`.
  explicit RunQueue(int64_t last_sequence) : last_sequence_(last_sequence) {}

  // The answer, where there is one now, else takes operation and reply and gives none.
  std::optional<absl::StatusOr<RunResult>> Add(int64_t sequence, RunOp op, Reply* reply);
  // The operation that comes next, or null; it stays where it is until it is answered.
  RunOp* Next();
  // The next operation is done, one that failed too; who waits for the answer.
  std::vector<Reply> Answer(const absl::StatusOr<RunResult>& result);
  // Nothing comes any more; who still waits.
  std::vector<Reply> Close();

  int64_t last_sequence() const { return last_sequence_; }  // answered

 private:
  struct Waiting {
    RunOp op;
    std::vector<Reply> replies;
  };
  int64_t last_sequence_;
  std::map<int64_t, Waiting> waiting_;
  std::deque<std::pair<int64_t, absl::StatusOr<RunResult>>> answers_;  // the newest
  bool closed_ = false;
};

}  // namespace lorad
