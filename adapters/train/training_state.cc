#include "adapters/train/training_state.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "adapters/train/tensor_file.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr const char* kStepsKey = "steps";

NamedTensors TensorsOf(const AdapterLeaves& leaves, const Optimizer& optimizer) {
  NamedTensors tensors;
  for (const NamedLeaf& leaf : leaves.Named()) tensors.emplace_back(leaf.name, leaf.tensor);
  for (const NamedLeaf& constant : leaves.Constants()) tensors.emplace_back(constant.name, constant.tensor);
  for (auto& state : optimizer.State()) tensors.push_back(std::move(state));
  return tensors;
}

}  // namespace

absl::Status SaveTrainingState(const std::string& path, const AdapterLeaves& leaves, const Optimizer& optimizer) {
  return SaveTensors(path, TensorsOf(leaves, optimizer), {{kStepsKey, absl::StrCat(optimizer.steps())}});
}

absl::Status LoadTrainingState(const std::string& path, AdapterLeaves* leaves, Optimizer* optimizer) {
  int64_t steps = 0;
  const auto check = [&](const Metadata& metadata) -> absl::Status {
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
