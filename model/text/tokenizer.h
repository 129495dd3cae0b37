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

namespace lorad {

class FileSource;

// Text to ids and back, as the model's own tokenizer does it.
//
// Files    the first of: tokenizer.json; tokenizer.model (the ids are sentencepiece's own, tokens that the other files
//          add come after them); vocab.json with merges.txt (byte-level BPE of OPT, GPT-2 and Qwen2).
//          tokenizer_config.json, special_tokens_map.json and added_tokens.json add tokens and name the special ones.
//          add_bos_token and add_eos_token count where no tokenizer.json says what is added; without them
//          tokenizer.model adds the model's bos alone.
// Shapes   ids in [0, vocab_size); the model's embedding may have more rows.
// Threads  immutable: any number of threads may call every function at once.
// Errors   Load: NotFound without tokenizer files, DataLoss for a corrupt one, naming the file; Unimplemented for a
//          tokenizer_class whose way to split a text no file says.
//          InvalidArgument: text that is not UTF-8 (its byte offset), an id out of range (its value and the limit).
class Tokenizer final {
 public:
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> Load(const std::string& model_dir);
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> Load(FileSource& files, const std::string& dir);
  // Hex SHA-256 of all files that Load would look at; equal for equal tokenizers. NotFound where it says so.
  static absl::StatusOr<std::string> DigestOf(FileSource& files, const std::string& dir);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Special tokens written in `text` become their ids, except sentencepiece's control tokens, which are text to it.
  // `add_special_tokens` adds what the model begins (and ends) every text with.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool add_special_tokens) const;

  // The ids of Encode without special tokens around the text, each with its place.
  absl::StatusOr<std::vector<TokenBegin>> EncodeWithBegins(std::string_view text) const;

  // Always valid UTF-8: bytes that are none become U+FFFD. sentencepiece never shows its control tokens.
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids, bool skip_special_tokens) const;

  // One past the largest id.
  int32_t vocab_size() const;
  std::optional<int32_t> bos_token_id() const;
  std::optional<int32_t> eos_token_id() const;

  // What Decode drops when it skips special tokens; false out of range.
  bool is_special(int32_t id) const;
  // Decode reads its ids as if this one were not among them. Not sentencepiece's control tokens: they show nothing, but
  // part the bytes of a character.
  bool is_ignored(int32_t id, bool skip_special_tokens) const;
  // Decode reads a run of such ids as one: it is text, or U+FFFD for each of them. Only the end of the run tells.
  bool joins_byte_run(int32_t id) const;

  // The vocabulary's spelling ("▁the", "Ġthe", "<0x0A>"). InvalidArgument: no such id.
  absl::StatusOr<std::string> IdToPiece(int32_t id) const;
  std::optional<int32_t> PieceToId(std::string_view piece) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace lorad
