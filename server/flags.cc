#include "server/flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <numeric>
#include <utility>

namespace lorad {
namespace {

constexpr size_t kMostEdits = 3;  // between a flag and what was meant to be it

// vLLM's flags and what does the same here (docs/operating.md), or why there is none.
constexpr std::pair<std::string_view, std::string_view> kOfVllm[] = {
    {"host", "--listen=HOST:PORT"},
    {"port", "--listen=HOST:PORT"},
    {"enable-lora", "none: adapters are always on"},
    {"lora-modules", "--adapter=NAME=PATH"},
    {"max-loras", "none: bytes alone count, --memory-bytes"},
    {"max-cpu-loras", "--host-adapter-bytes"},
    {"max-lora-rank", "none: any rank is served"},
    {"gpu-memory-utilization", "--memory-bytes"},
    {"max-model-len", "none: the context is the model's"},
    {"max-num-seqs", "--max-sequences"},
    {"max-num-batched-tokens", "--max-batch-tokens"},
    {"enable-prefix-caching", "--prefix-cache=on, the default"},
    {"no-enable-prefix-caching", "--prefix-cache=off"},
    {"enforce-eager", "--cuda-graphs=off"},
    {"quantization", "--quantize=int8, int4 or fp8"},
    {"tensor-parallel-size", "none: one device serves"},
};

// "--name=value" without dashes and value.
std::string_view NameOf(std::string_view typed) {
  typed = typed.substr(0, typed.find('='));
  while (typed.starts_with('-')) typed.remove_prefix(1);
  return typed;
}

// Characters to insert, delete or replace to make one of the other (Levenshtein).
size_t EditsBetween(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);  // from what of `a` was seen to each beginning of b
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
    }
  }
  return row[b.size()];
}

void DescribeModel(CLI::App* app, ServerConfig* config, RawFlags* raw) {
  app->option_defaults()->group("The model");
  app->add_option("--model", config->model_dir, "Folder of the base model: config.json, safetensors, tokenizer")
      ->required();
  app->add_option("--device", raw->device,
                  "auto, cpu or cuda; auto takes a CUDA device where there is one and liblorad_cuda.so lies beside the "
                  "program or in its lib folder")
      ->capture_default_str();
  app->add_option("--dtype", raw->dtype, "auto, float32, bfloat16 or float16")->capture_default_str();
  app->add_option("--quantize", raw->quantize,
                  "none, int8, int4 or fp8: how the base's matrices are kept in memory; adapters stay what they are")
      ->capture_default_str();
  app->add_option("--threads", config->threads, "Computing threads; as many as the cores that this process may use")
      ->capture_default_str();
}

void DescribeAdapters(CLI::App* app, ServerConfig* config, RawFlags* raw) {
  app->option_defaults()->group("Adapters");
  app->add_option("--adapter", raw->adapters, "NAME=PATH of an adapter to load at start; repeatable")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app->add_option("--adapter-dir", config->adapter_dir, "Folder whose sub-folders load by name at their first use");
  app->add_option("--adapter-root", config->adapter_root, "Refuse adapters whose path leads out of this folder");
}

void DescribeMemory(CLI::App* app, RawFlags* raw) {
  app->option_defaults()->group("Memory");
  app->add_option("--memory-bytes", raw->memory_bytes,
                  "For KV cache and adapters together: 4GiB, 512MiB … Default: half of what is free, at most 16GiB; on "
                  "a CUDA device four fifths of what is free there");
  app->add_option("--host-adapter-bytes", raw->host_adapter_bytes,
                  "Of host memory, for adapters kept as they lie in the pool: one that was evicted is then copied, not "
                  "read again; 0: none. Default: 4GiB where the pool is on a CUDA device (half of what the host has "
                  "free, if that is less), else 0, since the pool is host memory then");
  app->add_option("--prefix-cache", raw->prefix_cache,
                  "on or off: keep the KV cache of prompts and answers, so that what begins like them begins there")
      ->capture_default_str();
}

