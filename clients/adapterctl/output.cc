#include "clients/adapterctl/output.h"

#include <algorithm>
#include <cstdio>

namespace lorad::adapterctl {
namespace {

// Columns on a terminal that a UTF-8 text takes, near enough: its characters.
size_t Width(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

std::string RankRange(const v1::Adapter& adapter) {
  if (adapter.rank_max() == 0) return "-";
  if (adapter.rank_min() == adapter.rank_max()) return std::to_string(adapter.rank_max());
  return std::to_string(adapter.rank_min()) + "-" + std::to_string(adapter.rank_max());
}

std::string Join(const google::protobuf::RepeatedPtrField<std::string>& parts) {
  std::string joined;
  for (const std::string& part : parts) {
    if (!joined.empty()) joined += ", ";
    joined += part;
  }
  return joined;
}

// "12, 8, 9, 11 tokens; largest over mean: 1.20"
std::string TokensOfExperts(const v1::ExpertLoad& load) {
  std::string text;
  uint64_t sum = 0, largest = 0;
  for (const uint64_t tokens : load.tokens()) {
    text += (text.empty() ? "" : ", ") + std::to_string(tokens);
    sum += tokens;
    largest = std::max(largest, tokens);
  }
  text += " tokens";
  if (sum == 0) return text;
  char imbalance[64];
  const double mean = static_cast<double>(sum) / load.tokens_size();
  std::snprintf(imbalance, sizeof(imbalance), "; largest over mean: %.2f", static_cast<double>(largest) / mean);
  return text + imbalance;
}

}  // namespace

std::string NameOf(v1::AdapterState state) {
  switch (state) {
    case v1::ADAPTER_STATE_LOADING:
      return "loading";
    case v1::ADAPTER_STATE_HOST:
      return "host";
    case v1::ADAPTER_STATE_RESIDENT:
      return "resident";
    case v1::ADAPTER_STATE_DRAINING:
      return "draining";
    case v1::ADAPTER_STATE_FAILED:
      return "failed";
    default:
      return "unknown";
  }
}

std::string NameOf(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_ABORT:
      return "abort";
    default:
      return "";
  }
}

nlohmann::ordered_json ToJson(const v1::Adapter& adapter) {
  nlohmann::ordered_json json = {
      {"name", adapter.name()},
      {"path", adapter.path()},
      {"kind", adapter.kind()},
      {"state", NameOf(adapter.state())},
      {"rank_min", adapter.rank_min()},
      {"rank_max", adapter.rank_max()},
      {"bytes", adapter.bytes()},
      {"pinned", adapter.pinned()},
      {"in_host_memory", adapter.in_host_memory()},
      {"digest", adapter.digest()},
      {"targets", std::vector<std::string>(adapter.targets().begin(), adapter.targets().end())},
      {"running_requests", adapter.running_requests()},
      {"waiting_requests", adapter.waiting_requests()},
      {"warnings", std::vector<std::string>(adapter.warnings().begin(), adapter.warnings().end())},
      {"error", adapter.error()}};
  if (adapter.revisions_size() > 0) {
    json["revision"] = adapter.revision();
    json["revisions"] = std::vector<std::string>(adapter.revisions().begin(), adapter.revisions().end());
  }
  for (const v1::ExpertLoad& load : adapter.expert_load()) {
    const std::vector<uint64_t> tokens(load.tokens().begin(), load.tokens().end());
    json["expert_load"].push_back({{"layer", load.layer()}, {"tokens", tokens}});
  }
  return json;
}

nlohmann::ordered_json ToJson(const v1::TokenLogprob& token) {
  nlohmann::ordered_json top = nlohmann::ordered_json::array();
  for (const v1::TopLogprob& other : token.top()) {
    top.push_back({{"token_id", other.token_id()}, {"logprob", other.logprob()}});
  }
  nlohmann::ordered_json value = {{"token_id", token.token_id()}, {"logprob", nullptr}, {"top", top}};
  if (token.has_logprob()) value["logprob"] = token.logprob();
  return value;
}

nlohmann::ordered_json ToJson(const v1::Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens()},
          {"completion_tokens", usage.completion_tokens()},
          {"cached_tokens", usage.cached_tokens()}};
}

nlohmann::ordered_json ToJson(const v1::ModelInfo& info) {
  return {{"name", info.name()},
          {"architecture", info.architecture()},
          {"digest", info.digest()},
          {"dtype", info.dtype()},
          {"device", info.device()},
          {"max_context_tokens", info.max_context_tokens()},
          {"vocab_size", info.vocab_size()},
          {"hidden_size", info.hidden_size()},
          {"num_layers", info.num_layers()},
          {"eos_token_ids", std::vector<uint32_t>(info.eos_token_ids().begin(), info.eos_token_ids().end())},
          {"weight_bytes", info.weight_bytes()},
          {"quantization", info.quantization()},
          {"version", info.version()}};
}

void PrintJson(const nlohmann::ordered_json& value) {
  std::printf("%s\n", value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

void PrintTable(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], Width(row[i]));
  }
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line.append(widths[i] - Width(row[i]) + 2, ' ');
    }
    std::printf("%s\n", line.c_str());
  }
}

void PrintAdapter(const v1::Adapter& adapter, bool json) {
  if (json) {
    PrintJson(ToJson(adapter));
    return;
  }
  std::vector<std::vector<std::string>> rows = {
      {"name", adapter.name()},
      {"state", NameOf(adapter.state())},
      {"kind", adapter.kind()},
      {"rank", RankRange(adapter)},
      {"size", HumanBytes(adapter.bytes())},
      {"pinned", adapter.pinned() ? "yes" : "no"},
      {"kept by the host", adapter.in_host_memory() ? "yes" : "no"},
      {"running", std::to_string(adapter.running_requests())},
      {"waiting", std::to_string(adapter.waiting_requests())},
      {"targets", Join(adapter.targets())},
      {"path", adapter.path()},
      {"digest", adapter.digest()},
  };
  if (!adapter.revision().empty()) rows.push_back({"revision", adapter.revision()});
  if (adapter.revisions_size() > 0) rows.push_back({"revisions", Join(adapter.revisions())});
  for (const std::string& warning : adapter.warnings()) rows.push_back({"warning", warning});
  if (!adapter.error().empty()) rows.push_back({"error", adapter.error()});
  for (const v1::ExpertLoad& load : adapter.expert_load()) {
    rows.push_back({"experts " + std::to_string(load.layer()), TokensOfExperts(load)});
  }
  PrintTable(rows);
}

std::string HumanBytes(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof(text), unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

}  // namespace lorad::adapterctl
