#include "server/config.h"

#include <sched.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
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
#include "server/flags.h"
#include "server/group_limits.h"
#include "server/version.h"

namespace lorad {
namespace {

constexpr int64_t kMinMemoryBytes = int64_t{1} << 20;

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

absl::Status CheckReal(absl::string_view flag, double value, double low, double high, absl::string_view hint) {
  if (value >= low && value <= high) return absl::OkStatus();  // false for NaN
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

absl::Status TakeSwitch(absl::string_view flag, const std::string& value, absl::string_view hint, bool* on) {
  return TakeChoice<bool>(flag, value, {{"on", true}, {"off", false}}, hint, on);
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
  RETURN_IF_ERROR(
      TakeSwitch("--prefix-cache", raw.prefix_cache, "off computes every prompt anew", &config->prefix_cache));
  RETURN_IF_ERROR(TakeSwitch("--cuda-graphs", raw.cuda_graphs, "off launches every step anew", &config->cuda_graphs));
  RETURN_IF_ERROR(
      TakeSwitch("--fast-forms", raw.fast_forms, "off computes by our own kernels alone", &config->fast_forms));
  RETURN_IF_ERROR(TakeSwitch("--async-scheduling", raw.async_scheduling,
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
  if (config->model_dir.empty()) {
    return FlagError("--model", "", "a folder", "the base's, with config.json, safetensors and tokenizer");
  }
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

// What CLI11 says, with what it leaves out: the flag that was meant, and which file was being read.
std::string MessageOf(const CLI::ParseError& error, const CLI::App& app) {
  const std::string what = error.what();
  if (dynamic_cast<const CLI::FileError*>(&error) != nullptr) return absl::StrCat("--config: ", what);
  if (dynamic_cast<const CLI::ConversionError*>(&error) != nullptr) return absl::StrCat(what, "; limit: a number");
  if (dynamic_cast<const CLI::RequiredError*>(&error) != nullptr && !app.remaining().empty()) {
    return absl::StrCat(what, "; not a flag: ", app.remaining()[0], "; write --model=FOLDER");
  }
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr) {  // "--model: 1 required TEXT missing"
    const std::string flag = what.substr(0, what.find(':'));
    const bool several = what.find("received") != std::string::npos;
    return absl::StrCat(flag, several ? ": more than one value; limit: one; leave the others out"
                                      : absl::StrCat(": no value; limit: one; write ", flag, "=VALUE"));
  }
  if (const size_t end = what.find(": This option is not allowed"); end != std::string::npos) {
    return absl::StrCat("--config: ", what.substr(0, end), "; limit: a flag that sets something; ", "give --",
                        what.substr(0, end), " on the command line");
  }
  // "… expected: --max-sequence=3", "INI was not able to parse max-sequence"
  const std::string wrong = what.substr(what.find_last_of(' ') + 1);
  const bool in_file = dynamic_cast<const CLI::ConfigError*>(&error) != nullptr;
  if (!in_file && dynamic_cast<const CLI::ExtrasError*>(&error) == nullptr) return what;
  if (!in_file && wrong[0] != '-') return absl::StrCat("not a flag: ", wrong, "; limit: flags alone");
  const std::string here = InsteadOfVllms(wrong), nearest = NearestFlag(app, wrong);
  return absl::StrCat(in_file ? "--config: " : "flag: ", wrong, "; not known",
                      !here.empty()      ? absl::StrCat("; vLLM's; here: ", here)
                      : !nearest.empty() ? absl::StrCat("; did you mean ", nearest.substr(in_file ? 2 : 0), "?")
                                         : "");
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
  app.get_formatter()->column_width(36);  // the longest flag with its default
  DescribeFlags(&app, &config, &raw);
  // CLI11 tells by exceptions; they end here.
  try {
    app.parse(ArgumentsForCli(argc, argv));
  } catch (const CLI::CallForHelp&) {
    return ConfigExit{0, app.help()};
  } catch (const CLI::CallForVersion&) {
    return ConfigExit{0, std::string("lorad ") + kVersion + "\n"};
  } catch (const CLI::ParseError& error) {
    return ConfigExit{2, absl::StrCat("lorad: ", MessageOf(error, app), "\nlorad --help lists the flags\n")};
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

bool OmpWaitPolicyIsSet() {
  return std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr;
}

}  // namespace lorad
