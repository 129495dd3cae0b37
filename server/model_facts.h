#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace lorad {

// What the front end needs to know of the model, without the model.
struct ModelFacts {
  std::string name;  // the last part of its path
  std::string architecture;
  std::string digest;
  std::string dtype;
  std::string device;
  std::string quantization;  // "": none
  int64_t max_context_tokens = 0;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_layers = 0;
  int64_t weight_bytes = 0;
  std::vector<int32_t> eos_token_ids;
  int32_t padding_token = -1;  // as ReadPaddingToken
  ModelConfig::GenerationDefaults generation;
};

}  // namespace lorad
