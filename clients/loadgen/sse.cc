#include "clients/loadgen/sse.h"

#include <nlohmann/json.hpp>

namespace lorad {

int64_t CompletionEvents::Add(std::string_view piece) {
  rest_ += piece;
  int64_t messages = 0;
  size_t begin = 0;
  for (size_t end = 0; (end = rest_.find('\n', begin)) != std::string::npos; begin = end + 1) {
    messages += TakeLine(std::string_view(rest_).substr(begin, end - begin));
  }
  rest_.erase(0, begin);
  return messages;
}

int64_t CompletionEvents::TakeLine(std::string_view line) {
  constexpr std::string_view kData = "data: ";
  if (line.substr(0, kData.size()) != kData) return 0;
  const auto event = nlohmann::json::parse(line.substr(kData.size()), nullptr, /*allow_exceptions=*/false);
  if (!event.is_object()) return 0;  // [DONE]
  if (const auto usage = event.find("usage"); usage != event.end() && usage->is_object()) {
    usage_tokens_ = usage->value("completion_tokens", int64_t{0});
  }
  const auto choices = event.find("choices");
  if (choices == event.end() || !choices->is_array() || choices->empty()) return 0;
  const auto& choice = choices->front();
  if (const auto reason = choice.find("finish_reason"); reason != choice.end() && !reason->is_null()) finished_ = true;
  return 1;
}

}  // namespace lorad
