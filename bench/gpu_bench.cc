// The engine, loader and pool of the daemon on a CUDA device, without gRPC: how near decode comes to the memory's
// bandwidth and prefill to the bf16 peak, what adapters cost (kept), and what their loads cost those who wait for them
// and those who do not. Bound and peak are measured in the same run.
//
//   gpu_bench [llama2-7b|llama3-8b|small …] [--only=decode,prefill,kept,cold,slots]
//
// liblorad_cuda.so: LORAD_CUDA_LIBRARY, or beside the program or in ../lib. `small` is for proving the program.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bench/adapter_folders.h"
#include "bench/device_llama.h"
#include "bench/gpu_scale.h"
#include "bench/traffic.h"
#include "model/base/check.h"
#include "model/ops/open_cuda.h"
#include "tests/device/test_device.h"
#include "tests/support/engine_fixture.h"

namespace lorad::bench {
namespace {

constexpr ModelShape kShapes[] = {{"llama3-8b", 4096, 32, 32, 8, 14336, 128256, false},
                                  {"llama2-7b", 4096, 32, 32, 32, 11008, 32000, false},
                                  {"small", 64, 2, 4, 2, 96, 101, false}};

void Print(const std::string& what, double value, const char* unit = "") {
  std::printf("%-44s %10.3f %s\n", what.c_str(), value, unit);
  std::fflush(stdout);
}

// Of some times in microseconds, in milliseconds; `at` from 0, the least, to 1, the largest.
double MsAt(double at, std::vector<int64_t> times_us) {
  if (times_us.empty()) return 0.0;
  std::sort(times_us.begin(), times_us.end());
  return 1e-3 * static_cast<double>(times_us[static_cast<size_t>(at * static_cast<double>(times_us.size() - 1))]);
}

class GpuBench final {
 public:
  GpuBench(const ModelShape& shape, Scale scale, std::set<std::string> only)
      : scale_(std::move(scale)), only_(std::move(only)), llama_(shape), adapters_(shape) {
    std::printf("\n%s: %.1f GB of weights, of which a step reads %.1f\n", shape.name,
                static_cast<double>(llama_.model().weight_bytes()) / 1e9,
                static_cast<double>(llama_.step_weight_bytes()) / 1e9);
  }

  void Run() {
    speed_ = MeasureDevice(scale_.copied_bytes, scale_.matrix_side);
    if (Wants("decode")) Decode();
    if (Wants("prefill")) Prefill();
    if (Wants("cold")) ColdLoads();
    if (Wants("slots")) MoreAdaptersThanSlots();
    if (Wants("kept")) KeptWithAdapters();  // last: it loads gigabytes of adapters
  }

 private:
  bool Wants(const std::string& part) const { return only_.empty() || only_.contains(part); }

  // An engine whose pool holds so many streams of `ask` and so many bytes of adapters.
  std::unique_ptr<ThreadedEngine> EngineFor(int64_t streams, const Ask& ask, int64_t adapter_bytes = 0,
                                            const std::string& adapter_dir = "") {
    const int64_t blocks = (ask.prompt_tokens + ask.output_tokens) / kKvBlockTokens + 2;
    EngineSetup setup;
    setup.device = TestDeviceMemory();
    setup.page_bytes = page_bytes();
    setup.pool_bytes = streams * blocks * llama_.model().kv_layout().block_bytes() + adapter_bytes;
    setup.engine.max_batch_tokens = 8192;
    setup.engine.max_sequences = streams;
    setup.engine.prefix_cache = false;
    setup.engine.adapter_dir = adapter_dir;
    return std::make_unique<ThreadedEngine>(&llama_.model(), llama_.folder(), setup);
  }
  int64_t AdapterBytes(int64_t rank) { return adapters_.PoolBytes(rank, page_bytes()); }
  int64_t page_bytes() { return std::min<int64_t>(int64_t{64} << 10, llama_.model().kv_layout().block_bytes()); }

