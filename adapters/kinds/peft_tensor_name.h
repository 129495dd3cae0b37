#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace lorad {

enum class PeftTensor : uint8_t { kLoraA, kLoraB, kEmbeddingA, kEmbeddingB, kTable };

struct PeftTensorName {
  std::string path;  // of the module: "model.layers.0.self_attn.q_proj"
  PeftTensor part = PeftTensor::kLoraA;
};

// Takes a tensor's name in a PEFT file apart: with or without "base_model.model.", with or without the adapter's name
// ".default". kTable is a module's own weight, "….weight" or "….base_layer.weight". Nothing: a name that is none of
// these.
std::optional<PeftTensorName> ParsePeftTensorName(std::string_view name);

}  // namespace lorad
