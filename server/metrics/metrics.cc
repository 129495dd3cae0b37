#include "server/metrics/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/metric_family.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <map>
#include <sstream>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "model/kv/kv_layout.h"
#include "server/metrics/busy_names.h"

namespace lorad {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;
using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;

constexpr size_t kShownAdapters = 100;
constexpr size_t kCandidateAdapters = 1000;
constexpr char kBase[] = "(base)";  // No adapter can have this name.
constexpr char kOther[] = "other";

double Seconds(int64_t us) { return static_cast<double>(us) * 1e-6; }

Buckets LatencyBuckets() {
  return {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5,
          0.75,  1,      2.5,   5,    7.5,   10,   20,    40,  80,   160};
}
Buckets CountBuckets() { return {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192}; }

// The counter of a total that the engine keeps; an older snapshot does not take it back.
void RaiseTo(int64_t total, Counter* counter) {
  counter->Increment(std::max(0.0, static_cast<double>(total) - counter->Value()));
}

const char* NameOf(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kAbort:
      return "abort";
  }
  return "?";
}

}  // namespace

struct Metrics::Series {
  Series(const std::string& model_name, const std::string& version) : labels{{"model_name", model_name}} {
    for (const FinishReason reason : {FinishReason::kStop, FinishReason::kLength, FinishReason::kAbort}) {
      finished[static_cast<size_t>(reason)] = &success.Add({{"finished_reason", NameOf(reason)}});
    }
    Gauges("lorad_build_info", "1, with the version as label").Add({{"version", version}}).Set(1);
  }

  Family<Counter>& Counters(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Labels(labels).Register(registry);
  }
  Family<Gauge>& Gauges(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Labels(labels).Register(registry);
  }
  Histogram& OneHistogram(const char* name, const char* help, Buckets buckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Labels(labels).Register(registry).Add({},
                                                                                                    std::move(buckets));
  }

  void CountAdapterTokens(const std::string& adapter, int64_t tokens);
  void Refresh(const EngineSnapshot& snapshot, double unix_seconds);
  void RefreshAdapters(const EngineSnapshot& snapshot, double unix_seconds);
  void RefreshExperts(const AdapterListing& adapters);

  const std::map<std::string, std::string> labels;
  prometheus::Registry registry;

  Gauge& running = Gauges("vllm:num_requests_running", "Sequences in the batch").Add({});
  Gauge& waiting = Gauges("vllm:num_requests_waiting", "Sequences accepted and not yet running").Add({});
  Gauge& kv_usage =
      Gauges("vllm:kv_cache_usage_perc", "Share of the memory's pages that KV blocks in use hold, 0 to 1").Add({});
  Family<Gauge>& cache_config = Gauges("vllm:cache_config_info", "1, with the cache's sizes as labels");
  Gauge* cache_config_gauge = nullptr;
  Family<Gauge>& lora_info =
      Gauges("vllm:lora_requests_info", "Unix time; labels: adapters in the pool and ready, adapters waited for");
  Gauge* lora_info_gauge = nullptr;
  std::map<std::string, std::string> lora_info_labels;

  Counter& prompt_tokens = Counters("vllm:prompt_tokens_total", "Prompt tokens of answered sequences").Add({});
  Counter& generation_tokens = Counters("vllm:generation_tokens_total", "Generated tokens").Add({});
  Counter& preemptions =
      Counters("vllm:num_preemptions_total", "Sequences that gave their memory back and began again").Add({});
  Counter& prefix_queries =
      Counters("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache").Add({});
  Counter& prefix_hits = Counters("vllm:prefix_cache_hits_total", "Of them, tokens that were there").Add({});
  Family<Counter>& success = Counters("vllm:request_success_total", "Sequences that ended, by reason");
  std::array<Counter*, 3> finished{};

  Histogram& first_token = OneHistogram("vllm:time_to_first_token_seconds", "Arrival to first token", LatencyBuckets());
  Histogram& inter_token = OneHistogram("vllm:inter_token_latency_seconds", "Token to token", LatencyBuckets());
  Histogram& end_to_end = OneHistogram("vllm:e2e_request_latency_seconds", "Arrival to end", LatencyBuckets());
  Histogram& queue_time =
      OneHistogram("vllm:request_queue_time_seconds", "Arrival to first scheduled", LatencyBuckets());
  Histogram& iteration_tokens =
      OneHistogram("vllm:iteration_tokens_total", "Tokens computed in a step", CountBuckets());

