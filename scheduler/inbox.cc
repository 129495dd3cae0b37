#include "scheduler/inbox.h"

#include <chrono>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/check.h"

namespace lorad {

Inbox::Inbox(int64_t queue_limit, int64_t command_limit) : queue_limit_(queue_limit), command_limit_(command_limit) {}

absl::Status Inbox::PutSubmit(SubmitCommand command) {
  const int64_t sequences = command.request.n;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (draining_ || closed_) return absl::UnavailableError("the daemon is shutting down; send the request elsewhere");
    if (queued_sequences_ + sequences > queue_limit_) {
      return absl::ResourceExhaustedError(absl::StrCat("sequences waiting: ", queued_sequences_,
                                                       "; wanted: ", sequences, "; limit: ", queue_limit_,
                                                       "; retry later or raise --queue-limit"));
    }
    queued_sequences_ += sequences;
    commands_.push_back(std::move(command));
  }
  wake_.notify_one();
  return absl::OkStatus();
}

absl::Status Inbox::PutAdapter(Command command) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (draining_ || closed_) return absl::UnavailableError("the daemon is shutting down; adapters change no more");
    if (open_commands_ >= command_limit_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("adapter commands under way: ", open_commands_, "; limit: ", command_limit_, "; retry later"));
    }
    ++open_commands_;
    commands_.push_back(std::move(command));
  }
  wake_.notify_one();
  return absl::OkStatus();
}

void Inbox::Put(Command command) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) return;
    commands_.push_back(std::move(command));
  }
  wake_.notify_one();
}

void Inbox::DrainInto(std::vector<Command>* commands, int64_t wait_us) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto ready = [this] { return !commands_.empty() || woken_; };
  if (wait_us < 0) {
    wake_.wait(lock, ready);
  } else if (wait_us > 0) {
    wake_.wait_for(lock, std::chrono::microseconds(wait_us), ready);
  }
  woken_ = false;
  commands->insert(commands->end(), std::make_move_iterator(commands_.begin()),
                   std::make_move_iterator(commands_.end()));
  commands_.clear();
}

void Inbox::SequenceLeftQueue() {
  const std::lock_guard<std::mutex> lock(mutex_);
  --queued_sequences_;
  LORAD_CHECK_GE(queued_sequences_, 0);
}

void Inbox::CommandAnswered() {
  const std::lock_guard<std::mutex> lock(mutex_);
  --open_commands_;
  LORAD_CHECK_GE(open_commands_, 0);
}

void Inbox::RefuseSubmits() {
  const std::lock_guard<std::mutex> lock(mutex_);
  draining_ = true;
}

void Inbox::Wake() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    woken_ = true;
  }
  wake_.notify_one();
}

std::vector<Command> Inbox::Close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  return std::exchange(commands_, {});
}

bool Inbox::empty() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return commands_.empty() && !woken_;
}

int64_t Inbox::queued_sequences() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return queued_sequences_;
}

}  // namespace lorad
