#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/base/dtype.h"
#include "model/quantization.h"
#include "scheduler/account.h"
#include "server/log.h"

namespace lorad {

struct AdapterFlag {
  std::string name;
  std::string path;
};

enum class DeviceChoice : uint8_t { kAuto, kCpu, kCuda };
enum class DTypeChoice : uint8_t { kAuto, kFloat32, kBFloat16, kFloat16 };

// Every flag of the daemon, checked as far as that needs no model.
struct ServerConfig {
  std::string model_dir;
  std::string listen = "127.0.0.1:50051";
  std::string metrics = "127.0.0.1:9090";  // "" = no HTTP
  DeviceChoice device = DeviceChoice::kAuto;
  DTypeChoice dtype = DTypeChoice::kAuto;
  Quantization quantization = Quantization::kNone;
  std::vector<AdapterFlag> adapters;
  std::string adapter_dir;
  std::string adapter_root;
  std::optional<int64_t> memory_bytes;        // unset: as server/memory_defaults.h, once the weights are there
  std::optional<int64_t> host_adapter_bytes;  // unset: the same
  int64_t max_batch_tokens = 512;
  int64_t max_sequences = 64;
  int64_t queue_limit = 1024;
  bool prefix_cache = true;
  bool cuda_graphs = true;
  bool fast_forms = true;
  bool async_scheduling = true;
  std::string order = "fcfs";
  ServicePrices prices;
  int64_t max_running_per_adapter = 0;  // 0 = no limit
  int64_t max_waiting_per_adapter = 0;
  int64_t slo_first_token_us = 0;  // 0 = none
  int64_t threads = 1;
  int64_t drain_seconds = 25;              // Kubernetes kills after 30
  int64_t max_connection_age_seconds = 0;  // 0 = no limit
  std::string state_dir;                   // "" = no fine-tuning
  double tuning_slo = 0.2;                 // of a step's time, on average, that training may add to it
  int64_t tuning_jobs = 8;                 // that train at once
  LogLevel log_level = LogLevel::kInfo;
};

// Instead of a configuration: print `text` and end with `code` (--help, --version, a flag that is wrong).
struct ConfigExit {
  int code = 0;
  std::string text;
};

std::variant<ServerConfig, ConfigExit> ParseConfig(int argc, const char* const* argv);

// "4GiB", "512MiB", "64K", "1073741824": units of 1024, with or without "iB" or "B".
absl::StatusOr<int64_t> ParseBytes(absl::string_view text, absl::string_view flag = "--memory-bytes");

// What the computation uses on CPU: float16 checkpoints become float32 there. Errors: Unimplemented for
// --dtype=float16.
absl::StatusOr<DType> ResolveDType(DTypeChoice choice, DType checkpoint);

// True when libgomp was told how to wait, by the caller or by main; reads the environment.
bool OmpWaitPolicyIsSet();

}  // namespace lorad
