#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "lorad/v1/finetuning.grpc.pb.h"
#include "server/backend.h"

namespace lorad {

// Service FineTuning. Errors: FailedPrecondition when the daemon runs without --state-dir; else server/tuning/tuning.h.
class FineTuningService final : public v1::FineTuning::CallbackService {
 public:
  explicit FineTuningService(const Readiness* readiness) : readiness_(readiness) {}

  using Context = grpc::CallbackServerContext;
  using Reactor = grpc::ServerUnaryReactor;
  Reactor* SubmitJob(Context* context, const v1::SubmitJobRequest* request, v1::Job* response) override;
  Reactor* GetJob(Context* context, const v1::GetJobRequest* request, v1::Job* response) override;
  Reactor* ListJobs(Context* context, const v1::ListJobsRequest* request, v1::ListJobsResponse* response) override;
  Reactor* CancelJob(Context* context, const v1::CancelJobRequest* request, v1::Job* response) override;
  Reactor* PauseJob(Context* context, const v1::PauseJobRequest* request, v1::Job* response) override;
  Reactor* ResumeJob(Context* context, const v1::ResumeJobRequest* request, v1::Job* response) override;
  Reactor* DeleteJob(Context* context, const v1::DeleteJobRequest* request, v1::DeleteJobResponse* response) override;
  grpc::ServerWriteReactor<v1::JobEvent>* WatchJob(Context* context, const v1::WatchJobRequest* request) override;
  Reactor* PreviewExample(Context* context, const v1::PreviewExampleRequest* request,
                          v1::PreviewExampleResponse* response) override;

 private:
  const Readiness* const readiness_;
};

}  // namespace lorad
