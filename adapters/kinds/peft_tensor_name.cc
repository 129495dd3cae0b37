#include "adapters/kinds/peft_tensor_name.h"

namespace lorad {
namespace {

struct Ending {
  std::string_view text;
  PeftTensor part;
};

// The longer of two that both fit comes first.
constexpr Ending kEndings[] = {
    {".lora_A.weight", PeftTensor::kLoraA},
    {".lora_A.default.weight", PeftTensor::kLoraA},
    {".lora_B.weight", PeftTensor::kLoraB},
    {".lora_B.default.weight", PeftTensor::kLoraB},
    {".lora_embedding_A", PeftTensor::kEmbeddingA},
    {".lora_embedding_A.default", PeftTensor::kEmbeddingA},
    {".lora_embedding_B", PeftTensor::kEmbeddingB},
    {".lora_embedding_B.default", PeftTensor::kEmbeddingB},
    {".lora_magnitude_vector", PeftTensor::kMagnitude},
    {".lora_magnitude_vector.weight", PeftTensor::kMagnitude},
    {".lora_magnitude_vector.default", PeftTensor::kMagnitude},
    {".lora_magnitude_vector.default.weight", PeftTensor::kMagnitude},
    {".lora_B.bias", PeftTensor::kDeltaBias},
    {".lora_B.default.bias", PeftTensor::kDeltaBias},
    {".token_adapter.trainable_tokens_delta", PeftTensor::kTokenRows},
    {".token_adapter.trainable_tokens_delta.default", PeftTensor::kTokenRows},
    {".modules_to_save.weight", PeftTensor::kRepeated},
    {".modules_to_save.bias", PeftTensor::kRepeated},
    {".original_module.bias", PeftTensor::kRepeated},
    {".original_module.weight", PeftTensor::kOriginal},
    {".token_adapter.base_layer.bias", PeftTensor::kBias},
    {".token_adapter.base_layer.weight", PeftTensor::kTable},
    {".base_layer.bias", PeftTensor::kBias},
    {".bias", PeftTensor::kBias},
    {".base_layer.weight", PeftTensor::kTable},
    {".weight", PeftTensor::kTable},
};

constexpr std::string_view kPrefix = "base_model.model.";

}  // namespace

std::optional<PeftTensorName> ParsePeftTensorName(std::string_view name) {
  if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
  for (const Ending& ending : kEndings) {
    if (!name.ends_with(ending.text)) continue;
    name.remove_suffix(ending.text.size());
    return PeftTensorName{.path = std::string(name), .part = ending.part};
  }
  return std::nullopt;
}

}  // namespace lorad
