#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lorad {

// Every place of a base model whose weight an adapter may change. An architecture maps its own module names to sites
// (BaseShape::sites); nothing else knows those names.
enum class Site : uint8_t {
  kQProj,
  kKProj,
  kVProj,
  kOProj,
  kGateProj,
  kUpProj,
  kDownProj,
  kRouter,
  kExpertGateUp,  // a stack of all experts' gate | up
  kExpertDown,
  kSharedGateProj,
  kSharedUpProj,
  kSharedDownProj,
  kSharedGate,
  kEmbedTokens,
  kLmHead,
  kProjectIn,   // between embed_tokens and the layers, where their widths differ
  kProjectOut,  // between the layers and lm_head
  kQkvProj,     // q|k|v as one module
  kGateUpProj,  // gate|up as one module
  kFfn,         // an adapter's router: which of its experts a row of the FFN goes to
  // Norms: an adapter may replace their weight and bias.
  kInputNorm,
  kPostAttentionNorm,
  kAttentionOutNorm,  // of sandwich norms: of attention's output
  kMlpOutNorm,        // of sandwich norms: of the FFN's output
  kQNorm,
  kKNorm,
  kFinalNorm,
};
inline constexpr int kNumSites = 28;
constexpr bool IsNorm(Site site) { return site >= Site::kInputNorm; }

std::string_view Name(Site site);  // "q_proj", …

// A site of one architecture.
struct SiteShape {
  Site site;
  std::string module_path;   // HF's, "{}" stands for the layer: "model.layers.{}.self_attn.q_proj", "lm_head"
  int64_t in_features = 0;   // for an embedding: the vocabulary; for a norm: 1
  int64_t out_features = 0;  // for an embedding or a norm: its width
  bool per_layer = true;
  bool has_bias = false;
  std::vector<int32_t> layers = {};  // the layers that have it; empty = every one
  int64_t experts = 1;               // of a stack [experts, out_features, in_features]
  // Of a weight that is no Linear's or Embedding's: its name in the module, by which PEFT's target_parameters find it.
  std::string parameter = {};
};

// What an adapter must fit: the base as its readers see it. Torch-free; made by the architecture's config reader.
struct BaseShape {
  std::string model_type;  // HF's: "llama", "qwen3", …
  int64_t num_layers = 0;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  bool tied_embeddings = false;
  std::vector<SiteShape> sites;

  const SiteShape* Find(Site site) const {
    for (const SiteShape& s : sites)
      if (s.site == site) return &s;
    return nullptr;
  }
};

}  // namespace lorad
