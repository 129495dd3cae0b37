#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lorad/v1/adapters.pb.h"
#include "lorad/v1/inference.pb.h"

namespace lorad::adapterctl {

// The JSON forms are stable: clients/README.md has them. Keys may be added, none goes or changes its meaning.
nlohmann::ordered_json ToJson(const v1::Adapter& adapter);
nlohmann::ordered_json ToJson(const v1::TokenLogprob& token);
nlohmann::ordered_json ToJson(const v1::Usage& usage);
nlohmann::ordered_json ToJson(const v1::ModelInfo& info);
std::string NameOf(v1::AdapterState state);   // "resident"
std::string NameOf(v1::FinishReason reason);  // "stop"

void PrintJson(const nlohmann::ordered_json& value);

// Rows of cells under a header, columns as wide as their widest cell.
void PrintTable(const std::vector<std::vector<std::string>>& rows);
void PrintAdapter(const v1::Adapter& adapter, bool json);

std::string HumanBytes(uint64_t bytes);  // "1.5 MiB"

}  // namespace lorad::adapterctl
