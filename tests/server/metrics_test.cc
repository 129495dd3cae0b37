#include "server/metrics/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <thread>

#include "server/metrics/busy_names.h"

namespace lorad {

class MetricsPeer {
 public:
  static std::unique_lock<std::mutex> HoldAsAScrape(Metrics* metrics) {
    return std::unique_lock<std::mutex>(metrics->mutex_);
  }
};

namespace {

using ::testing::HasSubstr;
using ::testing::Not;

EngineSnapshot Snapshot(std::vector<std::string> resident, std::vector<std::string> waiting) {
  EngineSnapshot snapshot;
  snapshot.running_sequences = 3;
  snapshot.waiting_sequences = 2;
  snapshot.total_pages = 100;
  snapshot.free_pages = 50;
  snapshot.cached_pages = 10;
  snapshot.prefix_cache = {.cached_blocks = 7, .evicted_blocks = 2, .query_tokens = 300, .hit_tokens = 160};
  snapshot.kv_pages = 25;
  snapshot.adapter_pages = 15;
  snapshot.warm_adapters = 4;
  snapshot.warm_bytes = 12345;
  snapshot.page_bytes = 65536;
  snapshot.pages_per_kv_block = 2;
  auto listing = std::make_shared<AdapterListing>();
  for (const std::string& name : resident) {
    auto info = std::make_shared<AdapterInfo>();
    info->name = name;
    info->state = AdapterState::kResident;
    listing->all.push_back(info);
  }
  listing->resident = std::move(resident);
  listing->waiting = std::move(waiting);
  snapshot.adapters = listing;
  return snapshot;
}

// Every line a comment or a sample, every sample after its # TYPE, no series twice; returns value by series.
std::map<std::string, double> Parse(const std::string& text) {
  static const std::regex sample(
      R"re(([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\.)*",?)*\})? ([^ ]+))re");
  std::map<std::string, double> values;
  std::set<std::string> types;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("# TYPE ", 0) == 0) {
      const std::string name = line.substr(7, line.find(' ', 7) - 7);
      EXPECT_TRUE(types.insert(name).second) << "two types: " << name;
      continue;
    }
    if (line.rfind("# HELP ", 0) == 0) continue;
    std::smatch match;
    EXPECT_TRUE(std::regex_match(line, match, sample)) << line;
    const std::string name = match[1].str();
    const std::string base = std::regex_replace(name, std::regex("_(bucket|sum|count)$"), "");
    EXPECT_TRUE(types.count(name) == 1 || types.count(base) == 1) << "no type before " << line;
    const std::string series = name + match[2].str();
    EXPECT_TRUE(values.emplace(series, std::stod(match[3].str())).second) << "twice: " << series;
  }
  return values;
}

TEST(MetricsTest, StepsOnADeviceAreCountedByHowTheyRan) {
  Metrics metrics;
  metrics.SetModel("m", "0");
  EXPECT_THAT(metrics.Text(nullptr, 1), Not(HasSubstr("lorad_device_steps_total{")));
  metrics.OnStep({});  // on the CPU
  metrics.OnStep({.device = {.how = "captured", .graphs = 1, .graph_bytes = 4096}});
  metrics.OnStep({.behind = true, .device = {.how = "replayed", .graphs = 1, .graph_bytes = 4096}});
  metrics.OnStep({.device = {.how = "replayed", .graphs = 1, .graph_bytes = 4096}});
  metrics.OnStep({.device = {.how = "prefill", .graphs = 2, .graph_bytes = 8192}});
  auto values = Parse(metrics.Text(nullptr, 1));
  EXPECT_EQ(values["lorad_device_steps_total{how=\"captured\",model_name=\"m\"}"] +
                values["lorad_device_steps_total{model_name=\"m\",how=\"captured\"}"],
            1);
  EXPECT_EQ(values["lorad_device_steps_total{how=\"replayed\",model_name=\"m\"}"] +
                values["lorad_device_steps_total{model_name=\"m\",how=\"replayed\"}"],
            2);
  EXPECT_EQ(values["lorad_device_steps_behind_total{model_name=\"m\"}"], 1);
  EXPECT_EQ(values["lorad_device_graphs{model_name=\"m\"}"], 2);
  EXPECT_EQ(values["lorad_device_graph_bytes{model_name=\"m\"}"], 8192);
}