  // The name of the i-th request's adapter.
  using AdapterOf = std::function<std::string(int64_t)>;
  static std::string Base(int64_t) { return ""; }
  // Tokens a second of so many requests, `streams` at a time.
  static double Rate(Traffic& traffic, const Ask& ask, int64_t requests, int64_t streams, const AdapterOf& adapter_of) {
    std::vector<Ask> asks(static_cast<size_t>(requests), ask);
    for (int64_t i = 0; i < requests; ++i) asks[static_cast<size_t>(i)].adapter = adapter_of(i);
    return TokensPerSecond(traffic.Run(asks, streams));
  }
  // Of the base's rate, each round's beside its neighbour, when the adapters have run once.
  double MedianRatio(const std::function<double(const AdapterOf&)>& rate, const AdapterOf& adapter_of) const {
    rate(adapter_of);
    std::vector<double> ratios;
    for (int round = 0; round < scale_.rounds; ++round) {
      const double without = rate(&Base);
      ratios.push_back(rate(adapter_of) / without);
    }
    std::sort(ratios.begin(), ratios.end());
    return ratios[ratios.size() / 2];
  }

  void Decode() {
    for (const int64_t batch : scale_.decode_batches) {
      const auto engine = EngineFor(batch, scale_.decode);
      Traffic traffic(&engine->engine(), llama_.shape().vocab);
      const std::vector<Ask> asks(static_cast<size_t>(batch), scale_.decode);
      traffic.Run(asks, batch);  // kernels are loaded, the allocator has its blocks
      const double rate = SteadyTokensPerSecond(traffic.Run(asks, batch));
      // A step reads the weights once, and the KV of every stream, which is half grown on average.
      const double context =
          static_cast<double>(scale_.decode.prompt_tokens) + static_cast<double>(scale_.decode.output_tokens) / 2;
      const double step_bytes = static_cast<double>(llama_.step_weight_bytes()) +
                                static_cast<double>(batch) * context * static_cast<double>(llama_.kv_token_bytes());
      const double bound = static_cast<double>(batch) * speed_.bytes_per_second / step_bytes;
      Print(absl::StrCat("decode, batch ", batch), rate, "tokens/s");
      Print("  of the bandwidth's bound", rate / bound);
    }
  }

  // Prompts of one token each: of the base, then with one adapter for all of them, and with one for each stream.
  void Prefill() {
    const int64_t streams = scale_.prefill_streams;
    int64_t adapter_bytes = 0;
    for (const int64_t rank : scale_.prefill_ranks) adapter_bytes += streams * AdapterBytes(rank);
    const auto engine = EngineFor(streams, scale_.prefill, adapter_bytes);
    Traffic traffic(&engine->engine(), llama_.shape().vocab);
    const auto rate = [&](const AdapterOf& adapter_of) {
      return Rate(traffic, scale_.prefill, streams, streams, adapter_of);
    };
    rate(&Base);
    const double prompts_per_second = rate(&Base);
    Print(absl::StrCat("prefill, prompts of ", scale_.prefill.prompt_tokens),
          prompts_per_second * static_cast<double>(scale_.prefill.prompt_tokens), "tokens/s");
    Print("  of the bf16 product's speed",
          prompts_per_second * llama_.PrefillFlops(scale_.prefill.prompt_tokens) / speed_.bf16_flops);
    for (const int64_t rank : scale_.prefill_ranks) {
      const auto name = [&](int64_t i) { return absl::StrCat("p", rank, "-", i); };
      for (int64_t i = 0; i < streams; ++i) Load(*engine, name(i), adapters_.Of(rank));
      for (const int64_t count : {int64_t{1}, streams}) {
        const auto of_adapters = [&](int64_t i) { return name(i % count); };
        Print(absl::StrCat("  kept(", count, ", r", rank, "), median of ", scale_.rounds),
              MedianRatio(rate, of_adapters));
      }
    }
  }

