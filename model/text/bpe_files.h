#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "model/base/file_source.h"
#include "model/text/tokenizer_config.h"

namespace lorad {

// The content of the tokenizer.json that a folder with vocab.json and merges.txt stands for, without special tokens.
// The two files do not say how a text is split: GPT-2's way (OPT, and a folder that names no class), or Qwen2's.
// DataLoss: a file that is not what its name says. Unimplemented: another tokenizer_class, which might split otherwise.
absl::StatusOr<std::string> TokenizerJsonFromBpeFiles(FileSource& files, const std::string& model_dir,
                                                      const TokenizerConfig& config);

}  // namespace lorad
