#include "scheduler/tuning/run_queue.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace lorad {
namespace {

constexpr size_t kKeptAnswers = 16, kMaxWaiting = 256;
// Once as it is kept here, once in the request, which lives until it is answered.
constexpr int64_t kDatumBytes = 2 * 128, kRowBytes = 2 * (2 * sizeof(int32_t) + 3 * sizeof(float)), kOpBytes = 1024;

int64_t BytesOf(const RunOp& op) {
  int64_t bytes = kOpBytes + static_cast<int64_t>(op.label.size() + op.state_id.size());
  for (const TrainSequence& sequence : op.sequences) {
    bytes += kDatumBytes + kRowBytes * static_cast<int64_t>(sequence.token_ids.size());
  }
  return bytes;
}

}  // namespace

std::optional<absl::StatusOr<RunResult>> RunQueue::Add(int64_t sequence, RunOp op, int64_t room_bytes, Reply* reply) {
  for (const auto& [number, answer] : answers_) {
    if (number == sequence) return answer;
  }
  if (sequence <= last_sequence_) {
    return absl::FailedPreconditionError(absl::StrCat("sequence: ", sequence, "; limit: from ", last_sequence_ + 1,
                                                      " on; its answer is no longer kept"));
  }
  if (const auto known = waiting_.find(sequence); known != waiting_.end()) {
    // Calls that were given up are told by nothing else; were they kept, one that retries would pile them up.
    std::swap(known->second.reply, *reply);
    return absl::AbortedError(absl::StrCat("sequence: ", sequence, "; asked again under the same number meanwhile"));
  }
  const int64_t bytes = BytesOf(op);
  if (sequence != last_sequence_ + 1) {
    if (waiting_.size() >= kMaxWaiting) {
      return absl::ResourceExhaustedError(absl::StrCat("operations that wait: ", waiting_.size(),
                                                       "; limit: ", kMaxWaiting, "; retry when number ",
                                                       last_sequence_ + 1, " is done"));
    }
    if (bytes > room_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("bytes of an operation that waits: ", bytes, "; limit: ", std::max<int64_t>(room_bytes, 0),
                       " beside others that wait; retry when number ", last_sequence_ + 1, " is done"));
    }
  }
  waiting_.emplace(sequence, Waiting{std::move(op), bytes, std::move(*reply)});
  waiting_bytes_ += bytes;
  return std::nullopt;
}

RunOp* RunQueue::Next() {
  if (closed_) return nullptr;
  const auto next = waiting_.find(last_sequence_ + 1);
  return next == waiting_.end() ? nullptr : &next->second.op;
}

RunQueue::Reply RunQueue::Answer(const absl::StatusOr<RunResult>& result) {
  const auto done = waiting_.find(++last_sequence_);
  Reply reply = std::move(done->second.reply);
  waiting_bytes_ -= done->second.bytes;
  waiting_.erase(done);
  answers_.emplace_back(last_sequence_, result);
  if (answers_.size() > kKeptAnswers) answers_.pop_front();
  return reply;
}

std::vector<RunQueue::Reply> RunQueue::Close() {
  closed_ = true;
  std::vector<Reply> replies;
  for (auto& [sequence, waiting] : waiting_) {
    if (waiting.reply) replies.push_back(std::exchange(waiting.reply, nullptr));
  }
  return replies;
}

}  // namespace lorad