  Family<Gauge>& pool_pages = Gauges("lorad_pool_pages", "Pages of the memory by owner");
  Gauge& kv_pages = pool_pages.Add({{"owner", "kv"}});
  Gauge& cached_pages = pool_pages.Add({{"owner", "cached"}});
  Gauge& adapter_pages = pool_pages.Add({{"owner", "adapter"}});
  Gauge& tuning_pages = pool_pages.Add({{"owner", "tuning"}});
  Gauge& free_pages = pool_pages.Add({{"owner", "free"}});
  Gauge& cached_blocks =
      Gauges("lorad_prefix_cache_blocks", "KV blocks that the prefix cache knows, in use or idle").Add({});
  Counter& evicted_blocks =
      Counters("lorad_prefix_cache_evictions_total", "Idle cached KV blocks whose pages were wanted").Add({});
  Gauge& page_bytes = Gauges("lorad_pool_page_bytes", "Bytes of a page").Add({});
  Gauge& draining = Gauges("lorad_draining", "1 once no new requests are taken").Add({});
  Family<Gauge>& adapter_states = Gauges("lorad_adapters", "Adapters by state");
  std::map<AdapterState, Gauge*> adapters_by_state;
  Histogram& load_seconds =
      OneHistogram("lorad_adapter_load_seconds", "Reading, checking and placing an adapter", LatencyBuckets());
  Counter& evictions = Counters("lorad_adapter_evictions_total", "Idle adapters whose pages were wanted").Add({});
  Counter& load_failures = Counters("lorad_adapter_load_failures_total", "Adapters that could not be loaded").Add({});
  Family<Counter>& refused = Counters("lorad_requests_refused_total", "Requests that ended in a status, by its code");
  Counter& late =
      Counters("lorad_requests_late_total", "Sequences ended because their first token could not be in time").Add({});
  Family<Counter>& adapter_tokens = Counters("lorad_adapter_generation_tokens_total",
                                             "Generated tokens of the busiest adapters; `other` has the rest");
  std::unordered_map<std::string, Counter*> tokens_of;
  Counter& other_tokens = adapter_tokens.Add({{"adapter", kOther}});
  BusyNames busy{kShownAdapters, kCandidateAdapters};
  // Of the routed ones among those that are shown and loaded.
  struct OfExperts {
    std::shared_ptr<const ExpertLoad> load;  // that was counted last: a replaced adapter begins anew
    int64_t counted = 0;
    Counter* tokens = nullptr;
    Gauge* imbalance = nullptr;
  };
  Family<Counter>& expert_tokens =
      Counters("lorad_adapter_expert_tokens_total", "Rows that a routed adapter sent to its experts, in all layers");
  Family<Gauge>& expert_imbalance =
      Gauges("lorad_adapter_expert_imbalance",
             "Rows of a routed adapter's most used expert over the mean of its experts; mean of the layers, 1 is even");
  std::map<std::string, OfExperts> experts_of;

  Histogram& step_seconds =
      OneHistogram("lorad_step_seconds", "A step: planning, computing, recording", LatencyBuckets());
  Histogram& step_overhead =
      OneHistogram("lorad_step_overhead_seconds", "Of a step: planning and recording",
                   {0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1});
  Histogram& step_sequences = OneHistogram("lorad_step_sequences", "Sequences in a step", CountBuckets());
  Histogram& step_adapters = OneHistogram("lorad_step_adapters", "Different adapters in a step", CountBuckets());
};

void Metrics::Series::CountAdapterTokens(const std::string& adapter, int64_t tokens) {
  const std::string name = adapter.empty() ? kBase : adapter;
  const BusyNames::Change change = busy.Count(name, tokens);
  if (change.retired) {
    // The sum over all series stays what was generated: `other` takes over what the retired series had counted.
    const auto retired = tokens_of.find(*change.retired);
    other_tokens.Increment(retired->second->Value());
    adapter_tokens.Remove(retired->second);
    tokens_of.erase(retired);
  }
  if (!change.shown || name == kOther) {
    other_tokens.Increment(static_cast<double>(tokens));
    return;
  }
  Counter*& counter = tokens_of[name];
  if (counter == nullptr) counter = &adapter_tokens.Add({{"adapter", name}});
  counter->Increment(static_cast<double>(tokens));
}

