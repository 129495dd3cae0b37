#include "bench/report.h"

#include <algorithm>
#include <cstdio>

#include <nlohmann/json.hpp>

namespace lorad::bench {

Spread SpreadOf(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  return {.median = values[values.size() / 2], .least = values.front(), .most = values.back()};
}

bool Report::WriteTo(const std::string& path) {
  json_.open(path, std::ios::trunc);
  return json_.is_open();
}

void Report::Value(const std::string& what, double value, const std::string& unit) {
  std::printf("%-52s %10.3f %s\n", what.c_str(), value, unit.c_str());
  std::fflush(stdout);
  const nlohmann::json line = {{"shape", shape_}, {"what", what}, {"value", value}, {"unit", unit}};
  if (json_.is_open()) json_ << line.dump() << std::endl;  // at once: the process may be stopped
}

void Report::Value(const std::string& what, const Spread& values, const std::string& unit) {
  std::printf("%-52s %10.3f %s (%.3f to %.3f)\n", what.c_str(), values.median, unit.c_str(), values.least, values.most);
  std::fflush(stdout);
  const nlohmann::json line = {{"shape", shape_}, {"what", what},          {"value", values.median},
                               {"unit", unit},    {"least", values.least}, {"most", values.most}};
  if (json_.is_open()) json_ << line.dump() << std::endl;
}

void Report::Note(const std::string& text) {
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);
  if (json_.is_open()) json_ << nlohmann::json({{"shape", shape_}, {"note", text}}).dump() << std::endl;
}

}  // namespace lorad::bench
