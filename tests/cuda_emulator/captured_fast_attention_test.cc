// The fast attention in captured steps: its plan is made anew in each replay, of the contexts that the step has.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/all.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/item.h>
#include <ATen/ops/max.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "adapters/graph_seam.h"
#include "bench/llama_folder.h"
#include "model/causal_lm.h"
#include "model/device_step.h"
#include "model/ops/open_cuda.h"
#include "model/step_graphs.h"
#include "tests/cuda_emulator/device_memory.h"
#include "tests/cuda_emulator/tiled_attention.h"
#include "tests/cuda_emulator/torch_device.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using emulator::SetTiledAttention;
using emulator::TiledAttention;
using emulator::TiledAttentionRuns;

const at::Device kDevice(at::kCUDA, 0);
constexpr bench::ModelShape kShape = {"tiny", 128, 2, 2, 1, 64, 96, true};  // a head has 64
constexpr int64_t kBlocksOfASequence = 40, kMostSequences = 100;

class CapturedFastAttentionTest : public testing::Test {
 protected:
  CapturedFastAttentionTest()
      : model_(CausalLm::Load(folder_.path(), {.dtype = DType::kBF16, .device = kDevice}).value()),
        slots_(model_->base_shape()),
        seam_(slots_, model_->base_shape(), kDevice),
        graphs_(StepGraphs::Create(model_.get(), &seam_, {})),
        memory_(emulator::EmulatedLibrary()
                    .memory.create(kMostSequences * kBlocksOfASequence * model_->kv_layout().block_bytes())
                    .value()),
        kv_{memory_->data(), model_->kv_layout().block_bytes(), model_->kv_layout()} {}

  // Every step finds the same keys and values, whatever others wrote.
  void FillCache() {
    const std::vector<uint16_t> keys_and_values = bench::RandomBf16(memory_->bytes() / 2, /*seed=*/7);
    const emulator::DeviceAccess access;
    std::copy_n(reinterpret_cast<const std::byte*>(keys_and_values.data()), memory_->bytes(), memory_->data());
  }

  static at::Tensor Ints(const std::vector<int32_t>& values) { return at::tensor(values, at::kInt); }
  // The logits of a step with these contexts, by a graph.
  at::Tensor Captured(const std::vector<int32_t>& contexts) {
    FillCache();
    return ToHost(graphs_->Forward(Decode(contexts), kv_, base_).value()).clone();
  }
  // That they are ours, by no graph, and of padding no numbers.
  void ExpectOurs(const std::vector<int32_t>& contexts, const at::Tensor& captured) {
    SetTiledAttention(TiledAttention::kFails);
    CheckFastForms();
    FillCache();
    const at::Tensor ours = model_->Forward(Decode(contexts), kv_, base_).value();
    const int64_t rows = ours.size(0);
    const float largest = ours.abs().max().item<float>();
    EXPECT_LE((ours - captured.narrow(0, 0, rows)).abs().max().item<float>(), 0.02f * largest);
    EXPECT_TRUE(captured.narrow(0, rows, captured.size(0) - rows).isnan().all().item<bool>());
  }
  // The next token of a sequence for each context.
  static ForwardBatch Decode(const std::vector<int32_t>& contexts) {
    ForwardBatch batch;
    const auto rows = static_cast<int32_t>(contexts.size());
    std::vector<int32_t> tokens, positions, slots, all;
    at::Tensor table = at::full({rows, kBlocksOfASequence}, -1, at::kInt);
    for (int32_t r = 0; r < rows; ++r) {
      const int32_t context = contexts[static_cast<size_t>(r)], first_block = r * int32_t{kBlocksOfASequence};
      tokens.push_back((11 * r + 3) % int32_t{kShape.vocab});
      positions.push_back(context - 1);
      slots.push_back(first_block * int32_t{kKvBlockTokens} + context - 1);
      all.push_back(r);
      for (int32_t b = 0; b * kKvBlockTokens < context; ++b) table[r][b] = first_block + b;
      batch.sequence_tokens.push_back(context);
      batch.max_context_tokens = std::max<int64_t>(batch.max_context_tokens, context);
    }
    batch.token_ids = Ints(tokens);
    batch.positions = Ints(positions);
    batch.kv_slots = Ints(slots);
    batch.logit_rows = Ints(all);
    all.push_back(rows);
    batch.cu_rows = Ints(all);
    batch.block_table = table;
    batch.rows.starts = batch.head_rows.starts = {0, rows};
    batch.rows.term_starts = batch.head_rows.term_starts = {0, 0};
    return batch;
  }

  const bench::LlamaFolder folder_{kShape};
  const std::unique_ptr<CausalLm> model_;
  const SlotTable slots_;
  SlotGraphSeam seam_;
  const std::unique_ptr<StepGraphs> graphs_;
  const std::unique_ptr<PoolMemory> memory_;
  const KvView kv_;
  BaseOnlySeam base_;
};

TEST_F(CapturedFastAttentionTest, ReplaysAttendAsOursWhateverTheContexts) {
  SetTiledAttention(TiledAttention::kRight);
  ASSERT_THAT(CheckFastForms(), testing::IsEmpty());
  // Contexts of one block and of several chunks, in other rows each time.
  const std::vector<std::vector<int32_t>> steps = {{530, 20, 3}, {640, 639, 1}, {17, 610, 333}, {1, 16, 17}};
  const int before = TiledAttentionRuns();
  std::vector<at::Tensor> fast;
  std::vector<std::string> hows;
  for (const std::vector<int32_t>& contexts : steps) {
    fast.push_back(Captured(contexts));
    hows.emplace_back(graphs_->how());
  }
  EXPECT_THAT(hows, testing::ElementsAre("first", "captured", "replayed", "replayed"));
  EXPECT_EQ(TiledAttentionRuns(), before + 3 * kShape.layers);  // eagerly, before the capture and in it
  for (size_t i = 0; i < steps.size(); ++i) {
    SCOPED_TRACE(i);
    ExpectOurs(steps[i], fast[i]);
  }
}

// A quarter of the step is padding, whose rows have no tiles.
TEST_F(CapturedFastAttentionTest, AHundredRowsInAStepOf128) {
  SetTiledAttention(TiledAttention::kRight);
  ASSERT_THAT(CheckFastForms(), testing::IsEmpty());
  std::vector<int32_t> contexts;
  for (int32_t r = 0; r < 100; ++r) contexts.push_back(1 + r * 7 % 50);
  for (int step = 0; step < 2; ++step) Captured(contexts);
  std::reverse(contexts.begin(), contexts.end());
  const at::Tensor replayed = Captured(contexts);
  ASSERT_EQ(graphs_->how(), "replayed");
  EXPECT_EQ(replayed.size(0), 128);
  ExpectOurs(contexts, replayed);
}

}  // namespace
}  // namespace lorad
