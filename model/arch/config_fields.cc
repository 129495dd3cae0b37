#include "model/arch/config_fields.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace lorad {
namespace {

const nlohmann::json& EmptyObject() {
  static const nlohmann::json empty = nlohmann::json::object();
  return empty;
}

constexpr size_t kMaxShownBytes = 120;

}  // namespace

ConfigFields::ConfigFields(const nlohmann::json& json, std::string where) : json_(&json), where_(std::move(where)) {}

const nlohmann::json* ConfigFields::Find(const char* key) const {
  const auto it = json_->find(key);
  return it == json_->end() || it->is_null() ? nullptr : &*it;
}

bool ConfigFields::Has(const char* key) const { return Find(key) != nullptr; }

std::string ConfigFields::Describe(const char* key) const {
  const nlohmann::json* value = Find(key);
  std::string shown = value == nullptr
                          ? "absent"
                          : value->dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
  if (shown.size() > kMaxShownBytes) shown = absl::StrCat(shown.substr(0, kMaxShownBytes), "…");
  return absl::StrCat(where_, ": ", key, ": ", shown);
}

void ConfigFields::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

void ConfigFields::Wrong(const char* key, absl::string_view expected) {
  Fail(absl::InvalidArgumentError(absl::StrCat(Describe(key), "; expected: ", expected)));
}

void ConfigFields::Refuse(const char* key, absl::string_view why) {
  Fail(absl::UnimplementedError(absl::StrCat(Describe(key), "; not supported: ", why)));
}

int64_t ConfigFields::Int(const char* key, int64_t lowest, int64_t highest, int64_t absent) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return absent;
  const bool fits = value->is_number_integer() &&
                    !(value->is_number_unsigned() &&
                      value->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
  if (!fits || value->get<int64_t>() < lowest || value->get<int64_t>() > highest) {
    Wrong(key, absl::StrCat("an integer from ", lowest, " to ", highest));
    return absent;
  }
  return value->get<int64_t>();
}

int64_t ConfigFields::RequiredInt(const char* key, int64_t lowest, int64_t highest) {
  if (!Has(key)) Wrong(key, absl::StrCat("an integer from ", lowest, " to ", highest));
  return Int(key, lowest, highest, lowest);
}

double ConfigFields::Number(const char* key, double lowest, double highest, double absent) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return absent;
  const double number = value->is_number() ? value->get<double>() : std::nan("");
  if (!(number >= lowest && number <= highest)) {
    Wrong(key, absl::StrCat("a number from ", lowest, " to ", highest));
    return absent;
  }
  return number;
}

double ConfigFields::RequiredNumber(const char* key, double lowest, double highest) {
  if (!Has(key)) Wrong(key, absl::StrCat("a number from ", lowest, " to ", highest));
  return Number(key, lowest, highest, lowest);
}

std::vector<double> ConfigFields::Numbers(const char* key, double lowest, double highest, int64_t count) {
  const nlohmann::json* value = Find(key);
  std::vector<double> numbers;
  if (value != nullptr && value->is_array()) {
    for (const nlohmann::json& item : *value) {
      const double number = item.is_number() ? item.get<double>() : std::nan("");
      if (number >= lowest && number <= highest) numbers.push_back(number);
    }
  }
  if (static_cast<int64_t>(numbers.size()) != count || value->size() != numbers.size()) {
    Wrong(key, absl::StrCat("a list of ", count, " numbers from ", lowest, " to ", highest));
    return std::vector<double>(static_cast<size_t>(count), lowest);
  }
  return numbers;
}

bool ConfigFields::Bool(const char* key, bool absent) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) {
    Wrong(key, "true or false");
    return absent;
  }
  return value->get<bool>();
}

std::string ConfigFields::String(const char* key, absl::string_view absent) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return std::string(absent);
  if (!value->is_string()) {
    Wrong(key, "a string");
    return std::string(absent);
  }
  return value->get<std::string>();
}

std::vector<std::string> ConfigFields::Strings(const char* key) {
  std::vector<std::string> strings;
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return strings;
  if (!value->is_array()) {
    Wrong(key, "a list of strings");
    return strings;
  }
  for (const nlohmann::json& item : *value) {
    if (!item.is_string()) {
      Wrong(key, "a list of strings");
      return {};
    }
    strings.push_back(item.get<std::string>());
  }
  return strings;
}

std::vector<int32_t> ConfigFields::Ints(const char* key, int32_t highest) {
  std::vector<int32_t> numbers;
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return numbers;
  const auto wrong = [&] { Wrong(key, absl::StrCat("a list of integers from 0 to ", highest)); };
  if (!value->is_array()) {
    wrong();
    return numbers;
  }
  for (const nlohmann::json& item : *value) {
    if (!item.is_number_integer() || item < 0 || item > highest) {
      wrong();
      return {};
    }
    numbers.push_back(item.get<int32_t>());
  }
  return numbers;
}

std::vector<int32_t> ConfigFields::Ids(const char* key, int64_t vocab_size) {
  std::vector<int32_t> ids;
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return ids;
  const auto add = [&](const nlohmann::json& item) {
    if (!item.is_number_integer() || item < 0 || item >= vocab_size) {
      Wrong(key, absl::StrCat("token ids from 0 to ", vocab_size - 1));
      return;
    }
    ids.push_back(item.get<int32_t>());
  };
  if (value->is_array()) {
    for (const nlohmann::json& item : *value) add(item);
  } else {
    add(*value);
  }
  return ids;
}

ConfigFields ConfigFields::Object(const char* key) {
  const nlohmann::json* value = Find(key);
  if (value != nullptr && !value->is_object()) {
    Wrong(key, "an object");
    value = nullptr;
  }
  return ConfigFields(value == nullptr ? EmptyObject() : *value, absl::StrCat(where_, ": ", key));
}

}  // namespace lorad
