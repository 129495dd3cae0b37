#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "clients/loadgen/runner.h"

namespace lorad {

// The value below which `share` (0 to 1) of the values lie, between two of them in proportion; 0 of none. Sorts.
double Quantile(std::vector<double>* values, double share);

struct ReportOptions {
  double slo_first_token_s = 6;  // S-LoRA's
  bool open_loop = false;
  double client_cpu_s = 0;  // that the load generator itself used
};

// What a run came to. Latencies are the client's: from sending to the first message with a token, and from message to
// message. Throughput counts every token that arrived while all streams were busy (closed loop), or all the while.
nlohmann::json MakeReport(const RunResult& result, const ReportOptions& options);

// A few lines for people.
std::string ToText(const nlohmann::json& report);

}  // namespace lorad
