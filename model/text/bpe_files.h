#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "model/base/file_source.h"
#include "model/text/tokenizer_config.h"

namespace lorad {

// The content of the tokenizer.json that a folder with vocab.json and merges.txt stands for: byte-level BPE as GPT-2's,
// without special tokens. DataLoss: a file that is not what its name says.
absl::StatusOr<std::string> TokenizerJsonFromBpeFiles(FileSource& files, const std::string& model_dir,
                                                      const TokenizerConfig& config);

}  // namespace lorad
