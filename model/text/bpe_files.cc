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

}  // namespace

absl::StatusOr<std::string> TokenizerJsonFromBpeFiles(FileSource& files, const std::string& model_dir,
                                                      const TokenizerConfig& config) {
  const std::string vocab_path = absl::StrCat(model_dir, "/vocab.json");
  ASSIGN_OR_RETURN(const std::string content, ReadWholeFile(files, vocab_path, kLimitBytes));
  Json vocab = Json::parse(content, nullptr, false);
  if (!vocab.is_object()) return absl::DataLossError(absl::StrCat("not a JSON object: ", vocab_path));
  ASSIGN_OR_RETURN(Json merges, ReadMerges(files, absl::StrCat(model_dir, "/merges.txt")));
  Json byte_level = {{"type", "ByteLevel"},
                     {"add_prefix_space", config.add_prefix_space},
                     {"trim_offsets", true},
                     {"use_regex", true}};
  Json model = {{"type", "BPE"},
                {"dropout", nullptr},
                {"unk_token", nullptr},
                {"continuing_subword_prefix", ""},
                {"end_of_word_suffix", ""},
                {"fuse_unk", false},
                {"byte_fallback", false},
                {"vocab", std::move(vocab)},
                {"merges", std::move(merges)}};
  const Json tokenizer = {{"version", "1.0"},          {"truncation", nullptr},
                          {"padding", nullptr},        {"added_tokens", Json::array()},
                          {"normalizer", nullptr},     {"pre_tokenizer", byte_level},
                          {"post_processor", nullptr}, {"decoder", byte_level},
                          {"model", std::move(model)}};
  // Pieces that are not UTF-8 become U+FFFD instead of an exception.
  return tokenizer.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace lorad