TEST(MetricsTest, ThePageIsValidAndHasTheNamesThatGatewaysRead) {
  Metrics metrics;
  metrics.SetModel("tiny \"quoted\"", "0.1");
  metrics.OnStep(
      {.rows_tokens = 7, .sequences = 2, .distinct_adapters = 1, .plan_us = 10, .execute_us = 5000, .commit_us = 20});
  metrics.OnScheduled(100);
  metrics.OnFirstToken(2000);
  metrics.OnToken("sql", 1, -1);
  metrics.OnToken("sql", 1, 30'000);
  metrics.OnToken("", 1, 30'000);
  SequenceStats ended;
  ended.reason = FinishReason::kLength;
  ended.usage.prompt_tokens = 5;
  ended.queue_us = 100;  // Told before, and not counted twice.
  ended.first_token_us = 2000;
  ended.end_to_end_us = 9000;
  metrics.OnFinish(ended);
  SequenceStats late;
  late.begun = false;
  late.code = absl::StatusCode::kResourceExhausted;
  late.late = true;
  metrics.OnFinish(late);
  metrics.OnAdapterLoaded("sql", LoadedFrom::kDisk, 12'000);
  for (int i = 0; i < 3; ++i) metrics.OnAdapterLoaded("sql", LoadedFrom::kHost, 2'000);
  metrics.OnAdapterEvicted("sql");
  metrics.OnAdapterLoadFailed("bad");
  metrics.OnPreempted("sql");
  metrics.CountRefused(absl::StatusCode::kResourceExhausted);
  const EngineSnapshot snapshot = Snapshot({"a", "b"}, {"c"});
  const std::string text = metrics.Text(&snapshot, 1000);
  const auto values = Parse(text);

  const std::string model = "model_name=\"tiny \\\"quoted\\\"\"";
  const auto value = [&](const std::string& name, const std::string& labels = "") {
    const std::string series = name + "{" + model + (labels.empty() ? "" : "," + labels) + "}";
    const auto it = values.find(series);
    EXPECT_TRUE(it != values.end()) << "no " << series << " in\n" << text;
    return it == values.end() ? -1.0 : it->second;
  };
  EXPECT_EQ(value("vllm:num_requests_running"), 3);
  EXPECT_EQ(value("vllm:num_requests_waiting"), 2);
  EXPECT_EQ(value("vllm:kv_cache_usage_perc"), 0.25);
  EXPECT_EQ(value("vllm:cache_config_info", "block_size=\"16\",num_gpu_blocks=\"50\""), 1);
  EXPECT_EQ(
      value("vllm:lora_requests_info", "max_lora=\"14\",running_lora_adapters=\"a,b\",waiting_lora_adapters=\"c\""),
      1000);
  EXPECT_EQ(value("vllm:prompt_tokens_total"), 5);
  EXPECT_EQ(value("vllm:generation_tokens_total"), 3);
  EXPECT_EQ(value("vllm:num_preemptions_total"), 1);
  EXPECT_EQ(value("vllm:request_success_total", "finished_reason=\"length\""), 1);
  EXPECT_EQ(value("vllm:request_success_total", "finished_reason=\"stop\""), 0);
  EXPECT_EQ(value("vllm:time_to_first_token_seconds_count"), 1);
  EXPECT_EQ(value("vllm:inter_token_latency_seconds_count"), 2);
  EXPECT_EQ(value("vllm:e2e_request_latency_seconds_count"), 1);
  EXPECT_EQ(value("vllm:request_queue_time_seconds_count"), 1);
  EXPECT_EQ(value("vllm:prefix_cache_queries_total"), 300);
  EXPECT_EQ(value("vllm:prefix_cache_hits_total"), 160);
  EXPECT_EQ(value("lorad_prefix_cache_blocks"), 7);
  EXPECT_EQ(value("lorad_prefix_cache_evictions_total"), 2);
  EXPECT_EQ(value("lorad_pool_pages", "owner=\"cached\""), 10);
  EXPECT_EQ(value("lorad_pool_pages", "owner=\"adapter\""), 15);
  EXPECT_EQ(value("lorad_adapters", "state=\"resident\""), 2);
  EXPECT_EQ(value("lorad_adapter_load_seconds_count", "source=\"disk\""), 1);
  EXPECT_EQ(value("lorad_adapter_load_seconds_count", "source=\"host\""), 3);
  EXPECT_EQ(value("lorad_host_adapters"), 4);
  EXPECT_EQ(value("lorad_host_adapter_bytes"), 12345);
  EXPECT_EQ(value("lorad_adapter_evictions_total"), 1);
  EXPECT_EQ(value("lorad_adapter_load_failures_total"), 1);
  EXPECT_EQ(value("lorad_requests_refused_total", "code=\"RESOURCE_EXHAUSTED\""), 1);
  EXPECT_EQ(value("lorad_requests_late_total"), 1);
  EXPECT_EQ(value("lorad_adapter_generation_tokens_total", "adapter=\"sql\""), 2);
  EXPECT_EQ(value("lorad_adapter_generation_tokens_total", "adapter=\"(base)\""), 1);
  EXPECT_EQ(value("lorad_step_seconds_count"), 1);
}

TEST(MetricsTest, LoraRequestsInfoIsOneSeriesWhateverHappens) {
  Metrics metrics;
  metrics.SetModel("m", "0.1");
  for (const auto& resident : std::vector<std::vector<std::string>>{{"a"}, {"a", "b"}, {}, {"b"}}) {
    const EngineSnapshot snapshot = Snapshot(resident, {});
    const auto values = Parse(metrics.Text(&snapshot, 1));
    int series = 0;
    for (const auto& [name, value] : values) series += name.rfind("vllm:lora_requests_info{", 0) == 0;
    EXPECT_EQ(series, 1);
  }
  EXPECT_THAT(metrics.Text(nullptr, 1), HasSubstr("running_lora_adapters=\"b\""));
}

TEST(MetricsTest, AThousandAdaptersTakeAHundredSeriesAndLoseNoToken) {
  Metrics metrics;
  metrics.SetModel("m", "0.1");
  int64_t total = 0;
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 1000; ++i) {
      const int64_t tokens = i >= 950 ? 50 : 1;  // The last fifty are the busiest, and come last.
      metrics.OnToken("adapter-" + std::to_string(i), tokens, -1);
      total += tokens;
    }
  }
  const std::string text = metrics.Text(nullptr, 1);
  double sum = 0;
  int series = 0;
  for (const auto& [name, value] : Parse(text)) {
    if (name.rfind("lorad_adapter_generation_tokens_total{", 0) != 0) continue;
    ++series;
    sum += value;
  }
  EXPECT_EQ(series, 101);
  EXPECT_EQ(sum, static_cast<double>(total));
  for (int i = 950; i < 1000; ++i) EXPECT_THAT(text, HasSubstr("adapter=\"adapter-" + std::to_string(i) + "\""));
}

// A snapshot with these adapters, each with the rows of one layer's two experts.
EngineSnapshot RoutedSnapshot(const std::map<std::string, std::shared_ptr<ExpertLoad>>& adapters) {
  EngineSnapshot snapshot;
  auto listing = std::make_shared<AdapterListing>();
  for (const auto& [name, load] : adapters) {
    auto info = std::make_shared<AdapterInfo>();
    info->name = name;
    info->state = AdapterState::kHost;
    info->expert_load = load;
    listing->all.push_back(info);
  }
  snapshot.adapters = listing;
  return snapshot;
}

std::shared_ptr<ExpertLoad> LoadOf(int64_t first, int64_t second) {
  auto load = std::make_shared<ExpertLoad>(1, 2);
  load->Counters(0)[0] = first;
  load->Counters(0)[1] = second;
  return load;
}

TEST(MetricsTest, RoutedAdaptersAmongTheBusiestTellOfTheirExperts) {
  Metrics metrics;
  metrics.SetModel("m", "0.1");
  metrics.OnToken("moe", 1, -1);
  metrics.OnToken("plain", 1, -1);
  const auto text = [&](const std::map<std::string, std::shared_ptr<ExpertLoad>>& adapters) {
    const EngineSnapshot snapshot = RoutedSnapshot(adapters);
    return metrics.Text(&snapshot, 1);
  };
  const std::string tokens = "lorad_adapter_expert_tokens_total{model_name=\"m\",adapter=\"moe\"}";
  const std::string imbalance = "lorad_adapter_expert_imbalance{model_name=\"m\",adapter=\"moe\"}";
  const auto load = LoadOf(3, 1);
  const auto values = Parse(text({{"idle", LoadOf(1, 1)}, {"moe", load}, {"plain", nullptr}}));
  EXPECT_EQ(values.at(tokens), 4);
  EXPECT_EQ(values.at(imbalance), 1.5);
  int series = 0;
  for (const auto& [name, value] : values) series += name.rfind("lorad_adapter_expert_", 0) == 0;
  EXPECT_EQ(series, 2);  // none for who answered nothing, none for who has no experts, none for each layer or expert

  load->Counters(0)[1] += 4;
  EXPECT_EQ(Parse(text({{"moe", load}})).at(tokens), 8);
  // Replaced: the total goes on, the balance is the new one's.
  const auto replaced = Parse(text({{"moe", LoadOf(0, 5)}}));
  EXPECT_EQ(replaced.at(tokens), 13);
  EXPECT_EQ(replaced.at(imbalance), 2);
  EXPECT_THAT(text({}), Not(HasSubstr("lorad_adapter_expert_imbalance{")));
}

TEST(MetricsTest, AScrapeKeepsNobodyWaitingAndNothingIsLost) {
  Metrics metrics;
  metrics.SetModel("m", "0.1");
  {
    const std::unique_lock<std::mutex> scrape = MetricsPeer::HoldAsAScrape(&metrics);
    // Would never end if any of these waited for the scrape.
    std::thread engine([&] {
      for (int i = 0; i < 1000; ++i) metrics.OnToken("a", 1, 10);
      metrics.OnScheduled(1);
      metrics.OnFirstToken(1);
      metrics.OnStep({});
      metrics.OnFinish({});
      metrics.OnAdapterLoaded("a", LoadedFrom::kDisk, 1);
      metrics.OnAdapterEvicted("a");
      metrics.OnPreempted("a");
      metrics.CountRefused(absl::StatusCode::kUnavailable);
    });
    engine.join();
  }
  const auto values = Parse(metrics.Text(nullptr, 1));
  for (const auto& [series, expected] : std::map<std::string, double>{{"vllm:generation_tokens_total", 1000},
                                                                      {"vllm:time_to_first_token_seconds_count", 1},
                                                                      {"vllm:request_queue_time_seconds_count", 1},
                                                                      {"vllm:e2e_request_latency_seconds_count", 0},
                                                                      {"lorad_step_seconds_count", 1},
                                                                      {"lorad_adapter_evictions_total", 1},
                                                                      {"vllm:num_preemptions_total", 1}}) {
    EXPECT_EQ(values.at(series + "{model_name=\"m\"}"), expected) << series;
  }
}

TEST(MetricsTest, NothingIsSaidBeforeTheModelIsKnown) {
  Metrics metrics;
  metrics.OnToken("a", 1, -1);
  EXPECT_EQ(metrics.Text(nullptr, 1), "");
}

TEST(BusyNamesTest, MemoryIsBoundedForAnyNumberOfNames) {
  BusyNames busy(10, 20);
  for (int i = 0; i < 10000; ++i) {
    busy.Count(std::to_string(i), 1);
    EXPECT_LE(busy.tracked(), 31u);
  }
}

TEST(BusyNamesTest, ABusierNameTakesThePlaceOfTheLeastBusy) {
  BusyNames busy(2, 4);
  EXPECT_TRUE(busy.Count("a", 10).shown);
  EXPECT_TRUE(busy.Count("b", 5).shown);
  EXPECT_FALSE(busy.Count("c", 5).shown);
  const BusyNames::Change change = busy.Count("c", 1);
  EXPECT_TRUE(change.shown);
  EXPECT_EQ(change.retired, "b");
  EXPECT_FALSE(busy.Count("b", 0).shown);
}

}  // namespace
}  // namespace lorad
