#include "server/config.h"

#include <sched.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "adapters/names.h"
#include "model/base/arguments.h"
#include "model/base/status_macros.h"
#include "scheduler/order/order.h"
#include "server/group_limits.h"
#include "server/version.h"

namespace lorad {
namespace {

constexpr int64_t kMinMemoryBytes = int64_t{1} << 20;
constexpr int64_t kMinDefaultMemoryBytes = int64_t{64} << 20;
constexpr int64_t kMaxDefaultHostAdapterBytes = int64_t{4} << 30;
constexpr int64_t kMaxDefaultMemoryBytes = int64_t{16} << 30;

// The flags as typed; Check makes a ServerConfig of them.
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

// Whole ones: computing threads wait for each other, and one that is held back holds up all of them.
int64_t UsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  const double cores = std::min<double>(CPU_COUNT(&set), ReadGroupLimits().cores.value_or(CPU_SETSIZE));
  return std::max(int64_t{1}, static_cast<int64_t>(cores));
}

absl::Status FlagError(absl::string_view flag, absl::string_view value, absl::string_view limit,
                       absl::string_view hint) {
  return absl::InvalidArgumentError(absl::StrCat(flag, ": ", value, "; limit: ", limit, "; ", hint));
}

absl::Status CheckRange(absl::string_view flag, int64_t value, int64_t low, int64_t high, absl::string_view hint) {
  if (value >= low && value <= high) return absl::OkStatus();
  return FlagError(flag, absl::StrCat(value), absl::StrCat(low, " to ", high), hint);
}

absl::Status CheckAddress(absl::string_view flag, const std::string& address) {
  const size_t colon = address.rfind(':');
  int64_t port = -1;
  if (colon == std::string::npos || colon == 0 || !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 0 ||
      port > 65535) {
    return FlagError(flag, address, "HOST:PORT, port 0 to 65535", "0 takes a free port and prints it");
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status TakeChoice(absl::string_view flag, const std::string& value,
                        std::initializer_list<std::pair<const char*, T>> choices, absl::string_view hint, T* chosen) {
  std::vector<const char*> names;
  for (const auto& [name, choice] : choices) {
    names.push_back(name);
    if (value != name) continue;
    *chosen = choice;
    return absl::OkStatus();
  }
  return FlagError(flag, value, absl::StrJoin(names, ", "), hint);
}

absl::Status CheckChoices(const RawFlags& raw, ServerConfig* config) {
  RETURN_IF_ERROR(TakeChoice<DTypeChoice>("--dtype", raw.dtype,
                                          {{"auto", DTypeChoice::kAuto},
                                           {"float32", DTypeChoice::kFloat32},
                                           {"bfloat16", DTypeChoice::kBFloat16},
                                           {"float16", DTypeChoice::kFloat16}},
                                          "auto takes what the checkpoint has", &config->dtype));
  RETURN_IF_ERROR(TakeChoice<Quantization>("--quantize", raw.quantize,
                                           {{"none", Quantization::kNone},
                                            {"int8", Quantization::kInt8},
                                            {"int4", Quantization::kInt4},
                                            {"fp8", Quantization::kFp8}},
                                           "none computes with the checkpoint's weights", &config->quantization));
  RETURN_IF_ERROR(TakeChoice<LogLevel>("--log-level", raw.log_level,
                                       {{"debug", LogLevel::kDebug},
                                        {"info", LogLevel::kInfo},
                                        {"warning", LogLevel::kWarning},
                                        {"error", LogLevel::kError}},
                                       "info tells of starts, loads and ends", &config->log_level));
  if (raw.prefix_cache != "on" && raw.prefix_cache != "off") {
    return FlagError("--prefix-cache", raw.prefix_cache, "on, off", "off computes every prompt anew");
  }
  config->prefix_cache = raw.prefix_cache == "on";
  RETURN_IF_ERROR(TakeChoice<bool>("--cuda-graphs", raw.cuda_graphs, {{"on", true}, {"off", false}},
                                   "off launches every step anew", &config->cuda_graphs));
  RETURN_IF_ERROR(TakeChoice<bool>("--fast-forms", raw.fast_forms, {{"on", true}, {"off", false}},
                                   "off computes by our own kernels alone", &config->fast_forms));
  RETURN_IF_ERROR(TakeChoice<bool>("--async-scheduling", raw.async_scheduling, {{"on", true}, {"off", false}},
                                   "off plans a step when the one before it has ended", &config->async_scheduling));
  return TakeChoice<DeviceChoice>(
      "--device", raw.device,
      {{"auto", DeviceChoice::kAuto}, {"cpu", DeviceChoice::kCpu}, {"cuda", DeviceChoice::kCuda}},
      "auto takes the best that is there", &config->device);
}

absl::Status CheckAdapters(const RawFlags& raw, ServerConfig* config) {
  for (const std::string& text : raw.adapters) {
    const size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
      return FlagError("--adapter", text, "NAME=PATH", "for example --adapter=sql=/models/sql-lora");
    }
    AdapterFlag flag{text.substr(0, equals), text.substr(equals + 1)};
    for (const AdapterFlag& other : config->adapters) {
      if (other.name == flag.name)
        return FlagError("--adapter", flag.name, "each name once", "give the second another name");
    }
    config->adapters.push_back(std::move(flag));
  }
  return absl::OkStatus();
}

absl::Status CheckReal(absl::string_view flag, double value, double low, double high, absl::string_view hint) {
  if (value >= low && value <= high) return absl::OkStatus();  // false for NaN
  return FlagError(flag, absl::StrCat(value), absl::StrCat(low, " to ", high), hint);
}

absl::Status CheckWeights(const RawFlags& raw, ServerConfig* config) {
  for (const std::string& text : raw.weights) {
    const size_t equals = text.rfind('=');
    const std::string name = text.substr(0, equals);
    double weight = 0.0;
    if (equals == std::string::npos || !absl::SimpleAtod(text.substr(equals + 1), &weight)) {
      return FlagError("--adapter-weight", text, "NAME=WEIGHT", "for example --adapter-weight=gold=4; the rest have 1");
    }
    if (name != kBaseAccount) RETURN_IF_ERROR(CheckAdapterName(name));
    RETURN_IF_ERROR(CheckReal("--adapter-weight", weight, 1e-3, 1e6, "of twice the weight is twice the service"));
    if (!config->prices.weights.emplace(name, weight).second)
      return FlagError("--adapter-weight", name, "each name once", "leave one out");
  }
  return absl::OkStatus();
}

absl::Status CheckOrder(const RawFlags& raw, ServerConfig* config) {
  constexpr double kMostSeconds = 86'400.0;
  if (FindSequenceOrder(config->order) == nullptr) {
    std::vector<std::string> names;
    for (const SequenceOrder* order : SequenceOrders()) names.emplace_back(order->name());
    return FlagError("--order", config->order, absl::StrJoin(names, ", "), "fair_share shares among adapters");
  }
  RETURN_IF_ERROR(CheckWeights(raw, config));
  RETURN_IF_ERROR(CheckReal("--input-token-price", config->prices.input_token, 0.0, 1e6, "of a prompt's token"));
  RETURN_IF_ERROR(CheckReal("--output-token-price", config->prices.output_token, 1e-3, 1e6, "of a generated token"));
  RETURN_IF_ERROR(CheckRange("--max-running-per-adapter", config->max_running_per_adapter, 0, 65536, "0: no limit"));
  RETURN_IF_ERROR(CheckRange("--max-waiting-per-adapter", config->max_waiting_per_adapter, 0, 1 << 24, "0: no limit"));
  RETURN_IF_ERROR(CheckReal("--tuning-slo", config->tuning_slo, 0.0, 100.0, "0: training waits until serving rests"));
  RETURN_IF_ERROR(CheckRange("--tuning-jobs", config->tuning_jobs, 1, 256, "each needs memory for its optimizer"));
  RETURN_IF_ERROR(CheckReal("--slo-first-token", raw.slo_first_token_seconds, 0.0, kMostSeconds, "seconds; 0: none"));
  config->slo_first_token_us = static_cast<int64_t>(raw.slo_first_token_seconds * 1e6);
  return absl::OkStatus();
}

absl::Status Check(const RawFlags& raw, ServerConfig* config) {
  RETURN_IF_ERROR(CheckChoices(raw, config));
  RETURN_IF_ERROR(CheckAdapters(raw, config));
  RETURN_IF_ERROR(CheckAddress("--listen", config->listen));
  if (!config->metrics.empty()) RETURN_IF_ERROR(CheckAddress("--metrics", config->metrics));
  if (!raw.memory_bytes.empty()) {
    ASSIGN_OR_RETURN(const int64_t bytes, ParseBytes(raw.memory_bytes));
    if (bytes < kMinMemoryBytes) {
      return FlagError("--memory-bytes", raw.memory_bytes, "at least 1MiB", "KV blocks and adapters share this memory");
    }
    config->memory_bytes = bytes;
  }
  if (!raw.host_adapter_bytes.empty()) {
    ASSIGN_OR_RETURN(config->host_adapter_bytes, ParseBytes(raw.host_adapter_bytes, "--host-adapter-bytes"));
  }
  RETURN_IF_ERROR(
      CheckRange("--max-batch-tokens", config->max_batch_tokens, 1, 1 << 20, "tokens computed in one step"));
  RETURN_IF_ERROR(CheckRange("--max-sequences", config->max_sequences, 1, 65536, "sequences running at once"));
  RETURN_IF_ERROR(
      CheckRange("--queue-limit", config->queue_limit, 1, 1 << 24, "sequences accepted and not yet running"));
  RETURN_IF_ERROR(CheckRange("--drain-seconds", config->drain_seconds, 0, 86'400, "what runs then is aborted"));
  RETURN_IF_ERROR(
      CheckRange("--max-connection-age", config->max_connection_age_seconds, 0, 1'000'000, "seconds; 0: none"));
  RETURN_IF_ERROR(CheckOrder(raw, config));
  return CheckRange("--threads", config->threads, 1, 1024, "computing threads; as many as cores is best");
}

void Describe(CLI::App* app, ServerConfig* config, RawFlags* raw) {
  app->set_config("--config", "",
                  "File with flags: a line flag = value each, # begins a comment; flags given here win");
  app->allow_config_extras(CLI::config_extras_mode::error);
  app->add_option("--model", config->model_dir, "Folder of the base model: config.json, safetensors, tokenizer")
      ->required();
  app->add_option("--listen", config->listen, "gRPC address; port 0 takes a free one")->capture_default_str();
  app->add_option("--metrics", config->metrics, "HTTP address of /metrics and /health; empty: none")
      ->capture_default_str();
  app->add_option("--device", raw->device,
                  "auto, cpu or cuda; auto takes a CUDA device where there is one and liblorad_cuda.so lies beside the "
                  "program or in its lib folder")
      ->capture_default_str();
  app->add_option("--dtype", raw->dtype, "auto, float32, bfloat16 or float16")->capture_default_str();
  app->add_option("--quantize", raw->quantize,
                  "none, int8, int4 or fp8: how the base's matrices are kept in memory; adapters stay what they are")
      ->capture_default_str();
  app->add_option("--adapter", raw->adapters, "NAME=PATH of an adapter to load at start; repeatable")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app->add_option("--adapter-dir", config->adapter_dir, "Folder whose sub-folders load by name at their first use");
  app->add_option("--adapter-root", config->adapter_root, "Refuse adapters whose path leads out of this folder");
  app->add_option("--memory-bytes", raw->memory_bytes,
                  "For KV cache and adapters together: 4GiB, 512MiB … Default: half of what is free, at most 16GiB; on "
                  "a CUDA device four fifths of what is free there, three with --state-dir");
  app->add_option("--host-adapter-bytes", raw->host_adapter_bytes,
                  "Of host memory, for adapters kept as they lie in the pool: one that was evicted is then copied, not "
                  "read again; 0: none. Default: 4GiB where the pool is on a CUDA device (half of what the host has "
                  "free, if that is less), else 0, since the pool is host memory then");
  app->add_option("--max-batch-tokens", config->max_batch_tokens, "Most tokens computed in one step")
      ->capture_default_str();
  app->add_option("--max-sequences", config->max_sequences, "Most sequences running at once")->capture_default_str();
  app->add_option("--queue-limit", config->queue_limit, "Most sequences waiting; one more is RESOURCE_EXHAUSTED")
      ->capture_default_str();
  app->add_option("--order", config->order, "fcfs, or fair_share: adapters share the service by their weights")
      ->capture_default_str();
  app->add_option("--adapter-weight", raw->weights,
                  "NAME=WEIGHT of an adapter, or of (base), under fair_share; repeatable; the rest have 1")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app->add_option("--input-token-price", config->prices.input_token, "What a prompt's token counts under fair_share")
      ->capture_default_str();
  app->add_option("--output-token-price", config->prices.output_token, "What a generated token counts there")
      ->capture_default_str();
  app->add_option("--max-running-per-adapter", config->max_running_per_adapter,
                  "Most sequences of one adapter running at once; 0: no limit")
      ->capture_default_str();
  app->add_option("--max-waiting-per-adapter", config->max_waiting_per_adapter,
                  "Most sequences of one adapter waiting; one more is RESOURCE_EXHAUSTED; 0: no limit")
      ->capture_default_str();
  app->add_option("--cuda-graphs", raw->cuda_graphs,
                  "on or off: on a CUDA device, capture steps that decode and replay them; a sixteenth of "
                  "--memory-bytes, 1GiB at most, is theirs")
      ->capture_default_str();
  app->add_option(
         "--fast-forms", raw->fast_forms,
         "on or off: on a CUDA device, use other libraries' kernels and tensor cores where they agree with ours "
         "on it; off does not even try them")
      ->capture_default_str();
  app->add_option("--async-scheduling", raw->async_scheduling,
                  "on or off: on a CUDA device, plan and launch the next step while one runs")
      ->capture_default_str();
  app->add_option("--prefix-cache", raw->prefix_cache,
                  "on or off: keep the KV cache of prompts and answers, so that what begins like them begins there")
      ->capture_default_str();
  app->add_option("--slo-first-token", raw->slo_first_token_seconds,
                  "Seconds; what can no longer make its first token so soon ends at once, RESOURCE_EXHAUSTED; 0: none")
      ->capture_default_str();
  app->add_option("--threads", config->threads, "Computing threads; as many as the cores that this process may use")
      ->capture_default_str();
  app->add_option("--drain-seconds", config->drain_seconds,
                  "How long requests may go on after SIGTERM; keep it below what the supervisor waits before it kills")
      ->capture_default_str();
  app->add_option(
         "--max-connection-age", config->max_connection_age_seconds,
         "Seconds; a client's connection of that age ends behind its calls, and the client's next one may find a "
         "replica that is new; 0: none")
      ->capture_default_str();
  app->add_option("--state-dir", config->state_dir,
                  "Folder for fine-tuning jobs, their data, checkpoints and results; without it fine-tuning is off");
  app->add_option("--tuning-slo", config->tuning_slo,
                  "How much longer, on average, training may make the time between tokens: 0.2 = by a fifth")
      ->capture_default_str();
  app->add_option("--tuning-jobs", config->tuning_jobs, "Fine-tuning jobs that train at once, in one batch")
      ->capture_default_str();
  app->add_option("--log-level", raw->log_level, "debug, info, warning or error")->capture_default_str();
}

}  // namespace

std::variant<ServerConfig, ConfigExit> ParseConfig(int argc, const char* const* argv) {
  ServerConfig config;
  config.threads = UsableCores();
  RawFlags raw;
  CLI::App app("Serves one frozen base model with many LoRA adapters over gRPC.", "lorad");
  app.set_version_flag("--version", std::string("lorad ") + kVersion);
  app.footer(
      "\nExample: lorad --model=/models/llama --adapter=sql=/models/sql-lora --memory-bytes=4GiB\n"
      "Then:    adapterctl generate --adapter=sql \"How many users signed up today?\"\n"
      "SIGTERM ends running requests normally and takes no new ones; a second one ends at once.");
  Describe(&app, &config, &raw);
  // CLI11 tells by exceptions; they end here.
  try {
    app.parse(ArgumentsForCli(argc, argv));
  } catch (const CLI::CallForHelp&) {
    return ConfigExit{0, app.help()};
  } catch (const CLI::CallForVersion&) {
    return ConfigExit{0, std::string("lorad ") + kVersion + "\n"};
  } catch (const CLI::ParseError& error) {
    return ConfigExit{2, absl::StrCat("lorad: ", error.what(), "\nlorad --help lists the flags\n")};
  }
  if (const absl::Status status = Check(raw, &config); !status.ok()) {
    return ConfigExit{2, absl::StrCat("lorad: ", status.message(), "\nlorad --help lists the flags\n")};
  }
  return config;
}

absl::StatusOr<int64_t> ParseBytes(absl::string_view text, absl::string_view flag) {
  absl::string_view number = text;
  while (!number.empty() && !absl::ascii_isdigit(number.back())) number.remove_suffix(1);
  std::string unit = absl::AsciiStrToLower(text.substr(number.size()));
  if (unit.size() > 1 && unit.back() == 'b') unit.pop_back();
  if (unit.size() > 1 && unit.back() == 'i') unit.pop_back();
  int shift = -1;
  if (unit.empty() || unit == "b") shift = 0;
  if (unit == "k") shift = 10;
  if (unit == "m") shift = 20;
  if (unit == "g") shift = 30;
  if (unit == "t") shift = 40;
  int64_t value = 0;
  if (shift < 0 || !absl::SimpleAtoi(number, &value) || value < 0 ||
      value > (std::numeric_limits<int64_t>::max() >> shift)) {
    return FlagError(flag, text, "a number with K, M, G, T or KiB, MiB, GiB, TiB", "for example 4GiB");
  }
  return value << shift;
}

absl::StatusOr<DType> ResolveDType(DTypeChoice choice, DType checkpoint) {
  switch (choice) {
    case DTypeChoice::kAuto:
      return checkpoint == DType::kBF16 ? DType::kBF16 : DType::kF32;
    case DTypeChoice::kFloat32:
      return DType::kF32;
    case DTypeChoice::kBFloat16:
      return DType::kBF16;
    case DTypeChoice::kFloat16:
      break;
  }
  return absl::UnimplementedError(
      "--dtype: float16; limit: float32 or bfloat16 on cpu; float16 checkpoints are served as float32 by --dtype=auto");
}

int64_t DefaultHostAdapterBytes(bool pool_on_host, int64_t available_bytes) {
  return pool_on_host ? 0 : std::min(kMaxDefaultHostAdapterBytes, available_bytes / 2);
}

int64_t DeviceGraphBytes(int64_t memory_bytes) { return std::min(memory_bytes / 16, int64_t{1} << 30); }

int64_t DefaultMemoryBytes(int64_t available_bytes) {
  return std::clamp(available_bytes / 2, kMinDefaultMemoryBytes, kMaxDefaultMemoryBytes);
}

int64_t DefaultDeviceMemoryBytes(int64_t available_bytes, bool trains) {
  return available_bytes / 5 * (trains ? 3 : 4);
}

int64_t AvailableMemoryBytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key, unit;
  int64_t kib = 0;
  while (meminfo >> key >> kib) {
    std::getline(meminfo, unit);
    if (key != "MemAvailable:") continue;
    const int64_t of_machine = kib << 10;
    return std::min(of_machine, ReadGroupLimits().memory_bytes.value_or(of_machine));
  }
  return 0;
}

bool OmpWaitPolicyIsSet() {
  return std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr;
}

}  // namespace lorad