void DescribeScheduling(CLI::App* app, ServerConfig* config, RawFlags* raw) {
  app->option_defaults()->group("Who runs, and how many");
  app->add_option("--max-sequences", config->max_sequences, "Most sequences running at once")->capture_default_str();
  app->add_option("--max-batch-tokens", config->max_batch_tokens, "Most tokens computed in one step")
      ->capture_default_str();
  app->add_option("--queue-limit", config->queue_limit, "Most sequences waiting; one more is RESOURCE_EXHAUSTED")
      ->capture_default_str();
  app->add_option("--max-running-per-adapter", config->max_running_per_adapter,
                  "Most sequences of one adapter running at once; 0: no limit")
      ->capture_default_str();
  app->add_option("--max-waiting-per-adapter", config->max_waiting_per_adapter,
                  "Most sequences of one adapter waiting; one more is RESOURCE_EXHAUSTED; 0: no limit")
      ->capture_default_str();
  app->add_option("--slo-first-token", raw->slo_first_token_seconds,
                  "Seconds; what can no longer make its first token so soon ends at once, RESOURCE_EXHAUSTED; 0: none")
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
}

void DescribeTuning(CLI::App* app, ServerConfig* config) {
  app->option_defaults()->group("Fine-tuning");
  app->add_option("--state-dir", config->state_dir,
                  "Folder for fine-tuning jobs, their data, checkpoints and results; without it fine-tuning is off");
  app->add_option("--tuning-slo", config->tuning_slo,
                  "How much longer, on average, training may make the time between tokens: 0.2 = by a fifth")
      ->capture_default_str();
  app->add_option("--tuning-jobs", config->tuning_jobs, "Fine-tuning jobs that train at once, in one batch")
      ->capture_default_str();
}

void DescribeCuda(CLI::App* app, RawFlags* raw) {
  app->option_defaults()->group("On a CUDA device");
  app->add_option("--cuda-graphs", raw->cuda_graphs,
                  "on or off: capture steps that decode and replay them; a sixteenth of --memory-bytes, 1GiB at most, "
                  "is theirs")
      ->capture_default_str();
  app->add_option("--async-scheduling", raw->async_scheduling,
                  "on or off: plan and launch the next step while one runs")
      ->capture_default_str();
  app->add_option("--fast-forms", raw->fast_forms,
                  "on or off: use other libraries' kernels and tensor cores where they agree with ours on the device; "
                  "off does not even try them")
      ->capture_default_str();
}

void DescribeDaemon(CLI::App* app, ServerConfig* config, RawFlags* raw) {
  app->option_defaults()->group("The daemon");
  app->add_option("--listen", config->listen, "gRPC address; port 0 takes a free one")->capture_default_str();
  app->add_option("--metrics", config->metrics, "HTTP address of /metrics and /health; empty: none")
      ->capture_default_str();
  app->add_option("--drain-seconds", config->drain_seconds,
                  "How long requests may go on after SIGTERM; keep it below what the supervisor waits before it kills")
      ->capture_default_str();
  app->add_option(
         "--max-connection-age", config->max_connection_age_seconds,
         "Seconds; a client's connection of that age ends behind its calls, and the client's next one may find a "
         "replica that is new; 0: none")
      ->capture_default_str();
  app->add_option("--log-level", raw->log_level, "debug, info, warning or error")->capture_default_str();
}

}  // namespace

std::string InsteadOfVllms(std::string_view typed) {
  for (const auto& [name, here] : kOfVllm) {
    if (name == NameOf(typed)) return std::string(here);
  }
  return "";
}

std::string NearestFlag(const CLI::App& app, std::string_view typed) {
  typed = NameOf(typed);
  std::string nearest;
  size_t fewest = std::min(kMostEdits + 1, typed.size());  // else every short word is near
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_lnames().empty()) continue;
    const std::string& name = option->get_lnames().front();
    const size_t edits = EditsBetween(typed, name);
    if (edits >= fewest) continue;
    fewest = edits;
    nearest = "--" + name;
  }
  return nearest;
}

void DescribeFlags(CLI::App* app, ServerConfig* config, RawFlags* raw) {
  app->set_config("--config", "",
                  "File with flags: a line flag = value each, # begins a comment; flags given here win");
  app->allow_config_extras(CLI::config_extras_mode::error);
  DescribeModel(app, config, raw);
  DescribeAdapters(app, config, raw);
  DescribeMemory(app, raw);
  DescribeScheduling(app, config, raw);
  DescribeTuning(app, config);
  DescribeCuda(app, raw);
  DescribeDaemon(app, config, raw);
}

}  // namespace lorad
