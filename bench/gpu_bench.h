#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "bench/adapter_folders.h"
#include "bench/device_llama.h"
#include "bench/form_answers.h"
#include "bench/gpu_scale.h"
#include "bench/report.h"
#include "bench/traffic.h"
#include "tests/support/engine_fixture.h"

namespace lorad::bench {

// What gpu_bench measures of one shape, a part after the other, each with an engine of its own: a part that fails says
// why, and the others run.
class GpuBench final {
 public:
  struct Options {
    std::set<std::string> only;  // names of parts; empty: all
    bool graphs = true;          // decode steps are captured, as the daemon's are
    bool fast_forms = true;      // those that agree with ours are used
  };
  // The report outlives it.
  GpuBench(const ModelShape& shape, Scale scale, Options options, Report* report);

  // Whether no part failed.
  bool Run();

 private:
  bool Runs(const std::string& part, const std::function<void()>& measure);
  // An engine whose pool holds so many streams of `ask` and so many bytes of adapters.
  std::unique_ptr<ThreadedEngine> EngineFor(int64_t streams, const Ask& ask, int64_t adapter_bytes = 0,
                                            const std::string& adapter_dir = "", int64_t host_adapter_bytes = 0);
  // Stops it and says how its steps ran. Fails where decode steps were to be replayed and none was, or a capture
  // failed.
  void End(ThreadedEngine& engine);
  int64_t AdapterBytes(int64_t rank) { return adapters_.PoolBytes(rank, page_bytes()); }
  int64_t page_bytes() { return std::min<int64_t>(int64_t{64} << 10, llama_.model().kv_layout().block_bytes()); }
  static void Load(ThreadedEngine& engine, const std::string& name, const std::string& folder);

  // gpu_forms.cc: whether requests of this shape, with adapters, are answered alike by the fast forms and by ours.
  // Fails where they are not.
  void CompareForms();
  std::vector<FormAnswer> AnswersToCompare(int32_t beginning);

  // gpu_rates.cc: tokens a second.
  void Decode();
  void Prefill();
  void KeptWithAdapters();
  // The name of the i-th request's adapter.
  using AdapterOf = std::function<std::string(int64_t)>;
  // Of the base's rate, each round's beside its neighbour, when the adapters have run once.
  Spread RatiosOf(const std::function<double(const AdapterOf&)>& rate, const AdapterOf& adapter_of) const;
  // What a step of so many streams reads of the base: its weights once, and the KV, half grown on average.
  double StepBytes(int64_t streams, const Ask& ask);

  // gpu_bench.cc: who waits for loads.
  void ColdLoads();
  void MoreAdaptersThanSlots();
  // `warm`: the host keeps all of them.
  void MoreAdaptersThanSlots(const std::string& folders, int64_t rank, bool warm);
  void PrintFirstTokens(const std::string& what, const std::vector<Stream>& streams);
  void Print(const std::string& what, double value, const char* unit = "") { report_->Value(what, value, unit); }

  const Scale scale_;
  const Options options_;
  Report* const report_;
  DeviceLlama llama_;
  const AdapterFolders adapters_;
  DeviceSpeed speed_ = {};
};

}  // namespace lorad::bench
