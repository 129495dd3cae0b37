#include "model/padding_token.h"

#include <memory>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "model/base/file_source.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;
constexpr const char* kKey = "pad_token_id";

int64_t DefaultOf(const std::string& model_type) {
  constexpr int64_t kNone = INT64_MAX;
  if (model_type == "gemma" || model_type == "gemma2" || model_type == "gemma3_text") return 0;
  if (model_type == "opt") return 1;
  return model_type == "phi3" ? 32000 : kNone;
}

}  // namespace

absl::StatusOr<int32_t> ReadPaddingToken(const std::string& model_dir, const ModelConfig& config) {
  const std::string path = absl::StrCat(model_dir, "/config.json");
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(*LocalFiles(), path, kMaxConfigBytes));
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::DataLossError(absl::StrCat(path, ": not a JSON object; bytes: ", text.size()));
  int64_t token = DefaultOf(config.model_type);
  if (const auto given = json.find(kKey); given != json.end()) {
    if (!given->is_number_integer()) return -1;  // null
    token = given->get<int64_t>();
  }
  if (token < 0) token += config.vocab_size;
  return token >= 0 && token < config.vocab_size ? static_cast<int32_t>(token) : -1;
}

}  // namespace lorad