void Metrics::Series::Refresh(const EngineSnapshot& snapshot, double unix_seconds) {
  running.Set(static_cast<double>(snapshot.running_sequences));
  waiting.Set(static_cast<double>(snapshot.waiting_sequences));
  kv_usage.Set(snapshot.total_pages > 0
                   ? static_cast<double>(snapshot.kv_pages) / static_cast<double>(snapshot.total_pages)
                   : 0);
  kv_pages.Set(static_cast<double>(snapshot.kv_pages));
  cached_pages.Set(static_cast<double>(snapshot.cached_pages));
  adapter_pages.Set(static_cast<double>(snapshot.adapter_pages));
  tuning_pages.Set(static_cast<double>(snapshot.tuning_pages));
  free_pages.Set(static_cast<double>(snapshot.free_pages));
  cached_blocks.Set(static_cast<double>(snapshot.prefix_cache.cached_blocks));
  RaiseTo(snapshot.prefix_cache.evicted_blocks, &evicted_blocks);
  RaiseTo(snapshot.prefix_cache.query_tokens, &prefix_queries);
  RaiseTo(snapshot.prefix_cache.hit_tokens, &prefix_hits);
  page_bytes.Set(static_cast<double>(snapshot.page_bytes));
  draining.Set(snapshot.draining ? 1 : 0);
  if (cache_config_gauge == nullptr && snapshot.pages_per_kv_block > 0) {
    cache_config_gauge =
        &cache_config.Add({{"block_size", std::to_string(kKvBlockTokens)},
                           {"num_gpu_blocks", std::to_string(snapshot.total_pages / snapshot.pages_per_kv_block)}});
    cache_config_gauge->Set(1);
  }
  RefreshAdapters(snapshot, unix_seconds);
  RefreshExperts(*snapshot.adapters);
}

void Metrics::Series::RefreshAdapters(const EngineSnapshot& snapshot, double unix_seconds) {
  std::map<AdapterState, int64_t> states = {{AdapterState::kLoading, 0},
                                            {AdapterState::kHost, 0},
                                            {AdapterState::kResident, 0},
                                            {AdapterState::kDraining, 0},
                                            {AdapterState::kFailed, 0}};
  for (const auto& info : snapshot.adapters->all) ++states[info->state];
  for (const auto& [state, count] : states) {
    Gauge*& gauge = adapters_by_state[state];
    if (gauge == nullptr) {
      const std::string_view name = Name(state);
      gauge = &adapter_states.Add({{"state", std::string(name)}});
    }
    gauge->Set(static_cast<double>(count));
  }

  // The pool is bounded by bytes; as a count it is what it would hold of adapters like those in it.
  const std::vector<std::string>& resident = snapshot.adapters->resident;
  const int64_t pages_each =
      resident.empty() ? 1 : std::max<int64_t>(1, snapshot.adapter_pages / static_cast<int64_t>(resident.size()));
  const std::map<std::string, std::string> now = {
      {"max_lora", std::to_string(snapshot.total_pages / pages_each)},
      {"running_lora_adapters", absl::StrJoin(resident, ",")},
      {"waiting_lora_adapters", absl::StrJoin(snapshot.adapters->waiting, ",")}};
  if (lora_info_gauge == nullptr || now != lora_info_labels) {
    if (lora_info_gauge != nullptr) lora_info.Remove(lora_info_gauge);
    lora_info_gauge = &lora_info.Add(now);
    lora_info_labels = now;
  }
  lora_info_gauge->Set(unix_seconds);
}

void Metrics::Series::RefreshExperts(const AdapterListing& adapters) {
  std::map<std::string, OfExperts> before = std::exchange(experts_of, {});
  for (const auto& info : adapters.all) {
    if (info->expert_load == nullptr || info->state == AdapterState::kDraining) continue;
    if (!tokens_of.contains(info->name)) continue;
    OfExperts of = before[info->name];
    before.erase(info->name);
    if (of.tokens == nullptr) {
      of.tokens = &expert_tokens.Add({{"adapter", info->name}});
      of.imbalance = &expert_imbalance.Add({{"adapter", info->name}});
    }
    if (std::exchange(of.load, info->expert_load) != info->expert_load) of.counted = 0;
    const LoadBalance balance = BalanceOf(*info->expert_load);
    of.tokens->Increment(static_cast<double>(balance.rows - std::exchange(of.counted, balance.rows)));
    of.imbalance->Set(balance.imbalance);
    experts_of[info->name] = std::move(of);
  }
  for (const auto& [name, gone] : before) {
    expert_tokens.Remove(gone.tokens);
    expert_imbalance.Remove(gone.imbalance);
  }
}

