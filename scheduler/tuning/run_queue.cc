#include "scheduler/tuning/run_queue.h"

#include "absl/strings/str_cat.h"

namespace lorad {
namespace {

constexpr size_t kKeptAnswers = 16, kMaxWaiting = 256;

}  // namespace

std::optional<absl::StatusOr<RunResult>> RunQueue::Add(int64_t sequence, RunOp op, Reply* reply) {
  for (const auto& [number, answer] : answers_) {
    if (number == sequence) return answer;
  }
  if (sequence <= last_sequence_) {
    return absl::FailedPreconditionError(absl::StrCat("sequence: ", sequence, "; limit: from ", last_sequence_ + 1,
                                                      " on; its answer is no longer kept"));
  }
  if (waiting_.size() >= kMaxWaiting) {
    return absl::ResourceExhaustedError(
        absl::StrCat("operations that wait: ", waiting_.size(), "; limit: ", kMaxWaiting, "; retry later"));
  }
  Waiting& waiting = waiting_[sequence];
  if (waiting.replies.empty()) waiting.op = std::move(op);
  waiting.replies.push_back(std::move(*reply));
  return std::nullopt;
}

RunOp* RunQueue::Next() {
  if (closed_) return nullptr;
  const auto next = waiting_.find(last_sequence_ + 1);
  return next == waiting_.end() ? nullptr : &next->second.op;
}

std::vector<RunQueue::Reply> RunQueue::Answer(const absl::StatusOr<RunResult>& result) {
  const auto done = waiting_.find(++last_sequence_);
  std::vector<Reply> replies = std::move(done->second.replies);
  waiting_.erase(done);
  answers_.emplace_back(last_sequence_, result);
  if (answers_.size() > kKeptAnswers) answers_.pop_front();
  return replies;
}

std::vector<RunQueue::Reply> RunQueue::Close() {
  closed_ = true;
  std::vector<Reply> replies;
  for (auto& [sequence, waiting] : waiting_) {
    for (Reply& reply : waiting.replies) replies.push_back(std::move(reply));
    waiting.replies.clear();
  }
  return replies;
}

}  // namespace lorad
