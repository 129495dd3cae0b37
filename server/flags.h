#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/config.h"

namespace CLI {
class App;
}

namespace lorad {

// Flags as typed whose values have to be read before they are a configuration's; ParseConfig does.
struct RawFlags {
  std::string device = "auto";
  std::string dtype = "auto";
  std::string quantize = "none";
  std::string log_level = "info";
  std::string memory_bytes;
  std::string host_adapter_bytes;
  std::string prefix_cache = "on";
  std::string cuda_graphs = "on";
  std::string fast_forms = "on";
  std::string async_scheduling = "on";
  std::vector<std::string> adapters;
  std::vector<std::string> weights;
  double slo_first_token_seconds = 0.0;
};

// The flag whose name is nearest to `typed` ("--max-sequence", "max-sequence=3"); "": none is near.
std::string NearestFlag(const CLI::App& app, std::string_view typed);

// What stands here for a flag of vLLM's ("--enforce-eager", "--port=8000"); "": it is none that is known here.
std::string InsteadOfVllms(std::string_view typed);

// Tells `app` of every flag, in the groups of --help. Plain values go into `config`, the others into `raw`.
void DescribeFlags(CLI::App* app, ServerConfig* config, RawFlags* raw);

}  // namespace lorad
