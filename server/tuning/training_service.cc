#include "server/tuning/training_service.h"

#include <functional>
#include <utility>

#include "adapters/names.h"
#include "model/base/status_macros.h"
#include "server/to_proto.h"
#include "server/tuning/run_translate.h"
#include "server/tuning/tuning.h"
#include "server/unary_answer.h"

namespace lorad {
namespace {

absl::StatusOr<Tuning*> TuningOf(const Readiness& readiness) {
  return TuningOrOff(readiness.Get(), "training", "runs");
}

// Makes the operation of a request and does it; `fill` puts what it gave into the response.
template <typename Request>
grpc::ServerUnaryReactor* Do(grpc::CallbackServerContext* context, const Readiness& readiness, const Request& request,
                             const std::function<absl::StatusOr<RunOp>(const ModelFacts& model)>& translate,
                             std::function<void(const RunResult& result)> fill) {
  const absl::StatusOr<Tuning*> tuning = TuningOf(readiness);
  if (!tuning.ok()) return FinishWith(context, tuning.status());
  const absl::StatusOr<int64_t> sequence = TranslateSequence(request.sequence());
  if (!sequence.ok()) return FinishWith(context, sequence.status());
  absl::StatusOr<RunOp> op = translate((*tuning)->model());
  if (!op.ok()) return FinishWith(context, op.status());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  (*tuning)->runs()->Do(request.run_id(), *sequence, *std::move(op),
                        [reactor, fill = std::move(fill)](const absl::StatusOr<RunResult>& result) {
                          if (result.ok()) fill(*result);
                          reactor->Finish(ToGrpc(result.status()));
                        });
  return reactor;
}

RunOp OpOf(RunOpKind kind) {
  RunOp op;
  op.kind = kind;
  return op;
}

}  // namespace

grpc::ServerUnaryReactor* TrainingService::CreateRun(Context* context, const v1::CreateRunRequest* request,
                                                     v1::Run* response) {
  const absl::StatusOr<Tuning*> tuning = TuningOf(*readiness_);
  if (!tuning.ok()) return FinishWith(context, tuning.status());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto cancelled = [context] { return context->IsCancelled(); };
  const auto reply = [reactor, response](const absl::StatusOr<RunInfo>& run) {
    if (run.ok()) {
      response->set_run_id(run->id);
      response->set_last_sequence(static_cast<uint64_t>(run->last_sequence));
    }
    reactor->Finish(ToGrpc(run.status()));
  };
  const absl::Status status = (*tuning)->CreateRun(*request, cancelled, reply);
  if (!status.ok()) reactor->Finish(ToGrpc(status));
  return reactor;
}

grpc::ServerUnaryReactor* TrainingService::ForwardBackward(Context* context, const v1::ForwardBackwardRequest* request,
                                                           v1::ForwardBackwardResponse* response) {
  return Do(
      context, *readiness_, *request, [&](const ModelFacts& model) { return TranslateOp(*request, model); },
      [response](const RunResult& result) {
        response->set_loss(result.loss);
        if (result.router_loss.has_value()) response->set_aux_loss(*result.router_loss);
        for (const std::vector<float>& logprobs : result.logprobs) {
          response->add_scores()->mutable_logprobs()->Add(logprobs.begin(), logprobs.end());
        }
      });
}

grpc::ServerUnaryReactor* TrainingService::OptimStep(Context* context, const v1::OptimStepRequest* request,
                                                     v1::OptimStepResponse* response) {
  return Do(
      context, *readiness_, *request, [&](const ModelFacts& model) { return TranslateOp(*request, model); },
      [response](const RunResult& result) { response->set_grad_norm(result.grad_norm); });
}

grpc::ServerUnaryReactor* TrainingService::SaveState(Context* context, const v1::SaveStateRequest* request,
                                                     v1::SaveStateResponse* response) {
  return Do(
      context, *readiness_, *request,
      [&](const ModelFacts&) -> absl::StatusOr<RunOp> {
        if (!request->label().empty()) RETURN_IF_ERROR(CheckAdapterName(request->label()));  // the same characters
        RunOp op = OpOf(RunOpKind::kSaveState);
        op.label = request->label();
        return op;
      },
      [response](const RunResult& result) { response->set_state_id(result.id); });
}

grpc::ServerUnaryReactor* TrainingService::LoadState(Context* context, const v1::LoadStateRequest* request,
                                                     v1::Run* response) {
  return Do(
      context, *readiness_, *request,
      [&](const ModelFacts&) {
        RunOp op = OpOf(RunOpKind::kLoadState);
        op.state_id = request->state_id();
        return op;
      },
      [request, response](const RunResult&) {
        response->set_run_id(request->run_id());
        response->set_last_sequence(request->sequence());
      });
}

grpc::ServerUnaryReactor* TrainingService::SaveForSampling(Context* context, const v1::SaveForSamplingRequest* request,
                                                           v1::SaveForSamplingResponse* response) {
  return Do(
      context, *readiness_, *request,
      [&](const ModelFacts&) {
        RunOp op = OpOf(RunOpKind::kSaveForSampling);
        op.make_current = request->make_current();
        return op;
      },
      [response](const RunResult& result) { response->set_adapter(result.id); });
}

grpc::ServerUnaryReactor* TrainingService::DeleteRun(Context* context, const v1::DeleteRunRequest* request,
                                                     v1::DeleteRunResponse*) {
  const absl::StatusOr<Tuning*> tuning = TuningOf(*readiness_);
  return FinishWith(context, tuning.ok() ? (*tuning)->runs()->Delete(request->run_id()) : tuning.status());
}

grpc::ServerUnaryReactor* TrainingService::ListRuns(Context* context, const v1::ListRunsRequest*,
                                                    v1::ListRunsResponse* response) {
  const absl::StatusOr<Tuning*> tuning = TuningOf(*readiness_);
  if (!tuning.ok()) return FinishWith(context, tuning.status());
  for (const RunInfo& info : (*tuning)->runs()->List()) {
    v1::Run& run = *response->add_runs();
    run.set_run_id(info.id);
    run.set_last_sequence(static_cast<uint64_t>(info.last_sequence));
    run.set_name(info.name);
    if (!info.left.ok()) run.set_reason(info.left.ToString());
  }
  return FinishWith(context, absl::OkStatus());
}

}  // namespace lorad
