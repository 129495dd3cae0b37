#include "adapters/kinds/config_keys.h"

#include "absl/strings/str_cat.h"
#include "model/safetensors.h"

namespace lorad {

const AdapterConfigJson* FindSet(const AdapterConfigJson& config, absl::string_view key) {
  const auto found = config.find(std::string(key));
  return found == config.end() || found->is_null() ? nullptr : &*found;
}

bool IsOff(const AdapterConfigJson& value) {
  if (value.is_null()) return true;
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_string()) return value.get_ref<const std::string&>().empty();
  return value.is_structured() && value.empty();
}

absl::StatusOr<bool> ReadFlag(const AdapterConfigJson& config, absl::string_view key) {
  const AdapterConfigJson* value = FindSet(config, key);
  if (value == nullptr) return false;
  if (!value->is_boolean()) return InvalidKey(key, *value, "must be true or false");
  return value->get<bool>();
}

std::string SaidOfKey(absl::string_view key, const AdapterConfigJson& value) {
  return absl::StrCat("adapter_config.json: ", key, ": ",
                      Printable(value.dump(-1, ' ', false, AdapterConfigJson::error_handler_t::replace)), "; ");
}

absl::Status InvalidKey(absl::string_view key, const AdapterConfigJson& value, absl::string_view rule) {
  return absl::InvalidArgumentError(absl::StrCat(SaidOfKey(key, value), rule));
}

absl::Status UnsupportedKey(absl::string_view key, const AdapterConfigJson& value, absl::string_view why) {
  return absl::UnimplementedError(absl::StrCat(SaidOfKey(key, value), "not supported yet: ", why));
}

}  // namespace lorad
