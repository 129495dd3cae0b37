#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adapters/slot_table.h"
#include "bench/llama_folder.h"
#include "model/causal_lm.h"
#include "model/memory/page_pool.h"
#include "scheduler/executor.h"

namespace lorad::bench {

// What the benches of a step take: [smollm|tinyllama] [rounds], smollm and 30 without. Says on stderr what is wrong,
// and nothing then. Has LibTorch use as many threads as our kernels.
struct StepBenchArgs {
  const ModelShape* shape;
  int rounds;
};
std::optional<StepBenchArgs> ReadStepBenchArgs(int argc, char** argv, int least_rounds);

// A base in memory, with pages for KV and adapters.
class StepModel final {
 public:
  static constexpr int64_t kBlocks = 640;  // of KV

  explicit StepModel(const ModelShape& shape, Quantization quantization = Quantization::kNone);
  CausalLm& model() { return *model_; }
  PagePool* pages() { return pages_.get(); }
  const KvView& kv() const { return kv_; }

 private:
  std::unique_ptr<CausalLm> model_;
  std::unique_ptr<PagePool> pages_;
  PageRun kv_run_;
  KvView kv_;
};

// Adapters without files: the slot table and what it points to, each in one run of pages as in the daemon. The table
// must stand still while a step runs.
class StepAdapters final {
 public:
  StepAdapters(const BaseShape& shape, PagePool* pages);

  // The slot of a new adapter.
  int32_t AddLora(const std::vector<Site>& sites, int32_t rank);
  int32_t AddMixLora(int32_t rank, int32_t experts, int32_t top_k);  // on gate, up and down

  const SlotTable& table() const { return table_; }
  int64_t bytes(size_t slot) const { return bytes_of_slot_[slot]; }

 private:
  int32_t Add(const std::vector<Site>& sites, int32_t rank, int32_t experts);

  const BaseShape& shape_;
  PagePool* const pages_;
  SlotTable table_;
  std::vector<PageRun> runs_;
  std::vector<int64_t> bytes_of_slot_;
  std::deque<std::vector<float>> routers_;
};

}  // namespace lorad::bench
