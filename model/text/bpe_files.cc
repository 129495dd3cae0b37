#include "model/text/bpe_files.h"

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

using Json = nlohmann::json;

constexpr int64_t kLimitBytes = int64_t{256} << 20;

// One merge a line, "left right"; a first line that begins with "#version" is not one.
absl::StatusOr<Json> ReadMerges(FileSource& files, const std::string& path) {
  ASSIGN_OR_RETURN(const std::string content, ReadWholeFile(files, path, kLimitBytes));
  Json merges = Json::array();
  int64_t line_number = 0;
  for (absl::string_view line : absl::StrSplit(content, '\n')) {
    ++line_number;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty() || (line_number == 1 && line.substr(0, 8) == "#version")) continue;
    const std::vector<std::string> pair = absl::StrSplit(line, ' ');
    if (pair.size() != 2 || pair[0].empty() || pair[1].empty()) {
      return absl::DataLossError(absl::StrCat("wrong merge: ", path, ": line ", line_number, "; wanted: two pieces"));
    }
    merges.push_back({pair[0], pair[1]});
  }
  return merges;
}

// transformers' Qwen2Tokenizer.
constexpr const char* kQwen2Split =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

Json ByteLevel(bool add_prefix_space, bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", add_prefix_space}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

}  // namespace

absl::StatusOr<std::string> TokenizerJsonFromBpeFiles(FileSource& files, const std::string& model_dir,
                                                      const TokenizerConfig& config) {
  const std::string& name = config.tokenizer_class;
  const bool qwen2 = name == "Qwen2Tokenizer";
  if (!qwen2 && !name.empty() && name != "GPT2Tokenizer") {
    return absl::UnimplementedError(absl::StrCat("tokenizer_class: ", name, " without tokenizer.json: ", model_dir,
                                                 "; supported: GPT2Tokenizer, Qwen2Tokenizer; save the tokenizer as "
                                                 "tokenizer.json with transformers"));
  }
  const std::string vocab_path = absl::StrCat(model_dir, "/vocab.json");
  ASSIGN_OR_RETURN(const std::string content, ReadWholeFile(files, vocab_path, kLimitBytes));
  Json vocab = Json::parse(content, nullptr, false);
  if (!vocab.is_object()) return absl::DataLossError(absl::StrCat("not a JSON object: ", vocab_path));
  ASSIGN_OR_RETURN(Json merges, ReadMerges(files, absl::StrCat(model_dir, "/merges.txt")));
  Json normalizer = nullptr;
  Json pre_tokenizer = ByteLevel(config.add_prefix_space, /*use_regex=*/true);
  if (qwen2) {
    normalizer = {{"type", "NFC"}};
    const Json split = {
        {"type", "Split"}, {"pattern", {{"Regex", kQwen2Split}}}, {"behavior", "Isolated"}, {"invert", false}};
    pre_tokenizer = {{"type", "Sequence"},
                     {"pretokenizers", Json::array({split, ByteLevel(config.add_prefix_space, /*use_regex=*/false)})}};
  }
  Json model = {{"type", "BPE"},
                {"dropout", nullptr},
                {"unk_token", nullptr},
                {"continuing_subword_prefix", ""},
                {"end_of_word_suffix", ""},
                {"fuse_unk", false},
                {"byte_fallback", false},
                {"vocab", std::move(vocab)},
                {"merges", std::move(merges)}};
  const Json tokenizer = {
      {"version", "1.0"},          {"truncation", nullptr},
      {"padding", nullptr},        {"added_tokens", Json::array()},
      {"normalizer", normalizer},  {"pre_tokenizer", pre_tokenizer},
      {"post_processor", nullptr}, {"decoder", ByteLevel(config.add_prefix_space, /*use_regex=*/true)},
      {"model", std::move(model)}};
  // Pieces that are not UTF-8 become U+FFFD instead of an exception.
  return tokenizer.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace lorad
