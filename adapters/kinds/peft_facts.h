#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "adapters/kinds/peft_config.h"

namespace lorad {

// What adapter_config.json of a written PEFT folder has to say. Sorted, so that the same adapter gives the same file.
struct PeftFacts {
  std::map<std::string, int64_t> ranks;  // by module, or by parameter
  std::map<std::string, double> alphas;
  std::set<std::string> modules;
  std::set<std::string> parameters;
  std::set<std::string> saved;                         // modules_to_save
  std::map<std::string, std::vector<int32_t>> tokens;  // by module
  PeftBias bias = PeftBias::kNone;
  bool dora = false;
  bool lora_bias = false;
  bool classifies = false;
  std::vector<int32_t> invocation_tokens;  // aLoRA
};

const char* Name(PeftBias bias);  // "lora_only"

// The file's text, for peft 0.21.
std::string ConfigTextOf(const PeftFacts& facts);

}  // namespace lorad
