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
// Errors   FailedPrecondition: a number that cannot come now. ResourceExhausted: too many operations wait, or too many
//          bytes; not said of the one that comes next, which lets go of them. Aborted: asked again meanwhile.
class RunQueue final {
 public:
  using Reply = std::function<void(absl::StatusOr<RunResult>)>;

  // What comes next is behind `last_sequence`.
  explicit RunQueue(int64_t last_sequence) : last_sequence_(last_sequence) {}

  // What `reply` gets now, where there is an answer; else operation and reply are taken. Of those who ask for the same
  // number while it waits the newest gets the answer: `reply` is the one before it then. `room_bytes`: for more that
  // waits, in waiting_bytes().
  std::optional<absl::StatusOr<RunResult>> Add(int64_t sequence, RunOp op, int64_t room_bytes, Reply* reply);
  // The operation that comes next, or null; it stays where it is until it is answered.
  RunOp* Next();
  // The next operation is done, one that failed too; who waits for the answer, null where Close gave it.
  Reply Answer(const absl::StatusOr<RunResult>& result);
  // Nothing comes any more; who still waits.
  std::vector<Reply> Close();

  int64_t last_sequence() const { return last_sequence_; }  // answered
  // What the operations that wait take, each with the request that it came in; roughly.
  int64_t waiting_bytes() const { return waiting_bytes_; }

 private:
  struct Waiting {
    RunOp op;
    int64_t bytes = 0;
    Reply reply;
  };
  int64_t last_sequence_;
  std::map<int64_t, Waiting> waiting_;
  int64_t waiting_bytes_ = 0;
  std::deque<std::pair<int64_t, absl::StatusOr<RunResult>>> answers_;  // the newest
  bool closed_ = false;
};

}  // namespace lorad
