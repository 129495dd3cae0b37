#pragma once

#include <string>

#include "absl/status/status.h"
#include "adapters/train/train_config.h"
#include "lorad/v1/finetuning.pb.h"

namespace lorad {

// The kinds of AdapterSpec that deal rows to experts: mixlora, mixlora_dynamic, mixlora_switch, loramoe, mola.
bool IsRoutedKind(const std::string& kind);

// Refuses a field of routers or experts that is set with a kind that has no use for it. Errors: InvalidArgument.
absl::Status CheckRoutedFields(const v1::AdapterSpec& spec);

// Fills `train->routed` with MoE-PEFT's defaults for what is unset; rank, alpha, dropout and start are taken from
// `train`, which has them already. Errors: InvalidArgument and Unimplemented, naming the field.
absl::Status TranslateRouted(const v1::AdapterSpec& spec, TrainConfig* train);

}  // namespace lorad
