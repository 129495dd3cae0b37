#include "adapters/train/training_state.h"

#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "adapters/train/adapter_folder.h"
#include "adapters/train/in_device_turn.h"
#include "adapters/train/tensor_file.h"
#include "model/base/status_macros.h"
#include "model/causal_lm.h"
#include "model/device_step.h"

namespace lorad {
namespace {

constexpr const char* kStepsKey = "steps";
constexpr const char* kBaseKey = "base_digest";

NamedTensors TensorsOf(const AdapterLeaves& leaves, const Optimizer& optimizer) {
  NamedTensors tensors;
  for (const NamedLeaf& leaf : leaves.Named()) tensors.emplace_back(leaf.name, leaf.tensor);
  for (const NamedLeaf& constant : leaves.Constants()) tensors.emplace_back(constant.name, constant.tensor);
  for (auto& state : optimizer.State()) tensors.push_back(std::move(state));
  return tensors;
}

}  // namespace

TrainingState::TrainingState(const TrainConfig& config, AdapterLeaves leaves)
    : config_(config), leaves_(std::move(leaves)), optimizer_(config_.optimizer, leaves_.Named()) {}

absl::StatusOr<TrainingState> TrainingState::Create(const TrainConfig& config, const CausalLm& model,
                                                    const BaseTables& base_tables, const GoOnFn& go_on) {
  ASSIGN_OR_RETURN(AdapterLeaves leaves, AdapterLeaves::Create(config, model.base_shape(), base_tables, go_on));
  RETURN_IF_ERROR(leaves.MoveToDeviceOf(model));
  std::optional<TrainingState> made;
  RETURN_IF_ERROR(InDeviceTurn(model.device(), [&]() -> absl::Status {
    made.emplace(TrainingState(config, std::move(leaves)));
    return absl::OkStatus();
  }));
  return *std::move(made);
}

absl::Status TrainingState::CopyFrom(const AdapterImage& image) { return leaves_.CopyFrom(image); }

absl::StatusOr<double> TrainingState::Step(double learning_rate) {
  return GuardedOnDevice([&]() -> absl::StatusOr<double> {
    ASSIGN_OR_RETURN(const double norm, optimizer_.Step(learning_rate));
    leaves_.UpdateNorms();
    return norm;
  });
}

absl::Status TrainingState::Save(const std::string& path) const {
  Metadata metadata = {{kStepsKey, absl::StrCat(optimizer_.steps())}};
  if (!config_.base_digest.empty()) metadata[kBaseKey] = config_.base_digest;
  return GuardedOnDevice([&] { return SaveTensors(path, TensorsOf(leaves_, optimizer_), metadata); });
}

absl::Status TrainingState::Load(const std::string& path) {
  int64_t steps = 0;
  const auto check = [&](const Metadata& metadata) -> absl::Status {
    const auto base = metadata.find(kBaseKey);
    if (base != metadata.end() && !config_.base_digest.empty() && base->second != config_.base_digest) {
      return absl::FailedPreconditionError(absl::StrCat("base: ", config_.base_digest, "; limit: ", base->second,
                                                        ", on which the state was trained; start with that --model"));
    }
    const auto found = metadata.find(kStepsKey);
    if (found != metadata.end() && absl::SimpleAtoi(found->second, &steps) && steps >= 0) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(path, ": metadata ", kStepsKey, ": missing or not a number"));
  };
  return GuardedOnDevice([&]() -> absl::Status {
    RETURN_IF_ERROR(LoadTensors(path, TensorsOf(leaves_, optimizer_), check));
    optimizer_.set_steps(steps);
    return leaves_.UpdateNormsInTurns();
  });
}

absl::Status TrainingState::SaveAdapter(const std::string& dir, const std::string& base_name,
                                        const std::map<std::string, std::string>& provenance) const {
  return GuardedOnDevice([&] { return WriteAdapterFolder(dir, config_, leaves_, base_name, provenance); });
}

}  // namespace lorad
