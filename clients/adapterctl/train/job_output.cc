#include "clients/adapterctl/train/job_output.h"

#include <google/protobuf/util/json_util.h>
#include <google/protobuf/util/time_util.h>

#include <cstdio>

#include "clients/adapterctl/output.h"

namespace lorad::adapterctl {
namespace {

std::string Steps(const v1::Job& job) { return std::to_string(job.step()) + "/" + std::to_string(job.total_steps()); }

std::string Number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.4f", value);
  return text;
}

std::string Time(const google::protobuf::Timestamp& time) { return google::protobuf::util::TimeUtil::ToString(time); }

nlohmann::ordered_json SpecJson(const v1::FineTuneSpec& spec) {
  std::string text;
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  if (!google::protobuf::util::MessageToJsonString(spec, &text, options).ok()) return nullptr;
  return nlohmann::ordered_json::parse(text, /*cb=*/nullptr, /*allow_exceptions=*/false);
}

}  // namespace

std::string NameOf(v1::JobState state) {
  switch (state) {
    case v1::JOB_STATE_VALIDATING:
      return "validating";
    case v1::JOB_STATE_QUEUED:
      return "queued";
    case v1::JOB_STATE_RUNNING:
      return "running";
    case v1::JOB_STATE_PAUSED:
      return "paused";
    case v1::JOB_STATE_SUCCEEDED:
      return "succeeded";
    case v1::JOB_STATE_FAILED:
      return "failed";
    case v1::JOB_STATE_CANCELLED:
      return "cancelled";
    default:
      return "unknown";
  }
}

bool IsFinished(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED || state == v1::JOB_STATE_CANCELLED;
}

nlohmann::ordered_json ToJson(const v1::Job& job) {
  nlohmann::ordered_json json = {{"id", job.id()},
                                 {"name", job.spec().name()},
                                 {"state", NameOf(job.state())},
                                 {"reason", job.reason()},
                                 {"step", job.step()},
                                 {"total_steps", job.total_steps()},
                                 {"last_loss", job.last_loss()},
                                 {"revision", job.revision()},
                                 {"trained_tokens", job.trained_tokens()},
                                 {"created_at", Time(job.created_at())},
                                 {"finished_at", nullptr},
                                 {"spec", SpecJson(job.spec())}};
  if (job.has_finished_at()) json["finished_at"] = Time(job.finished_at());
  return json;
}

nlohmann::ordered_json ToJson(const v1::JobEvent& event) {
  nlohmann::ordered_json json = {{"job_id", event.job_id()},       {"sequence", event.sequence()},
                                 {"state", NameOf(event.state())}, {"step", event.step()},
                                 {"message", event.message()},     {"at", Time(event.at())}};
  if (event.has_loss()) json["loss"] = event.loss();
  if (event.has_aux_loss()) json["aux_loss"] = event.aux_loss();
  if (event.has_grad_norm()) json["grad_norm"] = event.grad_norm();
  if (event.has_learning_rate()) json["learning_rate"] = event.learning_rate();
  if (event.has_tokens_per_second()) json["tokens_per_second"] = event.tokens_per_second();
  if (event.has_eval_loss()) json["eval_loss"] = event.eval_loss();
  return json;
}

void PrintJob(const v1::Job& job, bool json) {
  if (json) return PrintJson(ToJson(job));
  std::vector<std::vector<std::string>> rows = {{"id", job.id()},
                                                {"name", job.spec().name()},
                                                {"state", NameOf(job.state())},
                                                {"step", Steps(job)},
                                                {"loss", job.step() > 0 ? Number(job.last_loss()) : "-"},
                                                {"learnt tokens", std::to_string(job.trained_tokens())},
                                                {"created", Time(job.created_at())}};
  if (!job.reason().empty()) rows.push_back({"reason", job.reason()});
  if (!job.revision().empty()) rows.push_back({"revision", job.revision()});
  if (job.has_finished_at()) rows.push_back({"finished", Time(job.finished_at())});
  PrintTable(rows);
}

}  // namespace lorad::adapterctl
