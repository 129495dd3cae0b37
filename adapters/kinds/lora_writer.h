#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "adapters/base_tables.h"
#include "adapters/image.h"
#include "adapters/kinds/peft_config.h"
#include "adapters/kinds/tensor_writer.h"
#include "model/base/new_folder.h"
#include "model/sites.h"

namespace lorad {

// AdapterKind::write of PEFT's LoRA, DoRA and aLoRA: adapter_model.safetensors and adapter_config.json, in the image's
// dtypes. What is resolved in the image stays resolved: modules are named by their whole paths, scales given by alpha,
// with patterns where they differ; a block-diagonal matrix has its zeros, and a PiSSA or OLoRA pair the initial one.
// Embeddings and heads that were saved whole are whole again, with the base's rows where the adapter has none. Errors:
// Unimplemented for another kind, or without the base's tables where they are needed; as FileError.
absl::Status WriteLora(const AdapterImage& image, const BaseShape& base, const BaseTables& base_tables,
                       const NewFolder& folder);

// Which of the base's biases the image replaces: all, norms' too, or those of the modules with LoRA.
PeftBias BiasesOf(const AdapterImage& image, const BaseShape& base);

// "model.layers.3.self_attn.q_proj"
std::string ModulePathOf(const SiteShape& shape, int32_t layer);

// A, B, magnitude and biases of a slot without experts, in PEFT's names.
void AddPeftTensors(const std::string& path, const ImageSlot& slot, std::vector<NamedTensor>* tensors);

}  // namespace lorad
