#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/arch/config_fields.h"
#include "model/config.h"

namespace lorad {

// Our names of a decoder's tensors.
enum class WeightName : uint8_t {
  kEmbedTokens,
  kProjectIn,
  kPositions,
  kInputNorm,
  kInputNormBias,
  kQProj,
  kQBias,
  kKProj,
  kKBias,
  kVProj,
  kVBias,
  kQkvProj,
  kOProj,
  kOBias,
  kQNorm,
  kKNorm,
  kAttentionOutNorm,  // of sandwich norms: of attention's output
  kPostAttentionNorm,
  kPostAttentionNormBias,
  kGateProj,
  kGateBias,
  kUpProj,
  kUpBias,
  kGateUpProj,
  kDownProj,
  kDownBias,
  kMlpOutNorm,  // of sandwich norms: of the FFN's output
  kRouter,
  kExpertGate,
  kExpertUp,
  kExpertDown,
  kSharedGateProj,
  kSharedUpProj,
  kSharedDownProj,
  kSharedGate,
  kFinalNorm,
  kFinalNormBias,
  kProjectOut,
  kLmHead,
  kLmHeadBias,
};

// One row of an architecture's table of tensors.
struct WeightRow {
  WeightName name;
  std::string stored_name;  // HF's; "{}" stands for the layer, "{expert}" for the expert
  std::vector<int64_t> shape;
  bool optional = false;             // may be absent from the checkpoint
  std::vector<int32_t> layers = {};  // the layers that have it; empty = every one
  int64_t experts = 0;               // of "{expert}"
  std::string module = {};           // HF's module, where stored_name does not tell

  bool per_layer() const { return stored_name.find("{}") != std::string::npos; }
};

// An architecture is a reader of config.json and a table of tensors. The decoder is assembled from both
// (model/causal_lm.cc): what differs in computation is an axis of ModelConfig.
struct Architecture {
  const char* name;        // in "architectures"
  const char* model_type;  // in "model_type"
  // Fills all but eos, bos and generation; leaves errors in `fields`.
  void (*read_config)(ConfigFields& fields, ModelConfig* config);
  std::vector<WeightRow> (*weights)(const ModelConfig& config);
};

}  // namespace lorad
