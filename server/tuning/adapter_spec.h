#pragma once

#include "absl/status/status.h"
#include "adapters/train/train_config.h"
#include "lorad/v1/finetuning.pb.h"

namespace lorad {

// The part of a FineTuneSpec that says what adapter is trained and how it begins; those with routers by routed_spec.h.
// Errors: InvalidArgument and Unimplemented, naming the field.
absl::Status TranslateAdapter(const v1::AdapterSpec& spec, TrainConfig* train);

}  // namespace lorad
