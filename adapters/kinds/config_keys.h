#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "adapters/kinds/kind.h"

namespace lorad {

// What the readers of adapter_config.json share. Absent and null are the same to PEFT's dataclasses, whose defaults
// are null: such a key is not set, and FindSet null.
const AdapterConfigJson* FindSet(const AdapterConfigJson& config, absl::string_view key);
// null, false, "", [] or {}.
bool IsOff(const AdapterConfigJson& value);
absl::StatusOr<bool> ReadFlag(const AdapterConfigJson& config, absl::string_view key);  // false where it is not set

// A key as people are told of it: "adapter_config.json: r: 0; ".
std::string SaidOfKey(absl::string_view key, const AdapterConfigJson& value);
absl::Status InvalidKey(absl::string_view key, const AdapterConfigJson& value, absl::string_view rule);
// Unimplemented: the key would change the maths.
absl::Status UnsupportedKey(absl::string_view key, const AdapterConfigJson& value, absl::string_view why);

}  // namespace lorad
