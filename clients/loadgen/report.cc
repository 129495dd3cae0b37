#include "clients/loadgen/report.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

namespace lorad {
namespace {

using nlohmann::json;

const char* NameOf(CallEnd end) {
  switch (end) {
    case CallEnd::kComplete:
      return "complete";
    case CallEnd::kCancelled:
      return "cancelled";
    case CallEnd::kDeadline:
      return "deadline";
    case CallEnd::kRefused:
      return "refused";
    case CallEnd::kAborted:
      return "aborted";
    case CallEnd::kBroken:
      return "broken";
  }
  return "?";
}

// Milliseconds, to a hundredth.
json Samples(const std::vector<double>& seconds) {
  json samples = json::array();
  for (const double value : seconds) samples.push_back(std::round(1e5 * value) / 100);
  return samples;
}

json Quantiles(std::vector<double>* seconds) {
  return {{"p50_ms", 1e3 * Quantile(seconds, 0.5)},
          {"p99_ms", 1e3 * Quantile(seconds, 0.99)},
          {"max_ms", 1e3 * Quantile(seconds, 1)},
          {"count", seconds->size()}};
}

}  // namespace

double Quantile(std::vector<double>* values, double share) {
  if (values->empty()) return 0;
  std::sort(values->begin(), values->end());
  const double place = share * static_cast<double>(values->size() - 1);
  const size_t below = static_cast<size_t>(std::floor(place));
  const size_t above = std::min(below + 1, values->size() - 1);
  return (*values)[below] + (place - std::floor(place)) * ((*values)[above] - (*values)[below]);
}

json MakeReport(const RunResult& result, const ReportOptions& options) {
  std::vector<double> first, gaps, whole;
  std::map<std::string, int64_t> ends, details;
  for (const CallEnd end : {CallEnd::kComplete, CallEnd::kCancelled, CallEnd::kDeadline, CallEnd::kRefused,
                            CallEnd::kAborted, CallEnd::kBroken}) {
    ends[NameOf(end)] = 0;
  }
  const double counted_s = options.open_loop ? result.seconds : result.full_seconds;
  int64_t tokens = 0, counted_tokens = 0, in_time = 0, wanted = 0;
  for (const Outcome& outcome : result.outcomes) {
    ++ends[NameOf(outcome.end)];
    if (!outcome.detail.empty() && outcome.end != CallEnd::kCancelled) ++details[outcome.detail];
    for (const Arrival& arrival : outcome.arrivals) {
      tokens += arrival.tokens;
      if (arrival.at_s <= counted_s) counted_tokens += arrival.tokens;
    }
    if (outcome.end == CallEnd::kComplete) whole.push_back(outcome.end_s - outcome.sent_s);
    const bool kept = outcome.end != CallEnd::kCancelled;  // Who cancels has no limit to be met.
    if (kept) ++wanted;
    if (outcome.arrivals.empty()) continue;
    first.push_back(outcome.arrivals.front().at_s - outcome.sent_s);
    if (kept && first.back() <= options.slo_first_token_s) ++in_time;
    for (size_t i = 1; i < outcome.arrivals.size(); ++i) {
      gaps.push_back(outcome.arrivals[i].at_s - outcome.arrivals[i - 1].at_s);
    }
  }
  json report = {
      {"requests", result.outcomes.size()},
      {"ends", ends},
      {"seconds", result.seconds},
      {"requests_per_s", static_cast<double>(whole.size()) / std::max(1e-9, result.seconds)},
      {"output_tokens", tokens},
      {"output_tokens_per_s", static_cast<double>(counted_tokens) / std::max(1e-9, counted_s)},
      {"counted_tokens", counted_tokens},
      {"counted_seconds", counted_s},
      {"first_token", Quantiles(&first)},
      {"inter_token", Quantiles(&gaps)},
      {"end_to_end", Quantiles(&whole)},
      {"samples", {{"first_token_ms", Samples(first)}, {"inter_token_ms", Samples(gaps)}}},
      {"slo_first_token_s", options.slo_first_token_s},
      {"slo_attainment", static_cast<double>(in_time) / static_cast<double>(std::max<int64_t>(1, wanted))},
      {"client_cpu_share_of_a_core", options.client_cpu_s / std::max(1e-9, result.seconds)},
  };
  // The ten commonest reasons, so that a report of a thousand refusals stays readable.
  std::vector<std::pair<int64_t, std::string>> common;
  for (const auto& [detail, count] : details) common.emplace_back(-count, detail);
  std::sort(common.begin(), common.end());
  for (size_t i = 0; i < std::min<size_t>(10, common.size()); ++i) {
    report["reasons"][common[i].second] = -common[i].first;
  }
  return report;
}

std::string ToText(const json& report) {
  std::array<char, 512> text;
  std::snprintf(
      text.data(), text.size(),
      "%lld requests in %.1f s: %.1f output tokens/s; first token p50 %.0f ms, p99 %.0f ms; inter-token p50 "
      "%.1f ms, p99 %.1f ms; %.3f within %.1f s; the client used %.3f of a core\nends: ",
      static_cast<long long>(report["requests"]), static_cast<double>(report["seconds"]),
      static_cast<double>(report["output_tokens_per_s"]), static_cast<double>(report["first_token"]["p50_ms"]),
      static_cast<double>(report["first_token"]["p99_ms"]), static_cast<double>(report["inter_token"]["p50_ms"]),
      static_cast<double>(report["inter_token"]["p99_ms"]), static_cast<double>(report["slo_attainment"]),
      static_cast<double>(report["slo_first_token_s"]), static_cast<double>(report["client_cpu_share_of_a_core"]));
  return std::string(text.data()) + report["ends"].dump() +
         (report.contains("reasons") ? "\nreasons: " + report["reasons"].dump() : "") + "\n";
}

}  // namespace lorad
