#include "server/tuning/run_translate.h"

#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "adapters/names.h"
#include "model/base/status_macros.h"
#include "server/tuning/field_limits.h"
#include "server/tuning/tuning_spec.h"

namespace lorad {
namespace {

constexpr int64_t kMaxRowsOfACall = 1 << 20;
constexpr double kMaxRouterLossWeight = 1e3;
// Exact in a client whose numbers are doubles, too; what is counted on from it stays far from overflowing.
constexpr uint64_t kMaxSequence = uint64_t{1} << 53;

absl::StatusOr<LossKind> KindOf(const std::string& name) {
  if (name.empty() || name == "cross_entropy") return LossKind::kCrossEntropy;
  if (name == "importance_sampling") return LossKind::kImportanceSampling;
  if (name == "ppo") return LossKind::kPpo;
  return Limit("loss", name.substr(0, 40), "cross_entropy, importance_sampling, ppo");
}

absl::Status TranslateOptions(const v1::ForwardBackwardRequest& request, RunOp* op) {
  RowLoss* const loss = &op->loss;
  for (const auto& [name, value] : request.loss_options()) {
    const bool of_ppo = loss->kind == LossKind::kPpo;
    if (of_ppo && name == "clip_low_threshold") {
      loss->clip_low = value;
    } else if (of_ppo && name == "clip_high_threshold") {
      loss->clip_high = value;
    } else if (name == "router_loss_weight") {
      if (!(value >= 0 && value <= kMaxRouterLossWeight)) {
        return Limit("loss_options.router_loss_weight", absl::StrCat(value),
                     absl::StrCat("0 to ", kMaxRouterLossWeight));
      }
      op->router_loss_weight = value;
    } else {
      return Limit("loss_options", name.substr(0, 40),
                   of_ppo ? "clip_low_threshold, clip_high_threshold, router_loss_weight" : "router_loss_weight");
    }
  }
  if (loss->clip_low >= 0 && loss->clip_low <= loss->clip_high && std::isfinite(loss->clip_high)) {
    return absl::OkStatus();
  }
  return Limit("loss_options", absl::StrCat(loss->clip_low, " to ", loss->clip_high), "0 <= low <= high");
}

// One number for each token, or `required` none at all.
absl::Status AppendRows(const std::string& field, const google::protobuf::RepeatedField<float>& values, int tokens,
                        bool required, float otherwise, std::vector<float>* rows) {
  if (values.empty() && !required) {
    rows->insert(rows->end(), static_cast<size_t>(tokens), otherwise);
    return absl::OkStatus();
  }
  if (values.size() != tokens) {
    return Limit(field, absl::StrCat(values.size(), " numbers"), absl::StrCat(tokens, ", one for each of token_ids"));
  }
  for (const float value : values) {
    if (!std::isfinite(value)) return Limit(field, absl::StrCat(value), "finite numbers");
    rows->push_back(value);
  }
  return absl::OkStatus();
}

absl::Status AppendIds(const std::string& field, const google::protobuf::RepeatedField<uint32_t>& ids,
                       const ModelFacts& model, std::vector<int32_t>* to) {
  for (const uint32_t id : ids) {
    if (id >= static_cast<uint64_t>(model.vocab_size)) {
      return Limit(field, absl::StrCat(id), absl::StrCat("below ", model.vocab_size));
    }
    to->push_back(static_cast<int32_t>(id));
  }
  return absl::OkStatus();
}

absl::Status AppendDatum(const std::string& field, const v1::Datum& datum, const ModelFacts& model, RunOp* op) {
  const int tokens = datum.token_ids_size();
  if (tokens < 1 || tokens > model.max_context_tokens) {
    return Limit(field + ".token_ids", absl::StrCat(tokens, " tokens"),
                 absl::StrCat("1 to ", model.max_context_tokens));
  }
  if (datum.target_ids_size() != tokens) {
    return Limit(field + ".target_ids", absl::StrCat(datum.target_ids_size(), " tokens"),
                 absl::StrCat(tokens, ", one for each of token_ids: what follows it"));
  }
  TrainSequence sequence;
  RETURN_IF_ERROR(AppendIds(field + ".token_ids", datum.token_ids(), model, &sequence.token_ids));
  RETURN_IF_ERROR(AppendIds(field + ".target_ids", datum.target_ids(), model, &sequence.targets));
  op->sequences.push_back(std::move(sequence));
  RowLoss& loss = op->loss;
  RETURN_IF_ERROR(AppendRows(field + ".weights", datum.weights(), tokens, /*required=*/false, 1.0f, &loss.weights));
  if (loss.kind == LossKind::kCrossEntropy) {
    if (datum.advantages().empty() && datum.old_logprobs().empty()) return absl::OkStatus();
    return Limit(field + ".advantages", "with cross_entropy", "only importance_sampling and ppo have them");
  }
  RETURN_IF_ERROR(AppendRows(field + ".advantages", datum.advantages(), tokens, true, 0.0f, &loss.advantages));
  return AppendRows(field + ".old_logprobs", datum.old_logprobs(), tokens, true, 0.0f, &loss.old_logprobs);
}

// What both kinds of spec have in common is translated as a job's; the data are not looked at.
v1::FineTuneSpec AsJob() {
  v1::FineTuneSpec spec;
  spec.set_name("run");
  spec.mutable_dataset()->add_lines();
  return spec;
}

}  // namespace

absl::StatusOr<int64_t> TranslateSequence(uint64_t sequence) {
  if (sequence <= kMaxSequence) return static_cast<int64_t>(sequence);
  return Limit("sequence", absl::StrCat(sequence), absl::StrCat("up to ", kMaxSequence));
}

absl::StatusOr<TrainConfig> TranslateRun(const v1::CreateRunRequest& request, const ModelFacts& model) {
  RETURN_IF_ERROR(CheckAdapterName(request.name()));
  v1::FineTuneSpec spec = AsJob();
  *spec.mutable_adapter() = request.adapter();
  spec.set_seed(request.seed());
  ASSIGN_OR_RETURN(TuningSpec translated, TranslateSpec(spec, model));
  // What a run scores is what is served, but for dropout and noise that are asked for: no kind's own default of them.
  std::optional<RoutedTraining>& routed = translated.train.routed;
  if (routed.has_value() && !request.adapter().has_jitter_noise()) routed->jitter_noise = 0.0;
  return translated.train;
}

absl::StatusOr<RunOp> TranslateOp(const v1::ForwardBackwardRequest& request, const ModelFacts& model) {
  RunOp op;
  op.kind = RunOpKind::kForwardBackward;
  ASSIGN_OR_RETURN(op.loss.kind, KindOf(request.loss()));
  RETURN_IF_ERROR(TranslateOptions(request, &op));
  if (request.data().empty()) return Limit("data", "none", "at least one");
  int64_t rows = 0;
  for (int i = 0; i < request.data_size(); ++i) {
    RETURN_IF_ERROR(AppendDatum(absl::StrCat("data[", i, "]"), request.data(i), model, &op));
    rows += request.data(i).token_ids_size();
  }
  if (rows > kMaxRowsOfACall) return Limit("data", absl::StrCat(rows, " tokens"), absl::StrCat(kMaxRowsOfACall));
  return op;
}

absl::StatusOr<RunOp> TranslateOp(const v1::OptimStepRequest& request, const ModelFacts& model) {
  v1::FineTuneSpec spec = AsJob();
  *spec.mutable_optimizer() = request.optimizer();
  ASSIGN_OR_RETURN(const TuningSpec translated, TranslateSpec(spec, model));
  if (translated.train.optimizer.kind != OptimizerKind::kAdamW) {
    return absl::UnimplementedError("optimizer.name: sgd; not supported in a run: limit: adamw");
  }
  RunOp op;
  op.kind = RunOpKind::kOptimStep;
  op.optimizer = translated.train.optimizer;
  return op;
}

}  // namespace lorad