  void KeptWithAdapters() {
    int64_t adapter_bytes = 0;
    for (const Kept& kept : scale_.series) {
      const int64_t most = *std::max_element(kept.counts.begin(), kept.counts.end());
      for (int64_t i = 0; i < most; ++i) adapter_bytes += AdapterBytes(RankOf(kept, i));
    }
    const auto engine = EngineFor(scale_.kept_streams, scale_.kept, adapter_bytes);
    Traffic traffic(&engine->engine(), llama_.shape().vocab);
    const auto rate = [&](const AdapterOf& adapter_of, int64_t requests) {
      return Rate(traffic, scale_.kept, requests, scale_.kept_streams, adapter_of);
    };
    rate(&Base, scale_.kept_requests);
    double alone = 0.0;
    for (int round = 0; round < scale_.rounds; ++round) alone = std::max(alone, rate(&Base, scale_.kept_requests));
    Print(absl::StrCat("base, ", scale_.kept_streams, " streams"), alone, "tokens/s");

    for (const Kept& kept : scale_.series) {
      int64_t loaded = 0;
      for (const int64_t count : kept.counts) {
        for (; loaded < count; ++loaded) Load(*engine, NameOf(kept, loaded), adapters_.Of(RankOf(kept, loaded)));
        const int64_t requests = std::max(count, scale_.kept_requests);
        const auto of_adapters = [&](int64_t i) { return NameOf(kept, i % count); };
        Print(absl::StrCat("kept(", count, ", ", kept.name, "), median of ", scale_.rounds),
              MedianRatio([&](const AdapterOf& adapter_of) { return rate(adapter_of, requests); }, of_adapters));
      }
    }
    double beside = 0.0;
    for (int round = 0; round < scale_.rounds; ++round) beside = std::max(beside, rate(&Base, scale_.kept_requests));
    Print("base beside all of them, of base alone", beside / alone);
  }

