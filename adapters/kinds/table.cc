#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/kinds/kind.h"
#include "adapters/kinds/lora.h"
#include "adapters/kinds/lora_writer.h"
#include "adapters/kinds/moe_peft.h"
#include "adapters/kinds/moe_peft_writer.h"
#include "adapters/kinds/recognise_lora.h"
#include "model/base/status_macros.h"
#include "model/safetensors.h"

namespace lorad {
namespace {

constexpr const char* kConfigFile = "adapter_config.json";
constexpr int64_t kMaxConfigBytes = 1 << 20;
// What works on a parsed value goes as deep as the value does, and an object with its keys in order is searched from
// end to end for each key that is added.
constexpr int64_t kMaxNesting = 64;
constexpr int64_t kMaxKeys = 16'384;

constexpr AdapterKind kKinds[] = {
    {.name = "lora", .recognises = &RecognisesLora, .read = &ReadLora, .write = &WriteLora},
    {.name = "moe-peft-lora", .recognises = &RecognisesMoePeftLora, .read = &ReadLora, .write = &WriteMoePeftLora},
    {.name = "moe-peft", .recognises = &IsMoeConfig, .read = &ReadMoePeft, .write = &WriteMoePeft},
};

struct JsonExtent {
  int64_t nesting = 0;  // of the deepest value
  int64_t keys = 0;     // of all objects together
};

// Of valid JSON; what is not valid gets at least what its valid beginning has.
JsonExtent ExtentOf(const std::string& text) {
  JsonExtent extent;
  int64_t nesting = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string && c == '\\') {
      ++i;
    } else if (c == '"') {
      in_string = !in_string;
    } else if (!in_string) {
      if (c == '[' || c == '{') extent.nesting = std::max(extent.nesting, ++nesting);
      if (c == ']' || c == '}') --nesting;
      if (c == ':') ++extent.keys;
    }
  }
  return extent;
}

absl::StatusOr<AdapterConfigJson> ParseConfig(const std::string& path, const std::string& text) {
  const auto broken = [&] { return absl::DataLossError(absl::StrCat(path, ": not valid JSON")); };
  const auto refuse = [&](const char* what, int64_t value, int64_t limit) {
    if (!AdapterConfigJson::accept(text)) return broken();  // keeps nothing of what it reads
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", what, ": ", value, "; limit: ", limit));
  };
  const JsonExtent extent = ExtentOf(text);
  if (extent.nesting > kMaxNesting) return refuse("nesting", extent.nesting, kMaxNesting);
  if (extent.keys > kMaxKeys) return refuse("keys", extent.keys, kMaxKeys);
  AdapterConfigJson config = AdapterConfigJson::parse(text, nullptr, /*allow_exceptions=*/false);
  if (config.is_discarded()) return broken();
  return config;
}

// What a config that no kind recognises calls itself.
absl::Status RefuseByName(const AdapterConfigJson& config) {
  for (const char* key : {"routing_strategy", "peft_type"}) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null()) continue;
    if (!found->is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat(kConfigFile, ": ", key, ": ", Printable(found->dump()), "; must be a string"));
    }
    if (*found == "LORA") continue;
    return absl::UnimplementedError(absl::StrCat(kConfigFile, ": ", key, ": ",
                                                 Printable(found->get_ref<const std::string&>()),
                                                 "; not supported yet; supported: LORA, MIXLORA, LORAMOE, MOLA"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(kConfigFile, ": neither peft_type nor r; is this the folder of an adapter?"));
}

}  // namespace

absl::Span<const AdapterKind> AdapterKinds() { return kKinds; }

absl::StatusOr<AdapterConfigJson> ReadAdapterConfig(const std::string& dir, FileSource& files) {
  const std::string path = absl::StrCat(dir, "/", kConfigFile);
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(files, path, kMaxConfigBytes));
  ASSIGN_OR_RETURN(AdapterConfigJson config, ParseConfig(path, text));
  if (!config.is_object()) return absl::InvalidArgumentError(absl::StrCat(path, ": must hold an object"));
  return config;
}

absl::StatusOr<AdapterImage> ReadAdapter(const std::string& dir, const BaseShape& base, FileSource& files,
                                         const AdapterReadOptions& options) {
  ASSIGN_OR_RETURN(const AdapterConfigJson config, ReadAdapterConfig(dir, files));
  for (const AdapterKind& kind : AdapterKinds()) {
    if (!kind.recognises(config)) continue;
    ASSIGN_OR_RETURN(AdapterImage image, kind.read(dir, config, base, files, options));
    image.folder_kind = kind.name;
    return image;
  }
  return RefuseByName(config);
}

absl::Status WriteAdapter(const AdapterImage& image, const BaseShape& base, const BaseTables& base_tables,
                          const NewFolder& folder) {
  for (const AdapterKind& kind : AdapterKinds()) {
    if (image.folder_kind == kind.name) return kind.write(image, base, base_tables, folder);
  }
  return absl::UnimplementedError(absl::StrCat("adapter kind: ", image.kind, "; it came from no folder"));
}

}  // namespace lorad
