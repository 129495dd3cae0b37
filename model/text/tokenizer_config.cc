#include "model/text/tokenizer_config.h"

#include <algorithm>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

using Json = nlohmann::json;

constexpr int64_t kLimitBytes = int64_t{64} << 20;
constexpr const char* kNamedTokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token"};

absl::Status Wrong(const std::string& path, const std::string& key, const char* wanted) {
  return absl::DataLossError(absl::StrCat("wrong value: ", path, ": ", key, "; wanted: ", wanted));
}

// An empty object if there is no such file.
absl::StatusOr<Json> ReadObject(FileSource& files, const std::string& path) {
  if (!files.Exists(path)) return Json::object();
  ASSIGN_OR_RETURN(const std::string content, ReadWholeFile(files, path, kLimitBytes));
  Json object = Json::parse(content, nullptr, false);
  if (!object.is_object()) return absl::DataLossError(absl::StrCat("not a JSON object: ", path));
  return object;
}

bool Flag(const Json& object, const char* key, bool otherwise) {
  const auto found = object.find(key);
  return found != object.end() && found->is_boolean() ? found->get<bool>() : otherwise;
}

// A token is written as its text or as an object that holds it in "content".
std::optional<AddedToken> ReadToken(const Json& value, bool special) {
  AddedToken token;
  token.special = special;
  token.normalized = !special;
  if (value.is_string()) {
    token.content = value.get<std::string>();
  } else if (value.is_object() && value.contains("content") && value["content"].is_string()) {
    token.content = value["content"].get<std::string>();
    token.single_word = Flag(value, "single_word", false);
    token.lstrip = Flag(value, "lstrip", false);
    token.rstrip = Flag(value, "rstrip", false);
    token.special = special || Flag(value, "special", false);
    token.normalized = Flag(value, "normalized", !token.special);
  }
  if (token.content.empty()) return std::nullopt;
  return token;
}

class ConfigReader final {
 public:
  explicit ConfigReader(FileSource& files) : files_(files) {}

  absl::StatusOr<TokenizerConfig> Read(const std::string& model_dir) {
    const std::string config_path = absl::StrCat(model_dir, "/tokenizer_config.json");
    ASSIGN_OR_RETURN(const Json config, ReadObject(files_, config_path));
    RETURN_IF_ERROR(ReadFlags(config_path, config));
    RETURN_IF_ERROR(ReadNamedTokens(config_path, config));
    // Newer folders say all in tokenizer_config.json; the other two files are from before it could.
    if (config.contains("added_tokens_decoder")) {
      RETURN_IF_ERROR(ReadAddedTokens(config_path, config["added_tokens_decoder"]));
    } else {
      const std::string map_path = absl::StrCat(model_dir, "/special_tokens_map.json");
      ASSIGN_OR_RETURN(const Json map, ReadObject(files_, map_path));
      RETURN_IF_ERROR(ReadNamedTokens(map_path, map));
      const std::string added_path = absl::StrCat(model_dir, "/added_tokens.json");
      ASSIGN_OR_RETURN(const Json added, ReadObject(files_, added_path));
      RETURN_IF_ERROR(ReadLegacyAddedTokens(added_path, added));
    }
    return Result();
  }

 private:
  absl::Status ReadFlags(const std::string& path, const Json& config) {
    for (const auto& [key, target] : {std::pair<const char*, std::optional<bool>*>{"add_bos_token", &add_bos_token_},
                                      {"add_eos_token", &add_eos_token_},
                                      {"add_prefix_space", &add_prefix_space_}}) {
      const auto found = config.find(key);
      if (found == config.end() || found->is_null()) continue;
      if (!found->is_boolean()) return Wrong(path, key, "true or false");
      *target = found->get<bool>();
    }
    if (const auto found = config.find("tokenizer_class"); found != config.end() && !found->is_null()) {
      if (!found->is_string()) return Wrong(path, "tokenizer_class", "a text");
      tokenizer_class_ = std::string(absl::StripSuffix(found->get<std::string>(), "Fast"));
    }
    return absl::OkStatus();
  }

