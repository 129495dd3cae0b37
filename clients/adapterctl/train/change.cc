#include <cstdio>
#include <memory>

#include "clients/adapterctl/output.h"
#include "clients/adapterctl/train/job_output.h"
#include "clients/adapterctl/train/verbs.h"
#include "lorad/v1/finetuning.grpc.pb.h"

namespace lorad::adapterctl {
namespace {

// A verb that takes a job's id and gets a job back.
template <typename Request>
Verb AddJobVerb(CLI::App& train, const char* name, const char* help,
                grpc::Status (v1::FineTuning::Stub::*call)(grpc::ClientContext*, const Request&, v1::Job*)) {
  CLI::App* command = train.add_subcommand(name, help);
  auto id = std::make_shared<std::string>();
  command->add_option("id", *id, "The job's id")->required();
  return {command, [id, call](Session& session) {
            session.SetHint(grpc::StatusCode::NOT_FOUND, kJobsAreListed);
            const auto channel = session.Connect();
            if (!channel) return kUnreachable;
            const auto stub = v1::FineTuning::NewStub(channel);
            grpc::ClientContext context;
            Request request;
            request.set_id(*id);
            v1::Job job;
            const grpc::Status status = (stub.get()->*call)(&context, request, &job);
            if (!status.ok()) return session.Fail(status);
            PrintJob(job, session.json());
            return kDone;
          }};
}

}  // namespace

Verb AddTrainShow(CLI::App& train) {
  return AddJobVerb<v1::GetJobRequest>(train, "show", "Show a job", &v1::FineTuning::Stub::GetJob);
}
Verb AddTrainPause(CLI::App& train) {
  return AddJobVerb<v1::PauseJobRequest>(train, "pause", "Store a job and take it out of the queue",
                                         &v1::FineTuning::Stub::PauseJob);
}
Verb AddTrainResume(CLI::App& train) {
  return AddJobVerb<v1::ResumeJobRequest>(train, "resume", "Put a paused job back into the queue",
                                          &v1::FineTuning::Stub::ResumeJob);
}
Verb AddTrainCancel(CLI::App& train) {
  return AddJobVerb<v1::CancelJobRequest>(train, "cancel", "End a job for good", &v1::FineTuning::Stub::CancelJob);
}

Verb AddTrainDelete(CLI::App& train) {
  CLI::App* command = train.add_subcommand("delete", "Forget a finished job and remove its files");
  auto id = std::make_shared<std::string>();
  command->add_option("id", *id, "The job's id")->required();
  return {command, [id](Session& session) {
            session.SetHint(grpc::StatusCode::NOT_FOUND, kJobsAreListed);
            const auto channel = session.Connect();
            if (!channel) return kUnreachable;
            grpc::ClientContext context;
            v1::DeleteJobRequest request;
            request.set_id(*id);
            v1::DeleteJobResponse response;
            const grpc::Status status = v1::FineTuning::NewStub(channel)->DeleteJob(&context, request, &response);
            if (!status.ok()) return session.Fail(status);
            if (session.json()) {
              PrintJson({{"deleted", *id}});
            } else {
              std::printf("deleted %s\n", id->c_str());
            }
            return kDone;
          }};
}

}  // namespace lorad::adapterctl
