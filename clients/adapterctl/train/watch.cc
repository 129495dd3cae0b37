#include <memory>

#include "clients/adapterctl/train/job_output.h"
#include "clients/adapterctl/train/verbs.h"
#include "clients/adapterctl/train/watch_view.h"
#include "lorad/v1/finetuning.grpc.pb.h"

namespace lorad::adapterctl {

int WatchJob(Session& session, const std::string& id, uint64_t after_sequence) {
  session.SetHint(grpc::StatusCode::NOT_FOUND, kJobsAreListed);
  const auto channel = session.Connect();
  if (!channel) return kUnreachable;
  const auto stub = v1::FineTuning::NewStub(channel);
  v1::Job job;
  {
    grpc::ClientContext context;
    v1::GetJobRequest request;
    request.set_id(id);
    if (const grpc::Status status = stub->GetJob(&context, request, &job); !status.ok()) return session.Fail(status);
  }
  WatchView view(session.json(), job.total_steps());
  grpc::ClientContext context;
  v1::WatchJobRequest request;
  request.set_id(id);
  request.set_after_sequence(after_sequence);
  const auto reader = stub->WatchJob(&context, request);
  v1::JobState last = job.state();
  for (v1::JobEvent event; reader->Read(&event);) {
    view.Show(event);
    last = event.state();
  }
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return session.Fail(status);
  return last == v1::JOB_STATE_SUCCEEDED ? kDone : kFailed;
}

Verb AddTrainWatch(CLI::App& train) {
  CLI::App* command = train.add_subcommand("watch", "Follow a job until it ends");
  auto id = std::make_shared<std::string>();
  auto after = std::make_shared<uint64_t>(0);
  command->add_option("id", *id, "The job's id")->required();
  command->add_option("--after", *after, "Only events behind this sequence number")->capture_default_str();
  return {command, [id, after](Session& session) { return WatchJob(session, *id, *after); }};
}

}  // namespace lorad::adapterctl
