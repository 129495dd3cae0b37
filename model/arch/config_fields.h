#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace lorad {

// Typed reads from one JSON object of a config. The first error is kept and later reads go on with their defaults, so
// that a reader is a plain list of fields followed by one look at status(). A key that is null counts as absent.
//
// Errors   InvalidArgument: a missing key, a wrong type, a value out of its limits. Unimplemented: Refuse.
class ConfigFields final {
 public:
  // `where` begins every message: the file, perhaps with the key of a nested object. `json` must outlive this.
  ConfigFields(const nlohmann::json& json, std::string where);

  bool Has(const char* key) const;
  int64_t RequiredInt(const char* key, int64_t lowest, int64_t highest);
  int64_t Int(const char* key, int64_t lowest, int64_t highest, int64_t absent);
  double RequiredNumber(const char* key, double lowest, double highest);
  double Number(const char* key, double lowest, double highest, double absent);
  // Exactly `count` of them; required.
  std::vector<double> Numbers(const char* key, double lowest, double highest, int64_t count);
  bool Bool(const char* key, bool absent);
  std::string String(const char* key, absl::string_view absent);
  std::vector<std::string> Strings(const char* key);            // empty when absent
  std::vector<int32_t> Ints(const char* key, int32_t highest);  // from 0; empty when absent
  // One id or a list of them, as eos_token_id; empty when absent.
  std::vector<int32_t> Ids(const char* key, int64_t vocab_size);
  // An object, or an empty one when absent; wrapped with this one's place in messages.
  ConfigFields Object(const char* key);
  const nlohmann::json& json() const { return *json_; }

  // Unimplemented: `key` has a value that changes what the model computes and that we do not compute.
  void Refuse(const char* key, absl::string_view why);
  void Fail(absl::Status status);               // kept if it is the first
  std::string Describe(const char* key) const;  // "config.json: key: value"

  const absl::Status& status() const { return status_; }

 private:
  const nlohmann::json* Find(const char* key) const;
  void Wrong(const char* key, absl::string_view expected);

  const nlohmann::json* json_;
  std::string where_;
  absl::Status status_;
};

}  // namespace lorad
