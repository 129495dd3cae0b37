#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/base/file_source.h"

namespace lorad {

// Rewrites an adapter's folder `from` to the new folder `to` with adapter_model.safetensors in the place of
// adapter_model.bin. Tensors keep dtype, shape and bytes; views become whole. A LoRA folder becomes one that peft
// reads: names as peft writes them, and MoE-PEFT's config in peft's keys. Other kinds keep names and config. Needs no
// base, so nothing is checked against one. Files of a tokenizer go along. Returns what a reader should know, a sentence
// each. Errors: as the readers of config and tensors; AlreadyExists; DataLoss when two tensors would get one name; as
// FileError.
absl::StatusOr<std::vector<std::string>> ConvertAdapter(const std::string& from, const std::string& to,
                                                        FileSource& files);

}  // namespace lorad
