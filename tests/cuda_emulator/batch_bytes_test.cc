// What batches take of the emulated device, beside what was counted for them before.
#include "adapters/train/batch_bytes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/rand.h>

#include "adapters/train/shared_batch.h"
#include "adapters/train/trainer.h"
#include "model/ops/autograd/query_attention.h"
#include "model/ops/autograd/sequence_attention.h"
#include "server/tuning/batch_limits.h"
#include "tests/cuda_emulator/device_memory.h"
#include "tests/cuda_emulator/virtual_memory.h"
#include "tests/support/status_matchers.h"
#include "tests/train/train_fixture.h"

namespace lorad {
namespace {

using testing::HasSubstr;

// The most that `act` takes beside what is in use.
template <typename Act>
int64_t PeakOf(const Act& act) {
  const size_t before = emulator::UsedDeviceBytes();
  emulator::TakePeakDeviceBytes();
  act();
  return static_cast<int64_t>(emulator::TakePeakDeviceBytes() - before);
}

// All scores at once would be 95 MiB, three times, of a device of 256.
TEST(BatchBytesTest, ScoresOfALongSequenceTakeNoMoreThanIsSaid) {
  constexpr int64_t kTokens = 2500, kHeads = 4, kKvHeads = 2, kDim = 8;
  const at::Device device(at::kCUDA, 0);
  const auto rows = [&](int64_t heads) { return at::rand({kTokens, heads, kDim}).to(device).set_requires_grad(true); };
  const at::Tensor q = rows(kHeads), k = rows(kKvHeads), v = rows(kKvHeads);
  const std::vector<int32_t> starts = {0, kTokens};
  constexpr int64_t kOfRows = kTokens * (kHeads + kKvHeads) * kDim * 4;
  for (const double softcap : {0.0, 5.0}) {
    const int64_t peak = PeakOf([&] {
      SequenceAttention({q, k, v, starts, /*window_tokens=*/0, /*scale=*/1.0, softcap}).sum().backward();
    });
    EXPECT_LE(peak, ScoreBytes(kHeads, kTokens, softcap > 0) + 8 * kOfRows);
    EXPECT_GT(peak, ScoreBytes(kHeads, kTokens, softcap > 0) / 4);
    EXPECT_LT(peak, 3 * kHeads * kTokens * kTokens * 4 / 2);
  }
}

ExampleSource ExamplesOf(int64_t tokens) {
  return {.count = 4, .get = [tokens](int64_t index) {
            Example example;
            for (int64_t t = 0; t < tokens; ++t) {
              example.token_ids.push_back(static_cast<int32_t>(3 + (7 * t + index) % 90));
              example.labels.push_back(example.token_ids.back());
            }
            return example;
          }};
}

// Training's second step, which has all states, in batches that keep so much.
void ExpectCounted(const TrainBase& base, TrainConfig config, int64_t tokens, int64_t kept_bytes) {
  config.batch_size = config.micro_batch_size = 4;
  const CausalLm& model = *base.model;
  const std::unique_ptr<Trainer> trainer = MakeTrainer(base, config, ExamplesOf(tokens));
  const auto step = [&] {
    SharedBatch batch(base.model.get(), {trainer.get()}, {}, kept_bytes);
    absl::StatusOr<bool> ended = false;
    while (ended.ok() && !*ended) ended = batch.Advance();
    ASSERT_THAT(ended, IsOk());
  };
  step();
  const int64_t peak = PeakOf(step);
  const absl::StatusOr<AdapterWidths> widths = WidthsOf(config, model.base_shape());
  ASSERT_THAT(widths, IsOk());
  const int64_t counted = BatchBytes(model.config(), model.dtype(), *widths, {4 * tokens, tokens}, kept_bytes);
  const int64_t gradients = 4 * trainer->parameters();  // which are the states'
  EXPECT_LE(peak, counted + gradients);
  EXPECT_GE(peak, counted / 4);
}

TEST(BatchBytesTest, AStepTakesNoMoreThanIsCounted) {
  for (const char* const name : {"llama3", "gemma2", "qwen2_moe"}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const TrainBase base = LoadTrainBase(name, dtype);
      for (const bool wide : {false, true}) {
        SCOPED_TRACE(std::string(name) + (dtype == DType::kF32 ? " f32" : " bf16") + (wide ? " wide" : ""));
        TrainConfig config = SmallConfig(/*rank=*/2, /*steps=*/3);
        config.adapter.use_dora = wide;
        config.dropout = wide ? 0.1 : 0.0;
        ExpectCounted(base, config, /*tokens=*/40, /*kept_bytes=*/0);
        ExpectCounted(base, config, /*tokens=*/40, SharedBatch::kKeptBytes);
      }
    }
  }
}

TEST(BatchBytesTest, AStepOfAnAdapterWithExpertsTakesNoMoreThanIsCounted) {
  const TrainBase base = LoadTrainBase("llama3");
  for (const char* const kind : {"mixlora", "loramoe", "mola"}) {
    SCOPED_TRACE(kind);
    TrainConfig config = SmallConfig(/*rank=*/2, /*steps=*/3);
    config.routed = SmallRouting(kind);
    ExpectCounted(base, config, /*tokens=*/40, /*kept_bytes=*/0);
  }
}

constexpr int64_t kMemoryBytes = int64_t{16} << 20;

TEST(BatchLimitsTest, ASequenceOfARunFitsWhatRunsHold) {
  const TrainBase base = LoadTrainBase("llama3");
  const CausalLm& model = *base.model;
  const BatchLimits limits = BatchLimitsOf(model, kMemoryBytes);
  EXPECT_GE(limits.run_batch_bytes, limits.activation_bytes);
  EXPECT_LE(limits.run_batch_bytes, kMemoryBytes / 4);
  BatchLimits small = limits;
  small.run_batch_bytes = 1'000'000;
  const auto most_of = [&](const TrainConfig& config) {
    const absl::StatusOr<int64_t> most = RunTokensWithin(small, config, model);
    EXPECT_THAT(most, IsOk());
    const absl::StatusOr<AdapterWidths> widths = WidthsOf(config, model.base_shape());
    EXPECT_THAT(widths, IsOk());
    const auto bytes_of = [&](int64_t tokens) {
      return BatchBytes(model.config(), model.dtype(), *widths, {tokens, tokens}, small.kept_bytes);
    };
    EXPECT_LE(bytes_of(*most), small.run_batch_bytes);
    EXPECT_GT(bytes_of(*most + 1), small.run_batch_bytes);
    return *most;
  };
  TrainConfig config = SmallConfig(/*rank=*/2, /*steps=*/0);
  const int64_t most = most_of(config);
  config.adapter.use_dora = true;
  config.dropout = 0.1;
  EXPECT_LT(most_of(config), most);
}

TEST(BatchLimitsTest, ARunWhoseWholeHeadLeavesNoRoomForATokenIsRefused) {
  const TrainBase base = LoadTrainBase("llama3");
  TrainConfig config = SmallConfig(/*rank=*/2, /*steps=*/0);
  BatchLimits limits;
  limits.run_batch_bytes = 60'000;
  ASSERT_THAT(RunTokensWithin(limits, config, *base.model), IsOk());
  config.adapter.modules_to_save = {"lm_head"};
  EXPECT_THAT(RunTokensWithin(limits, config, *base.model).status(),
              IsError(absl::StatusCode::kInvalidArgument, HasSubstr("a sequence of one token")));
}

TEST(BatchLimitsTest, AMicroBatchThatCannotFitBesideItsStatesIsRefused) {
  const TrainBase base = LoadTrainBase("llama3");
  const MemoryLimit limit = {kMemoryBytes, BatchLimitsOf(*base.model, kMemoryBytes)};
  const TrainConfig config = SmallConfig(/*rank=*/2, /*steps=*/3);
  const auto fits = JobBytesWithin(limit, config, *base.model, {400, 100});
  ASSERT_THAT(fits, IsOk());
  EXPECT_GT(fits->batch_bytes, 0);
  EXPECT_LE(fits->state_bytes + fits->batch_bytes, kMemoryBytes);
  const auto refused = JobBytesWithin(limit, config, *base.model, {40000, 1000});
  EXPECT_THAT(refused.status(), IsError(absl::StatusCode::kInvalidArgument,
                                        HasSubstr("micro-batch: tokens: 40000, of the longest sequence: 1000; bytes")));
  EXPECT_THAT(refused.status().message(), HasSubstr("lower micro_batch_size or dataset.max_length_tokens"));
}

}  // namespace
}  // namespace lorad
