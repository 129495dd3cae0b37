#include "server/tuning/tuning_service.h"

#include <utility>

#include "server/to_proto.h"
#include "server/tuning/job_watch.h"
#include "server/tuning/tuning.h"
#include "server/unary_answer.h"

namespace lorad {
namespace {

absl::StatusOr<Tuning*> TuningOf(const absl::StatusOr<const Backend*>& backend) {
  return TuningOrOff(backend, "fine-tuning", "jobs");
}

grpc::ServerUnaryReactor* AnswerJob(grpc::CallbackServerContext* context, absl::StatusOr<v1::Job> job,
                                    v1::Job* response) {
  if (job.ok()) *response = *std::move(job);
  return FinishWith(context, job.status());
}

// Takes an answer that comes later, from another thread, to the call that waits for it.
template <typename Response>
auto ReplyTo(grpc::ServerUnaryReactor* reactor, Response* response) {
  return [reactor, response](absl::StatusOr<Response> answer) {
    if (answer.ok()) *response = *std::move(answer);
    reactor->Finish(ToGrpc(answer.status()));
  };
}

// For as long as the call has no answer.
Tuning::Cancelled CancelOf(grpc::CallbackServerContext* context) {
  return [context] { return context->IsCancelled(); };
}

using JobChange = void (Tuning::*)(const std::string& id, Tuning::JobReply reply);

grpc::ServerUnaryReactor* Change(grpc::CallbackServerContext* context, const Readiness& readiness, JobChange change,
                                 const std::string& id, v1::Job* response) {
  const absl::StatusOr<Tuning*> tuning = TuningOf(readiness.Get());
  if (!tuning.ok()) return FinishWith(context, tuning.status());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  ((*tuning)->*change)(id, ReplyTo(reactor, response));
  return reactor;
}

}  // namespace

grpc::ServerUnaryReactor* FineTuningService::SubmitJob(Context* context, const v1::SubmitJobRequest* request,
                                                       v1::Job* response) {
  const absl::StatusOr<Tuning*> tuning = TuningOf(readiness_->Get());
  if (!tuning.ok()) return FinishWith(context, tuning.status());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::Status status = (*tuning)->Submit(*request, CancelOf(context), ReplyTo(reactor, response));
  if (!status.ok()) reactor->Finish(ToGrpc(status));
  return reactor;
}

grpc::ServerUnaryReactor* FineTuningService::GetJob(Context* context, const v1::GetJobRequest* request,
                                                    v1::Job* response) {
  const absl::StatusOr<Tuning*> tuning = TuningOf(readiness_->GetToRead());
  if (!tuning.ok()) return FinishWith(context, tuning.status());
  return AnswerJob(context, (*tuning)->Get(request->id()), response);
}

grpc::ServerUnaryReactor* FineTuningService::ListJobs(Context* context, const v1::ListJobsRequest* request,
                                                      v1::ListJobsResponse* response) {
  const absl::StatusOr<Tuning*> tuning = TuningOf(readiness_->GetToRead());
  return FinishWith(context, tuning.ok() ? (*tuning)->List(*request, response) : tuning.status());
}

grpc::ServerUnaryReactor* FineTuningService::CancelJob(Context* context, const v1::CancelJobRequest* request,
                                                       v1::Job* response) {
  return Change(context, *readiness_, &Tuning::Cancel, request->id(), response);
}

grpc::ServerUnaryReactor* FineTuningService::PauseJob(Context* context, const v1::PauseJobRequest* request,
                                                      v1::Job* response) {
  return Change(context, *readiness_, &Tuning::Pause, request->id(), response);
}

grpc::ServerUnaryReactor* FineTuningService::ResumeJob(Context* context, const v1::ResumeJobRequest* request,
                                                       v1::Job* response) {
  return Change(context, *readiness_, &Tuning::Resume, request->id(), response);
}

grpc::ServerUnaryReactor* FineTuningService::DeleteJob(Context* context, const v1::DeleteJobRequest* request,
                                                       v1::DeleteJobResponse*) {
  const absl::StatusOr<Tuning*> tuning = TuningOf(readiness_->Get());
  return FinishWith(context, tuning.ok() ? (*tuning)->Delete(request->id()) : tuning.status());
}

grpc::ServerWriteReactor<v1::JobEvent>* FineTuningService::WatchJob(Context*, const v1::WatchJobRequest* request) {
  const absl::StatusOr<Tuning*> tuning = TuningOf(readiness_->GetToRead());
  return StartWatch(tuning.ok() ? *tuning : nullptr, tuning.status(), *request);
}

grpc::ServerUnaryReactor* FineTuningService::PreviewExample(Context* context, const v1::PreviewExampleRequest* request,
                                                            v1::PreviewExampleResponse* response) {
  const absl::StatusOr<Tuning*> tuning = TuningOf(readiness_->Get());
  if (!tuning.ok()) return FinishWith(context, tuning.status());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::Status status = (*tuning)->Preview(*request, CancelOf(context), ReplyTo(reactor, response));
  if (!status.ok()) reactor->Finish(ToGrpc(status));
  return reactor;
}

}  // namespace lorad
