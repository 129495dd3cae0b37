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

}  // namespace lorad::adapterctl
