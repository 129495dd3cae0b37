#include "model/text/tokenizer.h"

#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "model/base/file_source.h"
#include "model/base/sha256.h"
#include "model/base/status_macros.h"
#include "model/text/bpe_files.h"
#include "model/text/huggingface_tokenizer.h"
#include "model/text/sentencepiece_tokenizer.h"
#include "model/text/tokenizer_config.h"
#include "model/text/utf8.h"

namespace lorad {
namespace {

constexpr int64_t kLimitBytes = int64_t{256} << 20;

constexpr const char* kVocabularies[] = {"tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"};
constexpr const char* kBesideVocabularies[] = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"};

absl::Status NoTokenizer(const std::string& dir) {
  return absl::NotFoundError(
      absl::StrCat("no tokenizer: ", dir, "; wanted: tokenizer.json, tokenizer.model, or vocab.json and merges.txt"));
}

absl::Status AddFile(FileSource& files, const std::string& path, Sha256* digest) {
  ASSIGN_OR_RETURN(const std::string bytes, ReadWholeFile(files, path, kLimitBytes));
  digest->Update(path.substr(path.rfind('/')));
  digest->UpdateInt(static_cast<int64_t>(bytes.size()));
  digest->Update(bytes);
  return absl::OkStatus();
}

absl::Status CheckUtf8(std::string_view text) {
  const std::optional<size_t> offset = FindInvalidUtf8(text);
  if (!offset.has_value()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("text is not UTF-8: byte offset: ", *offset, "; bytes: ", text.size()));
}

}  // namespace

struct Tokenizer::Impl {
  std::variant<HuggingFaceTokenizer, SentencePieceTokenizer> backend;
  std::optional<int32_t> bos_token_id;
  std::optional<int32_t> eos_token_id;

  template <typename Visitor>
  auto With(Visitor visitor) const {
    return std::visit(visitor, backend);
  }

  static absl::StatusOr<Impl> Of(absl::StatusOr<HuggingFaceTokenizer> opened, const TokenizerConfig& config) {
    RETURN_IF_ERROR(opened.status());
    const auto id = [&](const std::optional<std::string>& piece) {
      return piece.has_value() ? opened->PieceToId(*piece) : std::nullopt;
    };
    const std::optional<int32_t> bos = id(config.bos_token);
    const std::optional<int32_t> eos = id(config.eos_token);
    return Impl{*std::move(opened), bos, eos};
  }

  static absl::StatusOr<Impl> Read(FileSource& files, const std::string& model_dir) {
    ASSIGN_OR_RETURN(const TokenizerConfig config, ReadTokenizerConfig(files, model_dir));
    if (const std::string path = absl::StrCat(model_dir, "/tokenizer.json"); files.Exists(path)) {
      ASSIGN_OR_RETURN(const std::string json, ReadWholeFile(files, path, kLimitBytes));
      return Of(HuggingFaceTokenizer::Open(json, path, config), config);
    }
    if (const std::string path = absl::StrCat(model_dir, "/tokenizer.model"); files.Exists(path)) {
      ASSIGN_OR_RETURN(const std::string bytes, ReadWholeFile(files, path, kLimitBytes));
      ASSIGN_OR_RETURN(SentencePieceTokenizer opened, SentencePieceTokenizer::Open(bytes, path, config));
      const std::optional<int32_t> bos = opened.bos_token_id();
      const std::optional<int32_t> eos = opened.eos_token_id();
      return Impl{std::move(opened), bos, eos};
    }
    const std::string path = absl::StrCat(model_dir, "/vocab.json");
    if (files.Exists(path) && files.Exists(absl::StrCat(model_dir, "/merges.txt"))) {
      ASSIGN_OR_RETURN(const std::string json, TokenizerJsonFromBpeFiles(files, model_dir, config));
      absl::StatusOr<HuggingFaceTokenizer> opened = HuggingFaceTokenizer::Open(json, path, config);
      if (opened.ok()) RETURN_IF_ERROR(opened->AddAroundText(config, path));
      return Of(std::move(opened), config);
    }
    return NoTokenizer(model_dir);
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::string> Tokenizer::DigestOf(FileSource& files, const std::string& dir) {
  Sha256 digest;
  bool found = false;
  for (const char* name : kVocabularies) {
    const std::string path = absl::StrCat(dir, "/", name);
    if (!files.Exists(path)) continue;
    found = true;
    RETURN_IF_ERROR(AddFile(files, path, &digest));
  }
  if (!found) return NoTokenizer(dir);
  for (const char* name : kBesideVocabularies) {
    const std::string path = absl::StrCat(dir, "/", name);
    if (files.Exists(path)) RETURN_IF_ERROR(AddFile(files, path, &digest));
  }
  return digest.HexDigest();
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::Load(const std::string& model_dir) {
  return Load(*LocalFiles(), model_dir);
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::Load(FileSource& files, const std::string& dir) {
  ASSIGN_OR_RETURN(Impl impl, Impl::Read(files, dir));
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::make_unique<Impl>(std::move(impl))));
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text, bool add_special_tokens) const {
  RETURN_IF_ERROR(CheckUtf8(text));
  return impl_->With([&](const auto& backend) { return backend.Encode(text, add_special_tokens); });
}

absl::StatusOr<std::vector<TokenBegin>> Tokenizer::EncodeWithBegins(std::string_view text) const {
  RETURN_IF_ERROR(CheckUtf8(text));
  return impl_->With([&](const auto& backend) { return backend.EncodeWithBegins(text); });
}

absl::StatusOr<std::string> Tokenizer::Decode(absl::Span<const int32_t> ids, bool skip_special_tokens) const {
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size()) {
      return absl::InvalidArgumentError(absl::StrCat("token id out of range: ", id, "; limit: ", vocab_size() - 1));
    }
  }
  return impl_->With([&](const auto& backend) { return backend.Decode(ids, skip_special_tokens); });
}

int32_t Tokenizer::vocab_size() const {
  return impl_->With([](const auto& backend) { return backend.vocab_size(); });
}

std::optional<int32_t> Tokenizer::bos_token_id() const { return impl_->bos_token_id; }
std::optional<int32_t> Tokenizer::eos_token_id() const { return impl_->eos_token_id; }

bool Tokenizer::is_special(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return false;
  return impl_->With([&](const auto& backend) { return backend.is_special(id); });
}

bool Tokenizer::is_ignored(int32_t id, bool skip_special_tokens) const {
  if (id < 0 || id >= vocab_size()) return true;
  const auto* backend = std::get_if<HuggingFaceTokenizer>(&impl_->backend);
  return backend != nullptr && backend->is_ignored(id, skip_special_tokens);
}

bool Tokenizer::joins_byte_run(int32_t id) const {
  const auto* backend = std::get_if<HuggingFaceTokenizer>(&impl_->backend);
  return backend != nullptr && id >= 0 && id < vocab_size() && backend->joins_byte_run(id);
}

absl::StatusOr<std::string> Tokenizer::IdToPiece(int32_t id) const {
  if (id >= 0 && id < vocab_size()) {
    std::optional<std::string> piece = impl_->With([&](const auto& backend) { return backend.IdToPiece(id); });
    if (piece.has_value()) return *std::move(piece);
  }
  return absl::InvalidArgumentError(absl::StrCat("no such token id: ", id, "; limit: ", vocab_size() - 1));
}

std::optional<int32_t> Tokenizer::PieceToId(std::string_view piece) const {
  return impl_->With([&](const auto& backend) { return backend.PieceToId(piece); });
}

}  // namespace lorad
