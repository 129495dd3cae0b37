#include "server/tuning/job_proto.h"

#include <cstdint>

namespace lorad {
namespace {

void SetTime(int64_t us, google::protobuf::Timestamp* time) {
  time->set_seconds(us / 1'000'000);
  time->set_nanos(static_cast<int32_t>(us % 1'000'000 * 1000));
}

}  // namespace

v1::Job ToProto(const Job& job) {
  v1::Job proto;
  proto.set_id(job.id);
  proto.mutable_spec()->ParseFromString(job.spec);  // written by us
  proto.set_state(static_cast<v1::JobState>(job.state));
  proto.set_reason(job.reason);
  proto.set_step(static_cast<uint32_t>(job.step));
  proto.set_total_steps(static_cast<uint32_t>(job.total_steps));
  proto.set_last_loss(job.last_loss);
  proto.set_revision(job.revision);
  proto.set_trained_tokens(static_cast<uint64_t>(job.trained_tokens));
  SetTime(job.created_us, proto.mutable_created_at());
  if (job.finished_us > 0) SetTime(job.finished_us, proto.mutable_finished_at());
  return proto;
}

v1::JobEvent ToProto(const JobEvent& event) {
  v1::JobEvent proto;
  proto.set_job_id(event.job_id);
  proto.set_sequence(static_cast<uint64_t>(event.sequence));
  proto.set_state(static_cast<v1::JobState>(event.state));
  proto.set_step(static_cast<uint32_t>(event.step));
  if (event.loss.has_value()) proto.set_loss(*event.loss);
  if (event.aux_loss.has_value()) proto.set_aux_loss(*event.aux_loss);
  if (event.grad_norm.has_value()) proto.set_grad_norm(*event.grad_norm);
  if (event.learning_rate.has_value()) proto.set_learning_rate(*event.learning_rate);
  if (event.tokens_per_second.has_value()) proto.set_tokens_per_second(*event.tokens_per_second);
  if (event.eval_loss.has_value()) proto.set_eval_loss(*event.eval_loss);
  proto.set_message(event.message);
  SetTime(event.at_us, proto.mutable_at());
  return proto;
}

}  // namespace lorad
