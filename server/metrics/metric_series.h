#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>

#include "scheduler/snapshot.h"
#include "server/metrics/busy_names.h"
#include "server/metrics/device_series.h"

namespace lorad {

// Every series that Metrics counts, under its name; what the snapshot says is set by Refresh.
//
// Threads  one at a time.
struct MetricSeries {
  using Counter = prometheus::Counter;
  using Gauge = prometheus::Gauge;
  using Histogram = prometheus::Histogram;
  using Buckets = Histogram::BucketBoundaries;
  template <typename T>
  using Family = prometheus::Family<T>;

  MetricSeries(const std::string& model_name, const std::string& version);

  void CountAdapterTokens(const std::string& adapter, int64_t tokens);
  void Refresh(const EngineSnapshot& snapshot, double unix_seconds);

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
  Family<Histogram>& load_seconds =
      Histograms("lorad_adapter_load_seconds",
                 "Placing an adapter, from disk by reading and checking it, or from what the host keeps packed");
  Histogram& cold_load_seconds = load_seconds.Add({{"source", "disk"}}, LatencyBuckets());
  Histogram& warm_load_seconds = load_seconds.Add({{"source", "host"}}, LatencyBuckets());
  Gauge& host_adapters =
      Gauges("lorad_host_adapters", "Adapters kept packed in host memory (--host-adapter-bytes)").Add({});
  Gauge& host_adapter_bytes = Gauges("lorad_host_adapter_bytes", "Bytes of them").Add({});
  Counter& evictions = Counters("lorad_adapter_evictions_total", "Idle adapters whose pages were wanted").Add({});
  Counter& load_failures = Counters("lorad_adapter_load_failures_total", "Adapters that could not be loaded").Add({});
  Family<Counter>& refused = Counters("lorad_requests_refused_total", "Requests that ended in a status, by its code");
  Counter& late =
      Counters("lorad_requests_late_total", "Sequences ended because their first token could not be in time").Add({});
  Family<Counter>& adapter_tokens = Counters("lorad_adapter_generation_tokens_total",
                                             "Generated tokens of the busiest adapters; `other` has the rest");
  std::unordered_map<std::string, Counter*> tokens_of;
  Counter& other_tokens = adapter_tokens.Add({{"adapter", kOtherAdapters}});
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
  DeviceSeries of_device{&registry, labels};

 private:
  static constexpr size_t kShownAdapters = 100;
  static constexpr size_t kCandidateAdapters = 1000;
  static constexpr char kOtherAdapters[] = "other";
  static Buckets LatencyBuckets();
  static Buckets CountBuckets();

  Family<Counter>& Counters(const char* name, const char* help);
  Family<Gauge>& Gauges(const char* name, const char* help);
  Family<Histogram>& Histograms(const char* name, const char* help);
  Histogram& OneHistogram(const char* name, const char* help, Buckets buckets);

  void RefreshAdapters(const EngineSnapshot& snapshot, double unix_seconds);
  void RefreshExperts(const AdapterListing& adapters);
};

}  // namespace lorad
