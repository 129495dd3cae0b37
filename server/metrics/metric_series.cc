#include "server/metrics/metric_series.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "model/kv/kv_layout.h"
#include "scheduler/observer.h"

namespace lorad {
namespace {

constexpr char kBase[] = "(base)";  // No adapter can have this name.

// The counter of a total that the engine keeps; an older snapshot does not take it back.
void RaiseTo(int64_t total, prometheus::Counter* counter) {
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

MetricSeries::Buckets MetricSeries::LatencyBuckets() {
  return {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5,
          0.75,  1,      2.5,   5,    7.5,   10,   20,    40,  80,   160};
}

MetricSeries::Buckets MetricSeries::CountBuckets() {
  return {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};
}

MetricSeries::MetricSeries(const std::string& model_name, const std::string& version)
    : labels{{"model_name", model_name}} {
  for (const FinishReason reason : {FinishReason::kStop, FinishReason::kLength, FinishReason::kAbort}) {
    finished[static_cast<size_t>(reason)] = &success.Add({{"finished_reason", NameOf(reason)}});
  }
  Gauges("lorad_build_info", "1, with the version as label").Add({{"version", version}}).Set(1);
}

MetricSeries::Family<MetricSeries::Counter>& MetricSeries::Counters(const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Labels(labels).Register(registry);
}

MetricSeries::Family<MetricSeries::Gauge>& MetricSeries::Gauges(const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Labels(labels).Register(registry);
}

MetricSeries::Histogram& MetricSeries::OneHistogram(const char* name, const char* help, Buckets buckets) {
  return Histograms(name, help).Add({}, std::move(buckets));
}

MetricSeries::Family<MetricSeries::Histogram>& MetricSeries::Histograms(const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Labels(labels).Register(registry);
}

void MetricSeries::CountAdapterTokens(const std::string& adapter, int64_t tokens) {
  const std::string name = adapter.empty() ? kBase : adapter;
  const BusyNames::Change change = busy.Count(name, tokens);
  if (change.retired) {
    // The sum over all series stays what was generated: `other` takes over what the retired series had counted.
    const auto retired = tokens_of.find(*change.retired);
    other_tokens.Increment(retired->second->Value());
    adapter_tokens.Remove(retired->second);
    tokens_of.erase(retired);
  }
  if (!change.shown || name == kOtherAdapters) {
    other_tokens.Increment(static_cast<double>(tokens));
    return;
  }
  Counter*& counter = tokens_of[name];
  if (counter == nullptr) counter = &adapter_tokens.Add({{"adapter", name}});
  counter->Increment(static_cast<double>(tokens));
}

void MetricSeries::Refresh(const EngineSnapshot& snapshot, double unix_seconds) {
  running.Set(static_cast<double>(snapshot.running_sequences));
  waiting.Set(static_cast<double>(snapshot.waiting_sequences));
  kv_usage.Set(snapshot.total_pages > 0
                   ? static_cast<double>(snapshot.kv_pages) / static_cast<double>(snapshot.total_pages)
                   : 0);
  kv_pages.Set(static_cast<double>(snapshot.kv_pages));
  cached_pages.Set(static_cast<double>(snapshot.cached_pages));
  adapter_pages.Set(static_cast<double>(snapshot.adapter_pages));
  host_adapters.Set(static_cast<double>(snapshot.warm_adapters));
  host_adapter_bytes.Set(static_cast<double>(snapshot.warm_bytes));
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

void MetricSeries::RefreshAdapters(const EngineSnapshot& snapshot, double unix_seconds) {
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

void MetricSeries::RefreshExperts(const AdapterListing& adapters) {
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

}  // namespace lorad