Metrics::Metrics() = default;
Metrics::~Metrics() = default;

void Metrics::SetModel(const std::string& model_name, const std::string& version) {
  const std::lock_guard<std::mutex> lock(mutex_);
  series_ = std::make_unique<Series>(model_name, version);
}

void Metrics::Tell(Told told) {
  const std::lock_guard<std::mutex> lock(told_mutex_);
  told_.push_back(std::move(told));
}

void Metrics::CountToldIfFree() {
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (lock.owns_lock()) CountTold();
}

void Metrics::CountTold() {
  std::vector<Told> told;
  {
    const std::lock_guard<std::mutex> lock(told_mutex_);
    told.swap(told_);
  }
  if (!series_) return;
  for (const Told& each : told) each(series_.get());
}

std::string Metrics::Text(const EngineSnapshot* snapshot, double unix_seconds) {
  std::vector<prometheus::MetricFamily> families;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    CountTold();
    if (!series_) return "";
    if (snapshot != nullptr) series_->Refresh(*snapshot, unix_seconds);
    families = series_->registry.Collect();
  }
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, families);
  return out.str();
}

void Metrics::CountRefused(absl::StatusCode code) {
  Tell([code](Series* series) { series->refused.Add({{"code", absl::StatusCodeToString(code)}}).Increment(); });
  CountToldIfFree();
}

void Metrics::OnStep(const StepStats& step) {
  Tell([step](Series* series) {
    series->step_seconds.Observe(Seconds(step.plan_us + step.execute_us + step.commit_us));
    series->step_overhead.Observe(Seconds(step.plan_us + step.commit_us));
    series->step_sequences.Observe(static_cast<double>(step.sequences));
    series->step_adapters.Observe(static_cast<double>(step.distinct_adapters));
    series->iteration_tokens.Observe(static_cast<double>(step.rows_tokens));
  });
  CountToldIfFree();  // Once a step: what a step tells is counted together.
}

void Metrics::OnScheduled(int64_t queue_us) {
  Tell([queue_us](Series* series) { series->queue_time.Observe(Seconds(queue_us)); });
}

void Metrics::OnFirstToken(int64_t first_token_us) {
  Tell([first_token_us](Series* series) { series->first_token.Observe(Seconds(first_token_us)); });
}

void Metrics::OnToken(const std::string& adapter, int64_t tokens, int64_t gap_us) {
  Tell([adapter, tokens, gap_us](Series* series) {
    series->generation_tokens.Increment(static_cast<double>(tokens));
    if (gap_us >= 0) series->inter_token.Observe(Seconds(gap_us));
    series->CountAdapterTokens(adapter, tokens);
  });
}

void Metrics::OnFinish(const SequenceStats& sequence) {
  if (sequence.begun) {
    Tell([reason = sequence.reason, prompt_tokens = sequence.usage.prompt_tokens,
          end_to_end_us = sequence.end_to_end_us](Series* series) {
      series->finished[static_cast<size_t>(reason)]->Increment();
      series->prompt_tokens.Increment(static_cast<double>(prompt_tokens));
      if (end_to_end_us >= 0) series->end_to_end.Observe(Seconds(end_to_end_us));
    });
  }
  if (sequence.late) Tell([](Series* series) { series->late.Increment(); });
  CountToldIfFree();  // Not every end has a step.
}

void Metrics::OnAdapterLoaded(const std::string& name, int64_t load_us) {
  Tell([load_us](Series* series) { series->load_seconds.Observe(Seconds(load_us)); });
  CountToldIfFree();
}

void Metrics::OnAdapterLoadFailed(const std::string& name) {
  Tell([](Series* series) { series->load_failures.Increment(); });
  CountToldIfFree();
}

void Metrics::OnAdapterEvicted(const std::string& name) {
  Tell([](Series* series) { series->evictions.Increment(); });
}

void Metrics::OnPreempted(const std::string& adapter) {
  Tell([](Series* series) { series->preemptions.Increment(); });
}

}  // namespace lorad
