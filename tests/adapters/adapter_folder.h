#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/base/dtype.h"
#include "model/sites.h"

namespace lorad {

// A Llama of 2 layers, hidden 32, MLP 48, vocabulary 96, untied.
BaseShape TinyBase();

// An adapter for TinyBase: LoRA of one rank on some modules of every layer.
struct AdapterSpec {
  int64_t rank = 2;
  double alpha = 4;
  int seed = 1;
  std::vector<std::string> modules = {"q_proj", "v_proj"};
  DType dtype = DType::kF32;
  std::string more_config = "";  // further keys: ", \"use_rslora\": true"
};

// Writes `dir` as PEFT does, with weights drawn from the seed, and returns it.
std::string WriteAdapter(const std::string& dir, const AdapterSpec& spec);

}  // namespace lorad
