#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/text/token_begin.h"
#include "model/text/tokenizer_config.h"

struct LoradSpModel;

namespace lorad {

// A tokenizer.model: sentencepiece's own ids, and after them the tokens that other files of the folder add. An added
// token cuts the text; what lies between two is encoded and decoded by sentencepiece as a text of its own.
// Functions as Tokenizer's, where they are documented; ids must be in range.
class SentencePieceTokenizer final {
 public:
  // `bytes` is the content of a tokenizer.model. DataLoss: it is none, or a token is added at an id that is taken.
  static absl::StatusOr<SentencePieceTokenizer> Open(const std::string& bytes, const std::string& path,
                                                     const TokenizerConfig& config);

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool add_special_tokens) const;
  absl::StatusOr<std::vector<TokenBegin>> EncodeWithBegins(std::string_view text) const;
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids, bool skip_special_tokens) const;
  int32_t vocab_size() const { return vocab_size_; }
  std::optional<int32_t> bos_token_id() const { return bos_id_; }
  std::optional<int32_t> eos_token_id() const { return eos_id_; }
  bool is_special(int32_t id) const;
  std::optional<std::string> IdToPiece(int32_t id) const;
  std::optional<int32_t> PieceToId(std::string_view piece) const;

 private:
  struct Close {
    void operator()(LoradSpModel* model) const;
  };

  explicit SentencePieceTokenizer(LoradSpModel* model) : model_(model) {}
  absl::Status AddTokens(const TokenizerConfig& config, const std::string& path);
  // Appends; the part lies at `offset` of the whole text.
  absl::Status EncodePart(std::string_view part, size_t offset, std::vector<TokenBegin>* tokens) const;
  absl::Status DecodePart(absl::Span<const int32_t> ids, std::string* text) const;

  std::unique_ptr<LoradSpModel, Close> model_;
  int32_t piece_count_ = 0;              // sentencepiece's own.
  int32_t vocab_size_ = 0;               // With the added ones.
  std::map<int32_t, AddedToken> added_;  // By id, >= piece_count_.
  std::optional<int32_t> bos_id_;
  std::optional<int32_t> eos_id_;
  bool add_bos_ = false;
  bool add_eos_ = false;
};

}  // namespace lorad
