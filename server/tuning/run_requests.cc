#include "server/tuning/run_requests.h"

#include "model/base/status_macros.h"
#include "model/causal_lm.h"
#include "server/tuning/init_adapter.h"
#include "server/tuning/run_translate.h"

namespace lorad {
namespace {

absl::StatusOr<TrainConfig> ConfigOf(const std::string& stored, const ModelFacts& model) {
  v1::CreateRunRequest request;
  if (!request.ParseFromString(stored)) return absl::DataLossError("run: its stored request cannot be read");
  return TranslateRun(request, model);
}

}  // namespace

absl::StatusOr<RunBeginning> RunRequests::Begin(v1::CreateRunRequest request) const {
  RunBeginning beginning;
  ASSIGN_OR_RETURN(beginning.weights,
                   TakeInitAdapter(request.init_adapter(), *backend, *model, base_tables, request.mutable_adapter()));
  beginning.spec = request.SerializeAsString();
  return beginning;
}

absl::StatusOr<int64_t> RunRequests::StateBytes(const std::string& stored) const {
  ASSIGN_OR_RETURN(const TrainConfig config, ConfigOf(stored, backend->model));
  return StateBytesWithin(memory, config, model->base_shape());
}

absl::StatusOr<int64_t> RunRequests::MaxSequenceTokens(const std::string& stored) const {
  ASSIGN_OR_RETURN(const TrainConfig config, ConfigOf(stored, backend->model));
  return RunTokensWithin(memory.batches, config, *model);
}

absl::StatusOr<std::unique_ptr<TrainingRun>> RunRequests::Make(const std::string& stored, bool begins_from_state,
                                                               const GoOnFn& go_on) const {
  ASSIGN_OR_RETURN(TrainConfig config, ConfigOf(stored, backend->model));
  config.begins_from_state = begins_from_state;
  return TrainingRun::Create(config, model, base_tables, go_on);
}

bool BeginsFromWeights(const std::string& stored) {
  v1::CreateRunRequest request;
  return request.ParseFromString(stored) && !request.init_adapter().empty();
}

}  // namespace lorad