  absl::Status ReadNamedTokens(const std::string& path, const Json& object) {
    for (const char* key : kNamedTokens) {
      const auto found = object.find(key);
      if (found == object.end() || found->is_null()) continue;
      std::optional<AddedToken> token = ReadToken(*found, /*special=*/true);
      if (!token.has_value()) return Wrong(path, key, "a text, or an object with content");
      named_[key] = *std::move(token);
    }
    for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
      const auto found = object.find(key);
      if (found == object.end() || found->is_null()) continue;
      if (!found->is_array() && !found->is_object()) return Wrong(path, key, "a list");
      for (const Json& value : *found) {
        std::optional<AddedToken> token = ReadToken(value, /*special=*/true);
        if (!token.has_value()) return Wrong(path, key, "a list of texts, or of objects with content");
        additional_.push_back(*std::move(token));
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadAddedTokens(const std::string& path, const Json& tokens) {
    if (!tokens.is_object()) return Wrong(path, "added_tokens_decoder", "an object");
    for (const auto& [key, value] : tokens.items()) {
      int32_t id = 0;
      std::optional<AddedToken> token = ReadToken(value, /*special=*/false);
      if (!absl::SimpleAtoi(key, &id) || id < 0 || !token.has_value()) {
        return Wrong(path, absl::StrCat("added_tokens_decoder.", key), "an id, and an object with content");
      }
      token->id = id;
      added_.push_back(*std::move(token));
    }
    return absl::OkStatus();
  }

  absl::Status ReadLegacyAddedTokens(const std::string& path, const Json& tokens) {
    for (const auto& [content, value] : tokens.items()) {
      if (content.empty()) return Wrong(path, "\"\"", "no token without text");
      if (!value.is_number_integer() || value.get<int64_t>() < 0 ||
          value.get<int64_t>() > std::numeric_limits<int32_t>::max()) {
        return Wrong(path, content, "an id");
      }
      AddedToken token;
      token.content = content;
      token.id = static_cast<int32_t>(value.get<int64_t>());
      token.special = IsNamedSpecial(content);
      token.normalized = !token.special;
      added_.push_back(std::move(token));
    }
    return absl::OkStatus();
  }

  bool IsNamedSpecial(const std::string& content) const {
    const auto same = [&](const AddedToken& token) { return token.content == content; };
    return std::any_of(named_.begin(), named_.end(), [&](const auto& entry) { return same(entry.second); }) ||
           std::any_of(additional_.begin(), additional_.end(), same);
  }

  TokenizerConfig Result() const {
    TokenizerConfig result;
    result.tokenizer_class = tokenizer_class_;
    result.add_bos_token = add_bos_token_;
    result.add_eos_token = add_eos_token_;
    result.add_prefix_space = add_prefix_space_.value_or(false);
    result.added_tokens = added_;
    std::sort(result.added_tokens.begin(), result.added_tokens.end(),
              [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
    for (AddedToken& token : result.added_tokens) token.special = token.special || IsNamedSpecial(token.content);
    for (const char* key : kNamedTokens) {
      if (const auto found = named_.find(key); found != named_.end()) result.special_tokens.push_back(found->second);
    }
    result.special_tokens.insert(result.special_tokens.end(), additional_.begin(), additional_.end());
    if (const auto bos = named_.find("bos_token"); bos != named_.end()) result.bos_token = bos->second.content;
    if (const auto eos = named_.find("eos_token"); eos != named_.end()) result.eos_token = eos->second.content;
    return result;
  }

  FileSource& files_;
  std::string tokenizer_class_;
  std::optional<bool> add_bos_token_;
  std::optional<bool> add_eos_token_;
  std::optional<bool> add_prefix_space_;
  std::map<std::string, AddedToken> named_;  // By key of kNamedTokens.
  std::vector<AddedToken> additional_;
  std::vector<AddedToken> added_;
};

}  // namespace

absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(FileSource& files, const std::string& model_dir) {
  return ConfigReader(files).Read(model_dir);
}

}  // namespace lorad
