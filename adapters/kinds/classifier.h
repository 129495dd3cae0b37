#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/image.h"
#include "adapters/kinds/kind.h"
#include "adapters/kinds/peft_config.h"
#include "adapters/kinds/peft_tensors.h"
#include "model/sites.h"

namespace lorad {

// A classifier head: logits [labels] = W x of the last token's x after the final norm, W [labels, width] without bias.
// It stands in the place of the head's first rows, so that the head's own code computes it.

// Takes PEFT's module `score` or `classifier` (task_type SEQ_CLS), or MoE-PEFT's tensor `classifier`, out of the file's
// tensors and out of modules_to_save; none: nothing is taken. Errors: DataLoss for two of them; InvalidArgument for a
// shape that does not fit the base; Unimplemented for a dtype, or a base whose head is no plain product.
absl::StatusOr<std::optional<FileTensor>> TakeClassifier(const BaseShape& base, SafetensorsIndex* index,
                                                         PeftLoraConfig* config);

// Reads it into the image. Errors: Unimplemented when the adapter changes the head besides; DataLoss for NaN.
absl::Status AddClassifier(const std::string& path, const FileTensor& classifier, const BaseShape& base,
                           FileSource& files, const AdapterReadOptions& options, AdapterImage* image);

}  // namespace lorad
