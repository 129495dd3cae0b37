#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "model/config.h"

namespace lorad {

// The token of the base whose row of the embedding is for padding; -1: none. No look-up of it has a gradient. What
// config.json does not say is as the architecture's configuration has it; a number below 0 counts from the end.
//
// Source   pad_token_id of transformers 5.23's configurations, padding_idx of torch.nn.Embedding.
// Errors   of the file, as ReadModelConfig.
absl::StatusOr<int32_t> ReadPaddingToken(const std::string& model_dir, const ModelConfig& config);

}  // namespace lorad
