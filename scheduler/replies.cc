#include "scheduler/replies.h"

#include <utility>

namespace lorad {
namespace {

template <typename Reply, typename Answer>
void Post(Reply reply, Answer answer, SchedulerState* state) {
  state->parts.inbox->CommandAnswered();
  if (!reply) return;
  state->replies.push_back(
      [reply = std::move(reply), answer = std::move(answer)]() mutable { reply(std::move(answer)); });
}

}  // namespace

void AnswerAdapter(AdapterReply reply, absl::StatusOr<AdapterInfo> answer, SchedulerState* state) {
  Post(std::move(reply), std::move(answer), state);
}

void AnswerStatus(StatusReply reply, absl::Status answer, SchedulerState* state) {
  Post(std::move(reply), std::move(answer), state);
}

void AnswerLoads(const absl::StatusOr<AdapterInfo>& answer, AdapterVersion* version, SchedulerState* state) {
  for (AdapterReply& reply : std::exchange(version->load_replies, {})) Post(std::move(reply), answer, state);
}

void AnswerPins(const absl::StatusOr<AdapterInfo>& answer, AdapterVersion* version, SchedulerState* state) {
  for (AdapterReply& reply : std::exchange(version->pin_replies, {})) Post(std::move(reply), answer, state);
}

void AnswerUnloads(const absl::Status& answer, AdapterVersion* version, SchedulerState* state) {
  for (StatusReply& reply : std::exchange(version->unload_replies, {})) Post(std::move(reply), answer, state);
}

}  // namespace lorad
