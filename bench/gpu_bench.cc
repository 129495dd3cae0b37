#include "bench/gpu_bench.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/device/test_device.h"

namespace lorad::bench {
namespace {

// Of some times in microseconds, in milliseconds; `at` from 0, the least, to 1, the largest.
double MsAt(double at, std::vector<int64_t> times_us) {
  if (times_us.empty()) return 0.0;
  std::sort(times_us.begin(), times_us.end());
  return 1e-3 * static_cast<double>(times_us[static_cast<size_t>(at * static_cast<double>(times_us.size() - 1))]);
}

}  // namespace

GpuBench::GpuBench(const ModelShape& shape, Scale scale, Options options, Report* report)
    : scale_(std::move(scale)), options_(std::move(options)), report_(report), llama_(shape), adapters_(shape) {
  report_->Of(shape.name);
  std::printf("\n%s: %.1f GB of weights, of which a step reads %.1f\n", shape.name,
              static_cast<double>(llama_.model().weight_bytes()) / 1e9,
              static_cast<double>(llama_.step_weight_bytes()) / 1e9);
}

bool GpuBench::Run() {
  speed_ = MeasureDevice(scale_.copied_bytes, scale_.matrix_side);
  Print("memory", speed_.bytes_per_second / 1e9, "GB/s");
  Print("bf16 product", speed_.bf16_flops / 1e12, "TFLOP/s");
  bool passed = Runs("forms", [this] { CompareForms(); });
  passed &= Runs("decode", [this] { Decode(); });
  passed &= Runs("prefill", [this] { Prefill(); });
  passed &= Runs("cold", [this] { ColdLoads(); });
  passed &= Runs("slots", [this] { MoreAdaptersThanSlots(); });
  passed &= Runs("kept", [this] { KeptWithAdapters(); });  // last: it loads gigabytes of adapters
  return passed;
}

bool GpuBench::Runs(const std::string& part, const std::function<void()>& measure) {
  if (!options_.only.empty() && !options_.only.contains(part)) return true;
  try {
    measure();
    return true;
  } catch (const std::exception& error) {  // a part's own, LibTorch's, or of a StatusOr without its value
    report_->Note(absl::StrCat("part ", part, " failed: ", error.what()));
    ExitIfBroken();
    return false;
  }
}

std::unique_ptr<ThreadedEngine> GpuBench::EngineFor(int64_t streams, const Ask& ask, int64_t adapter_bytes,
                                                    const std::string& adapter_dir, int64_t host_adapter_bytes) {
  const int64_t blocks = (ask.prompt_tokens + ask.output_tokens) / kKvBlockTokens + 2;
  EngineSetup setup;
  setup.device = TestDeviceMemory();
  if (options_.graphs) setup.graphs.emplace();
  setup.page_bytes = page_bytes();
  setup.pool_bytes = streams * blocks * llama_.model().kv_layout().block_bytes() + adapter_bytes;
  setup.engine.steps_a_turn = EngineConfig().steps_a_turn;
  setup.engine.max_batch_tokens = 8192;
  setup.engine.max_sequences = streams;
  setup.engine.prefix_cache = false;
  setup.engine.adapter_dir = adapter_dir;
  setup.engine.host_adapter_bytes = host_adapter_bytes;
  return std::make_unique<ThreadedEngine>(&llama_.model(), llama_.folder(), setup);
}

void GpuBench::End(ThreadedEngine& engine) {
  engine.Stop();
  CountingObserver& observer = engine.parts().observer;
  const std::string ran = absl::StrJoin(observer.device_steps, ", ", [](std::string* out, const auto& entry) {
    absl::StrAppend(out, entry.second, " ", entry.first);
  });
  report_->Note(absl::StrCat("  ", observer.steps, " steps: ", ran.empty() ? "none captured" : ran, "; ",
                             observer.steps_behind, " behind another"));
  if (!options_.graphs) return;
  if (observer.device_steps["replayed"] == 0) Fail("no step was replayed");
  if (observer.device_steps["capture_failed"] > 0) Fail("a step could not be captured");
}

void GpuBench::Load(ThreadedEngine& engine, const std::string& name, const std::string& folder) {
  const absl::Status status = engine.Load(name, folder);
  if (!status.ok()) Fail(absl::StrCat(name, ": ", status.ToString()));
}

void GpuBench::PrintFirstTokens(const std::string& what, const std::vector<Stream>& streams) {
  std::vector<int64_t> times_us;
  for (const Stream& stream : streams) times_us.push_back(stream.first_us() - stream.submitted_us);
  Print(what + ", median", MsAt(0.5, times_us), "ms");
  Print(what + ", most", MsAt(1.0, times_us), "ms");
}

// Streams of the base decode while adapters that nobody has read are asked for, one after the other.
void GpuBench::ColdLoads() {
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
  report_->Note(absl::StrCat("adapters of rank ", kRank, ", ", AdapterBytes(kRank) / 1'000'000, " MB each, beside ",
                             scale_.cold_streams, " streams"));
  PrintFirstTokens("  first token, cold", cold);
  PrintFirstTokens("  first token, loaded", warm);
  for (const auto& [name, at] :
       std::vector<std::pair<const char*, double>>{{"median", 0.5}, {"99 %", 0.99}, {"most", 1.0}}) {
    Print(absl::StrCat("  between the streams' tokens, no load, ", name), MsAt(at, quiet_us), "ms");
    Print(absl::StrCat("  the same during a load, ", name), MsAt(at, loading_us), "ms");
  }
  End(*engine);
}

// Twice as many adapters as fit, in turn: each has gone when its turn comes again, and is read again, or copied from
// the host.
void GpuBench::MoreAdaptersThanSlots() {
  constexpr int64_t kRank = 16;
  const std::string folders = adapters_.ToFind("slots", 2 * scale_.slots, kRank);
  for (const bool warm : {false, true}) MoreAdaptersThanSlots(folders, kRank, warm);
}

void GpuBench::MoreAdaptersThanSlots(const std::string& folders, int64_t rank, bool warm) {
  const int64_t count = 2 * scale_.slots;
  const int64_t host_bytes = warm ? 2 * count * AdapterBytes(rank) : 0;
  const std::string from = warm ? ", warm host" : ", from disk";
  const auto engine =
      EngineFor(scale_.slot_streams, scale_.slot, scale_.slots * AdapterBytes(rank), folders, host_bytes);
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
  if (warm) run(count);  // each is read once
  const std::vector<Stream> streams = run(count);
  const auto in_pool = std::ssize(engine->engine().snapshot()->adapters->resident);
  if (in_pool == count) Fail("no adapter was evicted");
  report_->Note(absl::StrCat(count, " adapters of rank ", rank, from, ", ", in_pool,
                             " of them in the pool at the end, ", scale_.slot_streams, " streams"));
  if (!warm) Print("  tokens of half as many as fit, of the base's", resident / base);
  Print(absl::StrCat("  tokens of twice as many", from, ", of the base's"), TokensPerSecond(streams) / base);
  PrintFirstTokens(absl::StrCat("  first token, twice as many", from), streams);
  // One after the other and alone: what a load itself takes. Asked again, each is in the pool.
  std::vector<Stream> loaded, again;
  for (int64_t i = 0; i < count; ++i) {
    for (std::vector<Stream>* const times : {&loaded, &again}) {
      times->push_back(traffic.Wait(traffic.Send({absl::StrCat("a", i), 16, 1})));
    }
  }
  PrintFirstTokens(absl::StrCat("  first token alone", from), loaded);
  PrintFirstTokens(absl::StrCat("  first token alone, in the pool", warm ? " again" : ""), again);
  End(*engine);
  if ((engine->parts().observer.warm_loads > 0) != warm) Fail("loads did not come from where they were to");
}

}  // namespace lorad::bench
