#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/kinds/kind.h"
#include "adapters/kinds/lora.h"
#include "model/base/status_macros.h"
#include "model/safetensors.h"

namespace lorad {
namespace {

constexpr const char* kConfigFile = "adapter_config.json";
constexpr int64_t kMaxConfigBytes = 16 << 20;

constexpr AdapterKind kKinds[] = {
    {.name = "lora", .recognises = &RecognisesLora, .read = &ReadLora},
};

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
                                                 "; not supported yet; supported: LORA"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(kConfigFile, ": neither peft_type nor r; is this the folder of an adapter?"));
}

}  // namespace

absl::Span<const AdapterKind> AdapterKinds() { return kKinds; }

absl::StatusOr<AdapterImage> ReadAdapter(const std::string& dir, const BaseShape& base, FileSource& files,
                                         const AdapterReadOptions& options) {
  const std::string path = absl::StrCat(dir, "/", kConfigFile);
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(files, path, kMaxConfigBytes));
  const AdapterConfigJson config = AdapterConfigJson::parse(text, nullptr, /*allow_exceptions=*/false);
  if (config.is_discarded()) return absl::DataLossError(absl::StrCat(path, ": not valid JSON"));
  if (!config.is_object()) return absl::InvalidArgumentError(absl::StrCat(path, ": must hold an object"));
  for (const AdapterKind& kind : AdapterKinds()) {
    if (kind.recognises(config)) return kind.read(dir, config, base, files, options);
  }
  return RefuseByName(config);
}

}  // namespace lorad
