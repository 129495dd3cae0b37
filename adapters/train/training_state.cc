#include "adapters/train/training_state.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "adapters/train/tensor_file.h"
#include "model/base/status_macros.h"

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

absl::Status SaveTrainingState(const std::string& path, const std::string& base_digest, const AdapterLeaves& leaves,
                               const Optimizer& optimizer) {
  Metadata metadata = {{kStepsKey, absl::StrCat(optimizer.steps())}};
  if (!base_digest.empty()) metadata[kBaseKey] = base_digest;
  return SaveTensors(path, TensorsOf(leaves, optimizer), metadata);
}

absl::Status LoadTrainingState(const std::string& path, const std::string& base_digest, AdapterLeaves* leaves,
                               Optimizer* optimizer) {
  int64_t steps = 0;
  const auto check = [&](const Metadata& metadata) -> absl::Status {
    const auto base = metadata.find(kBaseKey);
    if (base != metadata.end() && !base_digest.empty() && base->second != base_digest) {
      return absl::FailedPreconditionError(absl::StrCat("base: ", base_digest, "; limit: ", base->second,
                                                        ", on which the state was trained; start with that --model"));
    }
    const auto found = metadata.find(kStepsKey);
    if (found != metadata.end() && absl::SimpleAtoi(found->second, &steps) && steps >= 0) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(path, ": metadata ", kStepsKey, ": missing or not a number"));
  };
  RETURN_IF_ERROR(LoadTensors(path, TensorsOf(*leaves, *optimizer), check));
  optimizer->set_steps(steps);
  leaves->UpdateNorms();
  return absl::OkStatus();
}

}  // namespace lorad
