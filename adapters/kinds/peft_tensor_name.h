#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace lorad {

enum class PeftTensor : uint8_t {
  kLoraA,
  kLoraB,
  kEmbeddingA,
  kEmbeddingB,
  kMagnitude,  // DoRA
  kDeltaBias,  // of B (lora_bias)
  kBias,       // the module's own, replaced
  kTable,      // the module's own weight
  kTokenRows,  // rows of the module's weight (trainable_token_indices)
  kOriginal,   // the module's own weight in the base that was trained on, where modules_to_save replaces it
  kRepeated,   // the same once more, or what counts for nothing: PEFT does not read it
};

struct PeftTensorName {
  std::string path;  // of the module: "model.layers.0.self_attn.q_proj"
  PeftTensor part = PeftTensor::kLoraA;
};

// Takes a tensor's name in a PEFT file apart: with or without "base_model.model.", with or without the adapter's name
// ".default". A module's own weight or bias is named "….weight", or "….base_layer.weight" where LoRA is put on it, or
// "….token_adapter.base_layer.weight" where tokens of it are. Beside a module that is saved whole, PEFT writes
// "….modules_to_save.weight" and "….original_module.weight" when it saves the embedding layers.
// Nothing: a name that is none of these.
std::optional<PeftTensorName> ParsePeftTensorName(std::string_view name);

}  // namespace lorad
