#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "lorad/v1/finetuning.pb.h"

namespace lorad::adapterctl {

nlohmann::ordered_json ToJson(const v1::Job& job);
nlohmann::ordered_json ToJson(const v1::JobEvent& event);
std::string NameOf(v1::JobState state);  // "running"
bool IsFinished(v1::JobState state);

void PrintJob(const v1::Job& job, bool json);

// Losses as a line of block characters, lowest to highest, the newest at the right; at most `columns` of them, each the
// mean of its share.
std::string LossCurve(const std::vector<double>& losses, size_t columns);
// "[#####-----]"
std::string ProgressBar(uint32_t done, uint32_t total, size_t columns);

}  // namespace lorad::adapterctl
