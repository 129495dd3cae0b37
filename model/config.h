#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/base/dtype.h"
#include "model/rope_switch.h"
#include "model/sites.h"

namespace lorad {

enum class NormKind : uint8_t { kRms, kRmsPlusOne, kLayer };  // plus one: the weight is 1 + what is stored
// Where a layer's norms are.
enum class BlockKind : uint8_t {
  kPreNorm,   // x += attention(norm(x)), then x += ffn(norm(x))
  kPostNorm,  // x = norm(x + attention(x)), then x = norm(x + ffn(x))
  kParallel,  // x += attention(n) + ffn(n), n = norm(x)
};
enum class Activation : uint8_t {
  kSilu,
  kGeluTanh,  // HF's gelu_new and gelu_pytorch_tanh
  kGelu,      // by the error function
  kRelu,
};
std::optional<Activation> ActivationNamed(std::string_view name);  // HF's: "silu", "gelu_new", …
inline constexpr char kActivationNames[] = "silu, swish, gelu, gelu_new, gelu_pytorch_tanh and relu";
enum class RopeScaling : uint8_t { kNone, kLinear, kDynamic, kYarn, kLongRope, kLlama3 };

// HF's rotary embeddings: angles in fp32, cos and sin cast to the model's dtype, half-split rotation.
struct RopeConfig {
  double theta = 10000.0;
  int64_t rotary_dim = 0;  // of head_dim; the rest passes through
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;        // llama3
  double high_freq_factor = 4.0;       // llama3
  int64_t original_max_positions = 0;  // what the model was trained with: llama3, dynamic, yarn, longrope
  double attention_factor = 1.0;       // cos and sin are multiplied by it: yarn, longrope
  double beta_fast = 32.0;             // yarn
  double beta_slow = 1.0;              // yarn
  bool truncate = true;                // yarn
  std::vector<double> short_factors;   // [rotary_dim / 2], longrope up to original_max_positions
  std::vector<double> long_factors;    // [rotary_dim / 2], longrope beyond
};

// An FFN whose rows pass through some of many experts each.
// Source: HF Mixtral, Qwen2-MoE, Qwen3-MoE: softmax in fp32 over all experts, then the best few.
struct RoutedFfnConfig {
  int64_t experts = 0;  // 0 = no layer is routed
  int64_t experts_per_token = 0;
  int64_t intermediate_size = 0;         // of one expert
  int64_t shared_intermediate_size = 0;  // of an expert for every row, weighted by a sigmoid; 0 = there is none
  bool renormalise = true;               // the weights of a row's experts sum to 1
  std::vector<int32_t> layers;           // the routed ones, ascending; the others are dense
};

// A decoder as a row of choices; config.json's own names appear only in the readers (model/arch).
// Source: HF transformers configs, versions 4 (rope_theta, rope_scaling, torch_dtype) and 5 (rope_parameters, dtype).
struct ModelConfig {
  std::string model_type;
  std::string architecture;  // "LlamaForCausalLM"
  DType checkpoint_dtype = DType::kF32;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t embedding_size = 0;  // width of embed_tokens and lm_head; projected to hidden_size and back where it differs
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t max_context_tokens = 0;
  NormKind norm = NormKind::kRms;
  double norm_eps = 1e-6;
  bool norm_weights = true;  // false: norms have none
  bool final_norm = true;
  BlockKind block = BlockKind::kPreNorm;
  bool gated_ffn = true;  // down(act(gate(x)) * up(x)), else down(act(up(x)))
  Activation activation = Activation::kSilu;
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;  // RMS over head_dim before rope
  RoutedFfnConfig routed;
  bool tied_embeddings = false;
  bool sandwich_norms = false;           // the outputs of attention and MLP are normed too, before they are added
  bool fused_projections = false;        // q|k|v is one tensor and one site, and so is gate|up
  double embedding_scale = 1.0;          // rounded to the model's dtype
  double logit_softcap = 0.0;            // of the logits, c * tanh(s / c); 0 = none
  double attention_scale = 0.0;          // head_dim^-0.5 unless the architecture says otherwise
  double attention_softcap = 0.0;        // of the scores, c * tanh(s / c); 0 = none
  std::vector<int64_t> window_tokens;    // [num_layers]; q attends to k with q - k < window; 0 = all
  RopeConfig rope;                       // rotary_dim 0 = none
  std::optional<RopeConfig> local_rope;  // of the layers that have a window, if those have one of their own
  RopeSwitch rope_switch;
  int64_t position_offset = 0;         // of a table of learned positions: the row of position 0
  std::vector<int32_t> eos_token_ids;  // union of generation_config.json, config.json
  int32_t bos_token_id = -1;

  // generation_config.json's defaults for requests that leave them unset.
  struct GenerationDefaults {
    float temperature = 1.0f;
    float top_p = 1.0f;
    int64_t top_k = 0;
    float min_p = 0.0f;
    float repetition_penalty = 1.0f;
  } generation;
};

// Reads config.json and generation_config.json of an HF folder. Errors: NotFound without config.json; DataLoss for a
// file that is not JSON; InvalidArgument for a wrong or inconsistent value; Unimplemented, naming key and value, for an
// architecture or option not supported.
absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& model_dir);

// What adapters of this base must fit, with HF's module paths.
BaseShape BaseShapeOf(const ModelConfig& config);

}  // namespace lorad
