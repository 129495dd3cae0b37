#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/base/file_source.h"

namespace lorad {

// A token added to a vocabulary; matched in the text before anything else is done to it.
struct AddedToken {
  std::string content;
  std::optional<int32_t> id;  // None: the next free one, or the one that the vocabulary has for `content`.
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = true;
  bool special = false;
};

// What stands beside the vocabulary: tokenizer_config.json, special_tokens_map.json, added_tokens.json.
struct TokenizerConfig {
  std::string tokenizer_class;  // Without "Fast"; empty if it is not said.
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;
  bool add_prefix_space = false;
  std::vector<AddedToken> added_tokens;    // Ascending ids.
  std::vector<AddedToken> special_tokens;  // bos, eos, unk, pad, … and the additional ones; no ids.
};

// Each of the files may be missing. DataLoss: not JSON, or a value of the wrong type, naming file and key.
absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(FileSource& files, const std::string& model_dir);

}  // namespace lorad
