#include "clients/adapterctl/train/spec_file.h"

#include <google/protobuf/util/json_util.h>
#include <yaml-cpp/yaml.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

namespace lorad::adapterctl {
namespace {

constexpr int kMaxDepth = 32;  // an alias may hold itself

// A plain word is what YAML 1.2's core schema makes of it, a quoted one is a text.
nlohmann::ordered_json ScalarJson(const YAML::Node& node) {
  const std::string& text = node.Scalar();
  const bool quoted = node.Tag() == "!";
  if (quoted) return text;
  if (text == "true" || text == "True") return true;
  if (text == "false" || text == "False") return false;
  if (int64_t integer = 0; YAML::convert<int64_t>::decode(node, integer)) return integer;
  if (double real = 0; YAML::convert<double>::decode(node, real)) return real;
  return text;
}

nlohmann::ordered_json ToJson(const YAML::Node& node, int depth = 0) {
  if (depth > kMaxDepth) throw YAML::Exception(node.Mark(), "nested too deeply");
  nlohmann::ordered_json json;
  if (node.IsMap()) {
    json = nlohmann::ordered_json::object();
    for (const auto& entry : node) json[entry.first.Scalar()] = ToJson(entry.second, depth + 1);
  } else if (node.IsSequence()) {
    json = nlohmann::ordered_json::array();
    for (const YAML::Node& value : node) json.push_back(ToJson(value, depth + 1));
  } else if (node.IsScalar()) {
    json = ScalarJson(node);
  }
  return json;
}

}  // namespace

std::string ReadSpecFile(const std::string& path, v1::FineTuneSpec* spec) {
  std::ifstream file(path);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file) return path + ": cannot be read";
  std::string json;
  try {  // The library's only way to say what is wrong.
    const YAML::Node root = YAML::Load(text);
    if (!root.IsMap()) return path + ": limit: keys of FineTuneSpec (name, adapter, dataset, …)";
    json = ToJson(root).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  } catch (const YAML::Exception& error) {
    return path + ": " + error.what();
  }
  const auto parsed = google::protobuf::util::JsonStringToMessage(json, spec);
  return parsed.ok() ? "" : path + ": " + std::string(parsed.message());
}

}  // namespace lorad::adapterctl
