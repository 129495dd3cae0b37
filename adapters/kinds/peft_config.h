#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/kinds/kind.h"

namespace lorad {

inline constexpr int64_t kMaxConfigRank = 512;
inline constexpr int64_t kMaxStoredRank = 1024;
inline constexpr size_t kMaxTrainableTokens = 1 << 20;
inline constexpr size_t kMaxInvocationTokens = 256;  // looked for in every prompt
inline constexpr size_t kMaxConfigEntries = 4096;    // of one list, or of rank_pattern or alpha_pattern

// Starts that take a pair off the base's weights, which are then part of the adapter.
enum class PeftInit : uint8_t { kKeepsBase, kPissa, kOlora };
enum class PeftBias : uint8_t { kNone, kLoraOnly, kAll };

// PEFT's LoraConfig as far as it changes an answer; every key that is not here was checked to change nothing.
struct PeftLoraConfig {
  int64_t rank = 8;
  double alpha = 8.0;
  bool use_rslora = false;
  bool use_dora = false;
  PeftInit init = PeftInit::kKeepsBase;
  bool lora_bias = false;                                     // B has a bias
  PeftBias bias = PeftBias::kNone;                            // which of the base's biases the file replaces
  std::vector<std::pair<std::string, int64_t>> rank_pattern;  // expression -> rank, in the file's order
  std::vector<std::pair<std::string, double>> alpha_pattern;

  bool all_linear = false;
  std::optional<std::string> target_regex;     // of the whole module path
  std::vector<std::string> target_names;       // whole paths or their ends
  std::vector<std::string> target_parameters;  // of weights: whole names or their ends
  std::optional<std::string> exclude_regex;
  std::vector<std::string> exclude_names;
  std::optional<std::vector<int64_t>> layers;  // only these layers; with target_names alone
  std::vector<std::string> layers_patterns;    // expressions for the path segment before the layer's number
  bool ensure_weight_tying = false;

  std::vector<int32_t> invocation_tokens;  // aLoRA: AdapterImage::invocation_tokens

  // BD-LoRA: parts of module names whose A, or B, is block-diagonal.
  std::vector<std::string> block_diagonal_a;
  std::vector<std::string> block_diagonal_b;
  int64_t blocks = 1;
  bool blocks_strict = false;  // every targeted module is named by one of the two

  std::vector<std::string> modules_to_save;  // ends of module paths
  // Module -> tokens in the file's order; "" is the embedding.
  std::vector<std::pair<std::string, std::vector<int32_t>>> trainable_tokens;

  // Whether the module is saved whole.
  bool Saves(const std::string& path) const;
  // The module's trainable tokens; nullptr: none.
  const std::vector<int32_t>* TokensOf(const std::string& path, bool is_embedding) const;
};

// Errors   Unimplemented, naming key and value, for what would change the maths; InvalidArgument for a value that
// cannot
//          be.
// Source   peft 0.21.2, tuners/lora/config.py; target_modules null means the defaults of utils/constants.py.
absl::StatusOr<PeftLoraConfig> ParsePeftLoraConfig(const AdapterConfigJson& json, const std::string& model_type);

}  // namespace lorad