  // Streams of the base decode while adapters that nobody has read are asked for, one after the other.
  void ColdLoads() {
    constexpr int64_t kRank = 16;
    const std::string folders = adapters_.ToFind("cold", scale_.cold_loads, kRank);
    const auto engine =
        EngineFor(scale_.cold_streams + 1, scale_.beside_cold, scale_.cold_loads * AdapterBytes(kRank), folders);
    Traffic traffic(&engine->engine(), llama_.shape().vocab);
    const Ask first_token = {"", 16, 1};
    traffic.Wait(traffic.Send(first_token));
    std::vector<int64_t> sent;
    for (int64_t i = 0; i < scale_.cold_streams; ++i) sent.push_back(traffic.Send(scale_.beside_cold));
    std::vector<Stream> cold, warm;
    for (int64_t i = 0; i < scale_.cold_loads; ++i) {
      Ask ask = first_token;
      ask.adapter = absl::StrCat("a", i);
      for (std::vector<Stream>* const times : {&cold, &warm}) {
        times->push_back(traffic.Wait(traffic.Send(ask)));
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
    }
    std::vector<int64_t> quiet_us, loading_us;
    for (const int64_t each : sent) {
      const Stream stream = traffic.Wait(each);
      for (size_t i = 1; i < stream.token_us.size(); ++i) {
        const int64_t from_us = stream.token_us[i - 1], to_us = stream.token_us[i];
        const bool loading = std::any_of(cold.begin(), cold.end(), [&](const Stream& load) {
          return load.submitted_us < to_us && load.first_us() > from_us;
        });
        const bool busy = std::any_of(warm.begin(), warm.end(), [&](const Stream& other) {
          return other.submitted_us < to_us && other.first_us() > from_us;
        });
        if (loading) loading_us.push_back(to_us - from_us);
        if (!loading && busy) quiet_us.push_back(to_us - from_us);
      }
    }
    std::printf("adapters of rank %lld, %.1f MB each, beside %lld streams\n", static_cast<long long>(kRank),
                static_cast<double>(AdapterBytes(kRank)) / 1e6, static_cast<long long>(scale_.cold_streams));
    PrintFirstTokens("  first token, cold", cold);
    PrintFirstTokens("  first token, loaded", warm);
    for (const auto& [name, at] :
         std::vector<std::pair<const char*, double>>{{"median", 0.5}, {"99 %", 0.99}, {"most", 1.0}}) {
      Print(absl::StrCat("  between the streams' tokens, no load, ", name), MsAt(at, quiet_us), "ms");
      Print(absl::StrCat("  the same during a load, ", name), MsAt(at, loading_us), "ms");
    }
  }

  // Twice as many adapters as fit, in turn: each has gone when its turn comes again.
  void MoreAdaptersThanSlots() {
    constexpr int64_t kRank = 16;
    const int64_t count = 2 * scale_.slots;
    const std::string folders = adapters_.ToFind("slots", count, kRank);
    const auto engine = EngineFor(scale_.slot_streams, scale_.slot, scale_.slots * AdapterBytes(kRank), folders);
    Traffic traffic(&engine->engine(), llama_.shape().vocab);
    const auto run = [&](int64_t adapters) {
      std::vector<Ask> asks(static_cast<size_t>(scale_.slot_requests), scale_.slot);
      for (size_t i = 0; adapters > 0 && i < asks.size(); ++i) {
        asks[i].adapter = absl::StrCat("a", static_cast<int64_t>(i) % adapters);
      }
      return traffic.Run(asks, scale_.slot_streams);
    };
    run(0);
    const double base = TokensPerSecond(run(0));
    run(scale_.slots / 2);
    const double resident = TokensPerSecond(run(scale_.slots / 2));
    const std::vector<Stream> streams = run(count);
    const auto in_pool = std::ssize(engine->engine().snapshot()->adapters->resident);
    LORAD_CHECK(in_pool < count);  // else nothing was evicted
    std::printf("%lld adapters of rank %lld, %lld of them in the pool at the end, %lld streams\n",
                static_cast<long long>(count), static_cast<long long>(kRank), static_cast<long long>(in_pool),
                static_cast<long long>(scale_.slot_streams));
    Print("  tokens of half as many as fit, of the base's", resident / base);
    Print("  tokens of twice as many, of the base's", TokensPerSecond(streams) / base);
    PrintFirstTokens("  first token, twice as many", streams);
  }

  static int64_t RankOf(const Kept& kept, int64_t i) { return kept.ranks[static_cast<size_t>(i) % kept.ranks.size()]; }
  static std::string NameOf(const Kept& kept, int64_t i) { return absl::StrCat("n-", kept.name, "-", i); }

  static void Load(ThreadedEngine& engine, const std::string& name, const std::string& folder) {
    const absl::Status status = engine.Load(name, folder);
    if (status.ok()) return;
    std::fprintf(stderr, "%s: %s\n", name.c_str(), status.ToString().c_str());
    std::exit(1);
  }

  static void PrintFirstTokens(const std::string& what, const std::vector<Stream>& streams) {
    std::vector<int64_t> times_us;
    for (const Stream& stream : streams) times_us.push_back(stream.first_us() - stream.submitted_us);
    Print(what + ", median", MsAt(0.5, times_us), "ms");
    Print(what + ", most", MsAt(1.0, times_us), "ms");
  }

  const Scale scale_;
  const std::set<std::string> only_;
  DeviceLlama llama_;
  const AdapterFolders adapters_;
  DeviceSpeed speed_ = {};
};

int Main(int argc, char** argv) {
  std::vector<const ModelShape*> shapes;
  std::set<std::string> only;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const auto* const shape = std::find_if(std::begin(kShapes), std::end(kShapes),
                                           [&](const ModelShape& each) { return argument == each.name; });
    if (shape != std::end(kShapes)) {
      shapes.push_back(shape);
    } else if (argument.starts_with("--only=")) {
      only = absl::StrSplit(argument.substr(7), ',');
    } else {
      std::fprintf(stderr, "%s [llama2-7b|llama3-8b|small …] [--only=decode,prefill,kept,cold,slots]\n", argv[0]);
      return 2;
    }
  }
  if (shapes.empty()) shapes = {&kShapes[0], &kShapes[1]};
  OpenTestDevice();
  for (const std::string& line : CheckFastForms()) std::printf("%s\n", line.c_str());
  for (const ModelShape* const shape : shapes) {
    GpuBench(*shape, std::string(shape->name) == "small" ? Small() : Large(), only).Run();
  }
  return 0;
}

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) { return lorad::bench::Main(argc, argv); }
