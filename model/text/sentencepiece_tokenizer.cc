#include "model/text/sentencepiece_tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/text/sentencepiece/lorad_sentencepiece.h"

namespace lorad {
namespace {

// An id beyond it is a broken file.
constexpr int32_t kMaxVocabSize = int32_t{1} << 24;

struct Free {
  void operator()(void* memory) const { lorad_sp_free(memory); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

// Finds added tokens in a text from front to back: the next one, the longest of those that begin at the same place.
// Each token is looked for in each part of the text once, so that a text full of them costs no more than another.
class AddedTokenFinder final {
 public:
  struct Found {
    size_t offset;
    size_t size_bytes;
    int32_t id;
  };

  AddedTokenFinder(const std::map<int32_t, AddedToken>& added, std::string_view text) : text_(text) {
    for (const auto& [id, token] : added) {
      next_.push_back({.offset = text.find(token.content), .content = &token.content, .id = id});
    }
  }

  // The first at `begin` or behind it; `begin` never goes back.
  std::optional<Found> Next(size_t begin) {
    const Occurrence* best = nullptr;
    for (Occurrence& next : next_) {
      if (next.offset < begin) next.offset = text_.find(*next.content, begin);
      if (next.offset == std::string_view::npos) continue;
      const bool better = best == nullptr || next.offset < best->offset ||
                          (next.offset == best->offset && next.content->size() > best->content->size());
      if (better) best = &next;
    }
    if (best == nullptr) return std::nullopt;
    return Found{best->offset, best->content->size(), best->id};
  }

 private:
  struct Occurrence {
    size_t offset;  // npos: none any more
    const std::string* content;
    int32_t id;
  };
  const std::string_view text_;
  std::vector<Occurrence> next_;
};

}  // namespace

void SentencePieceTokenizer::Close::operator()(LoradSpModel* model) const { lorad_sp_close(model); }

absl::StatusOr<SentencePieceTokenizer> SentencePieceTokenizer::Open(const std::string& bytes, const std::string& path,
                                                                    const TokenizerConfig& config) {
  LoradSpModel* model = nullptr;
  char* error = nullptr;
  if (!lorad_sp_open(bytes.data(), bytes.size(), &model, &error)) {
    const Owned<char> owned(error);
    return absl::DataLossError(absl::StrCat("not a sentencepiece model: ", path, ": ", error));
  }
  SentencePieceTokenizer tokenizer(model);
  tokenizer.piece_count_ = lorad_sp_vocab_size(model);
  tokenizer.vocab_size_ = tokenizer.piece_count_;
  if (tokenizer.piece_count_ <= 0) {
    return absl::DataLossError(absl::StrCat("not a sentencepiece model: ", path, ": its vocabulary is empty"));
  }
  RETURN_IF_ERROR(tokenizer.AddTokens(config, path));
  const auto named = [&](const std::optional<std::string>& piece, int32_t own) -> std::optional<int32_t> {
    if (piece.has_value()) return tokenizer.PieceToId(*piece);
    return own >= 0 ? std::optional<int32_t>(own) : std::nullopt;
  };
  tokenizer.bos_id_ = named(config.bos_token, lorad_sp_bos_id(model));
  tokenizer.eos_id_ = named(config.eos_token, lorad_sp_eos_id(model));
  tokenizer.add_bos_ = config.add_bos_token.value_or(true) && tokenizer.bos_id_.has_value();
  tokenizer.add_eos_ = config.add_eos_token.value_or(false) && tokenizer.eos_id_.has_value();
  return tokenizer;
}

absl::Status SentencePieceTokenizer::AddTokens(const TokenizerConfig& config, const std::string& path) {
  for (const AddedToken& token : config.added_tokens) {
    const std::optional<int32_t> known = PieceToId(token.content);
    if (known.has_value() && known == token.id) continue;
    const int32_t id = token.id.value_or(vocab_size_);
    if (id < piece_count_ || id >= kMaxVocabSize || known.has_value()) {
      return absl::DataLossError(absl::StrCat("added token in a wrong place: ", path, ": ", token.content, "; id: ", id,
                                              "; allowed: ", piece_count_, " to ", kMaxVocabSize - 1));
    }
    added_.emplace(id, token);
    vocab_size_ = std::max(vocab_size_, id + 1);
  }
  return absl::OkStatus();
}

absl::Status SentencePieceTokenizer::EncodePart(std::string_view part, size_t offset,
                                                std::vector<TokenBegin>* tokens) const {
  LoradSpToken* encoded = nullptr;
  size_t count = 0;
  char* error = nullptr;
  if (!lorad_sp_encode(model_.get(), part.data(), part.size(), &encoded, &count, &error)) {
    const Owned<char> owned(error);
    return absl::InvalidArgumentError(absl::StrCat("text cannot be tokenized: ", error));
  }
  const Owned<LoradSpToken> owned(encoded);
  for (size_t i = 0; i < count; ++i) tokens->push_back({encoded[i].id, offset + encoded[i].begin});
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> SentencePieceTokenizer::Encode(std::string_view text,
                                                                    bool add_special_tokens) const {
  ASSIGN_OR_RETURN(const std::vector<TokenBegin> tokens, EncodeWithBegins(text));
  std::vector<int32_t> ids;
  ids.reserve(tokens.size() + 2);
  if (add_special_tokens && add_bos_) ids.push_back(*bos_id_);
  for (const TokenBegin& token : tokens) ids.push_back(token.id);
  if (add_special_tokens && add_eos_) ids.push_back(*eos_id_);
  return ids;
}

absl::StatusOr<std::vector<TokenBegin>> SentencePieceTokenizer::EncodeWithBegins(std::string_view text) const {
  std::vector<TokenBegin> tokens;
  AddedTokenFinder finder(added_, text);
  size_t begin = 0;
  while (true) {
    const std::optional<AddedTokenFinder::Found> found = finder.Next(begin);
    const size_t end = found.has_value() ? found->offset : text.size();
    if (end > begin || text.empty()) RETURN_IF_ERROR(EncodePart(text.substr(begin, end - begin), begin, &tokens));
    if (!found.has_value()) break;
    tokens.push_back({found->id, end});
    begin = end + found->size_bytes;
  }
  return tokens;
}

absl::Status SentencePieceTokenizer::DecodePart(absl::Span<const int32_t> ids, std::string* text) const {
  char* decoded = nullptr;
  size_t size_bytes = 0;
  char* error = nullptr;
  if (!lorad_sp_decode(model_.get(), ids.data(), ids.size(), &decoded, &size_bytes, &error)) {
    const Owned<char> owned(error);
    return absl::InternalError(absl::StrCat("ids cannot be decoded: ", error));
  }
  const Owned<char> owned(decoded);
  text->append(decoded, size_bytes);
  return absl::OkStatus();
}

absl::StatusOr<std::string> SentencePieceTokenizer::Decode(absl::Span<const int32_t> ids,
                                                           bool skip_special_tokens) const {
  std::string text;
  size_t part_begin = 0;
  for (size_t i = 0; i <= ids.size(); ++i) {
    if (i < ids.size() && ids[i] < piece_count_) continue;
    if (i > part_begin) RETURN_IF_ERROR(DecodePart(ids.subspan(part_begin, i - part_begin), &text));
    part_begin = i + 1;
    if (i == ids.size()) break;
    const auto added = added_.find(ids[i]);
    if (added == added_.end() || (skip_special_tokens && added->second.special)) continue;
    text.append(added->second.content);
  }
  return text;
}

bool SentencePieceTokenizer::is_special(int32_t id) const {
  if (id < piece_count_) return lorad_sp_kind(model_.get(), id) == kLoradSpControl;
  const auto added = added_.find(id);
  return added != added_.end() && added->second.special;
}

std::optional<std::string> SentencePieceTokenizer::IdToPiece(int32_t id) const {
  if (id < piece_count_) {
    size_t size_bytes = 0;
    const char* piece = lorad_sp_id_to_piece(model_.get(), id, &size_bytes);
    return std::string(piece, size_bytes);
  }
  const auto added = added_.find(id);
  return added == added_.end() ? std::nullopt : std::optional<std::string>(added->second.content);
}

std::optional<int32_t> SentencePieceTokenizer::PieceToId(std::string_view piece) const {
  const int32_t id = lorad_sp_piece_to_id(model_.get(), piece.data(), piece.size());
  if (id >= 0) return id;
  for (const auto& [added_id, token] : added_) {
    if (token.content == piece) return added_id;
  }
  return std::nullopt;
}

}  // namespace lorad
