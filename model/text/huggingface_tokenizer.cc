#include "model/text/huggingface_tokenizer.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/text/rust/lorad_text.h"

namespace lorad {
namespace {

using Json = nlohmann::json;

// Far above any vocabulary; an id beyond it is a broken file, and tables by id would not fit in memory.
constexpr uint32_t kMaxVocabSize = uint32_t{1} << 24;

// Owns what the crate hands out.
class Bytes final {
 public:
  Bytes() = default;
  ~Bytes() { lorad_text_bytes_free(bytes_); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  LoradTextBytes* out() { return &bytes_; }
  std::string str() const { return std::string(bytes_.data, bytes_.size_bytes); }

 private:
  LoradTextBytes bytes_ = {nullptr, 0};
};

class Ids final {
 public:
  Ids() = default;
  ~Ids() { lorad_text_ids_free(ids_); }
  Ids(const Ids&) = delete;
  Ids& operator=(const Ids&) = delete;
  LoradTextIds* out() { return &ids_; }
  std::vector<int32_t> vec() const { return std::vector<int32_t>(ids_.data, ids_.data + ids_.count); }

 private:
  LoradTextIds ids_ = {nullptr, 0};
};

absl::Status Corrupt(const std::string& path, const std::string& why) {
  return absl::DataLossError(absl::StrCat("not a tokenizer: ", path, ": ", why));
}

bool IsBytePiece(const std::string& piece) {
  const auto hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F') || (c >= 'a' && c <= 'f'); };
  return piece.size() == 6 && piece.compare(0, 3, "<0x") == 0 && hex(piece[3]) && hex(piece[4]) && piece[5] == '>';
}

}  // namespace

void HuggingFaceTokenizer::Close::operator()(LoradTextTokenizer* handle) const { lorad_text_close(handle); }

absl::StatusOr<HuggingFaceTokenizer> HuggingFaceTokenizer::Open(const std::string& json, const std::string& path,
                                                                const TokenizerConfig& config) {
  LoradTextTokenizer* handle = nullptr;
  Bytes error;
  if (lorad_text_open(json.data(), json.size(), &handle, error.out()) != kLoradTextOk) {
    return Corrupt(path, error.str());
  }
  HuggingFaceTokenizer tokenizer(handle);
  RETURN_IF_ERROR(tokenizer.AddTokens(config, path));
  RETURN_IF_ERROR(tokenizer.ReadProperties(path));
  return tokenizer;
}

absl::Status HuggingFaceTokenizer::AddTokens(const TokenizerConfig& config, const std::string& path) {
  const auto is_added = [this](const AddedToken& token) {
    const std::optional<int32_t> id = PieceToId(token.content);
    return id.has_value() && lorad_text_is_added(handle_.get(), static_cast<uint32_t>(*id));
  };
  const auto add = [this, &path](const AddedToken& token) -> absl::Status {
    const Json json = {{"content", token.content}, {"single_word", token.single_word},
                       {"lstrip", token.lstrip},   {"rstrip", token.rstrip},
                       {"special", token.special}, {"normalized", token.normalized}};
    const std::string list = Json::array({json}).dump(-1, ' ', false, Json::error_handler_t::replace);
    Bytes error;
    if (lorad_text_add_tokens(handle_.get(), list.data(), list.size(), error.out()) != kLoradTextOk) {
      return Corrupt(path, error.str());
    }
    return absl::OkStatus();
  };
  for (const AddedToken& token : config.added_tokens) {
    if (is_added(token)) continue;
    RETURN_IF_ERROR(add(token));
    const std::optional<int32_t> id = PieceToId(token.content);
    if (token.id.has_value() && id != token.id) {
      return absl::DataLossError(absl::StrCat("added token in a wrong place: ", path, ": ", token.content,
                                              "; id: ", *token.id, "; next free id: ", id.value_or(-1)));
    }
  }
  for (const AddedToken& token : config.special_tokens) {
    if (!is_added(token)) RETURN_IF_ERROR(add(token));
  }
  return absl::OkStatus();
}

absl::Status HuggingFaceTokenizer::ReadProperties(const std::string& path) {
  const uint32_t size = lorad_text_vocab_size(handle_.get());
  if (size == 0) return Corrupt(path, "its vocabulary is empty");
  if (size > kMaxVocabSize) {
    return Corrupt(path, absl::StrCat("largest id: ", size - 1, "; limit: ", kMaxVocabSize - 1));
  }
  const bool byte_fallback = lorad_text_has_byte_fallback(handle_.get());
  properties_.assign(size, 0);
  for (uint32_t id = 0; id < size; ++id) {
    if (lorad_text_is_special(handle_.get(), id)) properties_[id] |= kSpecial;
    const std::optional<std::string> piece = IdToPiece(static_cast<int32_t>(id));
    if (!piece.has_value()) properties_[id] |= kHole;
    if (byte_fallback && piece.has_value() && IsBytePiece(*piece)) properties_[id] |= kByteRun;
  }
  return absl::OkStatus();
}

absl::Status HuggingFaceTokenizer::AddAroundText(const TokenizerConfig& config, const std::string& path) {
  Json single = Json::array();
  Json tokens = Json::object();
  const auto put = [&](const std::optional<std::string>& token) -> absl::Status {
    const std::optional<int32_t> id = token.has_value() ? PieceToId(*token) : std::nullopt;
    if (!id.has_value()) {
      return absl::DataLossError(absl::StrCat("no such token: ", path, ": ", token.value_or("(no name)"),
                                              "; asked for by add_bos_token or add_eos_token"));
    }
    single.push_back({{"SpecialToken", {{"id", *token}, {"type_id", 0}}}});
    tokens[*token] = {{"id", *token}, {"ids", Json::array({*id})}, {"tokens", Json::array({*token})}};
    return absl::OkStatus();
  };
  if (config.add_bos_token.value_or(false)) RETURN_IF_ERROR(put(config.bos_token));
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  if (config.add_eos_token.value_or(false)) RETURN_IF_ERROR(put(config.eos_token));
  const Json pair = {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "B"}, {"type_id", 1}}}}};
  const Json processor = {
      {"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", tokens}};
  const std::string json = processor.dump(-1, ' ', false, Json::error_handler_t::replace);
  Bytes error;
  if (lorad_text_set_post_processor(handle_.get(), json.data(), json.size(), error.out()) != kLoradTextOk) {
    return Corrupt(path, error.str());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> HuggingFaceTokenizer::Encode(std::string_view text,
                                                                  bool add_special_tokens) const {
  Ids ids;
  Bytes error;
  if (lorad_text_encode(handle_.get(), text.data(), text.size(), add_special_tokens, ids.out(), error.out()) !=
      kLoradTextOk) {
    return absl::InvalidArgumentError(absl::StrCat("text cannot be tokenized: ", error.str()));
  }
  return ids.vec();
}

absl::StatusOr<std::vector<TokenBegin>> HuggingFaceTokenizer::EncodeWithBegins(std::string_view text) const {
  Ids ids, begins;
  Bytes error;
  if (lorad_text_encode_with_begins(handle_.get(), text.data(), text.size(), ids.out(), begins.out(), error.out()) !=
      kLoradTextOk) {
    return absl::InvalidArgumentError(absl::StrCat("text cannot be tokenized: ", error.str()));
  }
  std::vector<TokenBegin> tokens;
  const std::vector<int32_t> places = begins.vec();
  for (const int32_t id : ids.vec()) tokens.push_back({id, static_cast<size_t>(places[tokens.size()])});
  return tokens;
}

absl::StatusOr<std::string> HuggingFaceTokenizer::Decode(absl::Span<const int32_t> ids,
                                                         bool skip_special_tokens) const {
  const std::vector<uint32_t> unsigned_ids(ids.begin(), ids.end());
  Bytes text;
  Bytes error;
  if (lorad_text_decode(handle_.get(), unsigned_ids.data(), unsigned_ids.size(), skip_special_tokens, text.out(),
                        error.out()) != kLoradTextOk) {
    return absl::InternalError(absl::StrCat("ids cannot be decoded: ", error.str()));
  }
  return text.str();
}

std::optional<std::string> HuggingFaceTokenizer::IdToPiece(int32_t id) const {
  Bytes piece;
  if (!lorad_text_id_to_piece(handle_.get(), static_cast<uint32_t>(id), piece.out())) return std::nullopt;
  return piece.str();
}

std::optional<int32_t> HuggingFaceTokenizer::PieceToId(std::string_view piece) const {
  uint32_t id = 0;
  if (!lorad_text_piece_to_id(handle_.get(), piece.data(), piece.size(), &id) || id >= kMaxVocabSize) {
    return std::nullopt;
  }
  return static_cast<int32_t>(id);
}

}  // namespace lorad
