#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace lorad {

// What a written folder's configuration says, as a file for people; what is no UTF-8 is replaced.
inline std::string ConfigText(const nlohmann::ordered_json& config) {
  return config.dump(2, ' ', /*ensure_ascii=*/false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace lorad
