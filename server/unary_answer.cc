#include "server/unary_answer.h"

#include <utility>

#include "server/to_proto.h"

namespace lorad {

grpc::ServerUnaryReactor* FinishWith(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

UnaryAnswer* UnaryAnswer::Start(grpc::CallbackServerContext* context, const Backend* backend) {
  std::shared_ptr<UnaryAnswer> answer(new UnaryAnswer(context, backend));
  answer->self_ = answer;
  return answer.get();
}

void UnaryAnswer::End(const absl::Status& status, size_t bytes) {
  const std::shared_ptr<UnaryAnswer> self = shared_from_this();  // OnDone may come before this returns.
  if (status.ok() && bytes > kSmallBytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      bytes_ = bytes;
      ended_us_ = backend_->clock->NowUs();
    }
    const std::weak_ptr<UnaryAnswer> weak = self;
    backend_->pump->Post([weak, unread = backend_->unread] {
      unread->Add(
          [weak]() -> std::optional<UnreadAnswer> {
            const auto answer = weak.lock();
            return answer ? answer->Unread() : std::nullopt;
          },
          [weak] {
            if (const auto answer = weak.lock()) answer->GiveUp();
          });
    });
  }
  Finish(ToGrpc(status));
}

std::optional<UnreadAnswer> UnaryAnswer::Unread() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (context_ == nullptr) return std::nullopt;
  return UnreadAnswer{static_cast<int64_t>(bytes_), backend_->clock->NowUs() - ended_us_};
}

void UnaryAnswer::GiveUp() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (context_ != nullptr) context_->TryCancel();  // OnDone follows.
}

void UnaryAnswer::OnDone() {
  std::shared_ptr<UnaryAnswer> self;  // Goes last, after the lock.
  const std::lock_guard<std::mutex> lock(mutex_);
  context_ = nullptr;
  self = std::move(self_);
}

}  // namespace lorad
