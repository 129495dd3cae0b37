#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/text/token_begin.h"
#include "model/text/tokenizer_config.h"

struct LoradTextTokenizer;

namespace lorad {

// A tokenizer.json, read by the tokenizers crate (model/text/rust). Functions as Tokenizer's, where they are
// documented; ids must be in range. `path` in messages is the file that is at fault.
class HuggingFaceTokenizer final {
 public:
  // `json` is the content of a tokenizer.json; the tokens that `config` names are added if it lacks them.
  static absl::StatusOr<HuggingFaceTokenizer> Open(const std::string& json, const std::string& path,
                                                   const TokenizerConfig& config);

  // For files that do not say themselves what begins and ends a text. DataLoss: the vocabulary lacks the token.
  absl::Status AddAroundText(const TokenizerConfig& config, const std::string& path);

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool add_special_tokens) const;
  absl::StatusOr<std::vector<TokenBegin>> EncodeWithBegins(std::string_view text) const;
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids, bool skip_special_tokens) const;
  int32_t vocab_size() const { return static_cast<int32_t>(properties_.size()); }
  bool is_special(int32_t id) const { return properties_[static_cast<size_t>(id)] & kSpecial; }
  bool is_ignored(int32_t id, bool skip_special_tokens) const {
    return properties_[static_cast<size_t>(id)] & (skip_special_tokens ? kHole | kSpecial : kHole);
  }
  bool joins_byte_run(int32_t id) const { return properties_[static_cast<size_t>(id)] & kByteRun; }
  std::optional<std::string> IdToPiece(int32_t id) const;
  std::optional<int32_t> PieceToId(std::string_view piece) const;

 private:
  static constexpr uint8_t kSpecial = 1;
  static constexpr uint8_t kByteRun = 2;
  static constexpr uint8_t kHole = 4;  // No piece has this id.

  struct Close {
    void operator()(LoradTextTokenizer* handle) const;
  };

  explicit HuggingFaceTokenizer(LoradTextTokenizer* handle) : handle_(handle) {}
  absl::Status AddTokens(const TokenizerConfig& config, const std::string& path);
  absl::Status ReadProperties(const std::string& path);

  std::unique_ptr<LoradTextTokenizer, Close> handle_;
  std::vector<uint8_t> properties_;  // [vocab_size], the flags above.
};

}  // namespace lorad
