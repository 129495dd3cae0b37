#include "server/long_texts.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace lorad {

LongTexts::LongTexts() : thread_([this] { Run(); }) {}

LongTexts::~LongTexts() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

absl::Status LongTexts::Post(std::function<void()> work) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (waiting_of_post_ >= kMaxWaiting) {
      return absl::ResourceExhaustedError(absl::StrCat("long texts waiting to be tokenised: ", waiting_of_post_,
                                                       "; limit: ", kMaxWaiting, "; retry later"));
    }
    waiting_.push_back({std::move(work), /*accepted=*/false});
    ++waiting_of_post_;
  }
  wake_.notify_one();
  return absl::OkStatus();
}

void LongTexts::PostAccepted(std::function<void()> work) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    waiting_.push_back({std::move(work), /*accepted=*/true});
  }
  wake_.notify_one();
}

void LongTexts::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    std::function<void()> work = std::move(waiting_.front().work);
    if (!waiting_.front().accepted) --waiting_of_post_;
    waiting_.pop_front();
    lock.unlock();
    work();
    work = nullptr;  // What it holds may take locks when it goes.
    lock.lock();
  }
}

}  // namespace lorad
