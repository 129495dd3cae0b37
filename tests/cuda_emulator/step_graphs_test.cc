// Captured launches: what the emulated device finds of them, and one captured step looked at closely.
#include "model/step_graphs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDACachingAllocator.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/device_slots.h"
#include "adapters/graph_seam.h"
#include "model/causal_lm.h"
#include "model/device_step.h"
#include "model/step_buckets.h"
#include "tests/component/golden_base.h"
#include "tests/cuda_emulator/capture.h"
#include "tests/cuda_emulator/device_memory.h"
#include "tests/cuda_emulator/torch_device.h"
#include "tests/cuda_emulator/virtual_memory.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

const at::Device kDevice(at::kCUDA, 0);

TEST(StepBucketsTest, AreTheNextSizeUp) {
  for (const auto& [rows, bucket] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 0}, {1, 1}, {2, 2}, {3, 4}, {5, 8}, {9, 16}, {17, 24}, {64, 64}, {65, 96}, {512, 512}, {513, 0}}) {
    EXPECT_EQ(RowsBucket(rows), bucket) << rows;
  }
  for (const auto& [blocks, bucket] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 4}, {4, 4}, {5, 16}, {64, 64}, {65, 256}, {257, 512}, {513, 1024}, {1025, 2048}, {8192, 8192}}) {
    EXPECT_EQ(BlocksBucket(blocks), bucket) << blocks;
  }
}

class CaptureTest : public testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<DeviceGraph>> Capture(const std::function<void()>& queue) {
    return family_->Capture([&] {
      queue();
      return absl::OkStatus();
    });
  }
  float At(const at::Tensor& t, int64_t i) { return t.cpu().const_data_ptr<float>()[i]; }

  const std::unique_ptr<DeviceGraphs> family_ = InstalledCudaOps().new_graphs();
};

TEST_F(CaptureTest, NothingRunsBeforeTheReplayWhichReadsWhatIsThereByThen) {
  at::Tensor x = at::ones({3}, at::TensorOptions().device(kDevice));
  const at::Tensor one = at::ones({3}, at::TensorOptions().device(kDevice));
  at::Tensor sum;
  const auto graph = Capture([&] { sum = at::add(x, one); }).value();
  EXPECT_TRUE(std::isnan(At(sum, 0)));
  ASSERT_THAT(graph->Replay(), IsOk());
  EXPECT_EQ(At(sum, 0), 2.0f);
  x.add_(5.0f);
  EXPECT_EQ(At(sum, 0), 2.0f);
  ASSERT_THAT(graph->Replay(), IsOk());
  EXPECT_EQ(At(sum, 2), 7.0f);
  EXPECT_GT(graph->bytes(), 0);
}

TEST_F(CaptureTest, AReplayTakesTheMemoryOfTheFamilysOthers) {
  const at::Tensor x = at::ones({3}, at::TensorOptions().device(kDevice));
  at::Tensor first, second;
  const auto one = Capture([&] { first = at::add(x, x); }).value();
  const auto other = Capture([&] { second = at::add(x, x); }).value();
  ASSERT_THAT(one->Replay(), IsOk());
  EXPECT_EQ(At(first, 0), 2.0f);
  ASSERT_THAT(other->Replay(), IsOk());
  EXPECT_TRUE(std::isnan(At(first, 0)));
  EXPECT_EQ(At(second, 0), 2.0f);
}

TEST_F(CaptureTest, WhatADeviceCannotCaptureIsAStatusAndLeavesNothingBehind) {
  const at::Tensor x = at::ones({3}, at::TensorOptions().device(kDevice));
  const auto message = [&](const std::function<void()>& queue) {
    const absl::Status status = Capture(queue).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    return std::string(status.message());
  };
  EXPECT_THAT(message([&] { at::add(x, at::ones({3}).to(kDevice)); }),
              testing::HasSubstr("a copy from or to the host"));
  EXPECT_THAT(message([&] { ToHost(x); }), testing::HasSubstr("a copy from or to the host"));
  EXPECT_THAT(message([&] { x.sum().item<float>(); }), testing::HasSubstr("the host reads a number"));
  EXPECT_EQ(family_->Capture([] { return absl::UnavailableError("ours"); }).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(At(at::add(x, x), 0), 2.0f);  // runs at once
  EXPECT_THAT(Capture([&] { at::add(x, x); }).status(), IsOk());
}

// LibTorch's books of a capture that failed: a pool that is recorded for until the process ends keeps its cache from
// giving anything back, and one without users is of no use to the next capture.
TEST_F(CaptureTest, AFailedCaptureDoesNotSpoilTheNextOnes) {
  const at::Tensor x = at::ones({3}, at::TensorOptions().device(kDevice));
  at::Tensor sum;
  const auto capture_sum = [&] { return Capture([&] { sum = at::add(x, x); }); };
  const auto expect_as_ever = [&] {
    EXPECT_FALSE(emulator::DevicePools().underway());
    EXPECT_FALSE(emulator::HostPools().underway());
    EXPECT_NO_THROW(c10::cuda::CUDACachingAllocator::emptyCache());
    const auto graph = capture_sum();
    ASSERT_THAT(graph, IsOk());
    ASSERT_THAT((*graph)->Replay(), IsOk());
    EXPECT_EQ(At(sum, 0), 2.0f);
  };
  std::unique_ptr<DeviceGraph> other;
  for (const bool beside_another : {false, true}) {
    SCOPED_TRACE(beside_another ? "beside another graph" : "alone");
    if (beside_another) other = capture_sum().value();
    EXPECT_FALSE(Capture([&] { x.sum().item<float>(); }).ok());  // the driver gives the capture up
    expect_as_ever();
    EXPECT_FALSE(family_->Capture([] { return absl::UnavailableError("ours"); }).ok());  // it ends well
    expect_as_ever();
  }
  ASSERT_THAT(other->Replay(), IsOk());
}

TEST_F(CaptureTest, WhatADroppedFamilyHadGoesBackToTheDevice) {
  const at::Tensor x = at::ones({100000}, at::TensorOptions().device(kDevice));
  family_->Renew();  // what other tests left
  const size_t used = emulator::UsedDeviceBytes();
  for (int i = 0; i < 3; ++i) {
    auto graph = Capture([&] { at::add(x, x); }).value();
    EXPECT_GE(emulator::UsedDeviceBytes() - used, x.nbytes());
    graph.reset();
    family_->Renew();
    EXPECT_EQ(emulator::UsedDeviceBytes(), used);
  }
}

// Within a capture LibTorch's allocator gives nothing of its cache back.
TEST_F(CaptureTest, ACaptureTakesWhatNobodyUses) {
  const at::Tensor x = at::ones({100000}, at::TensorOptions().device(kDevice));
  emulator::KeepWhatTorchFrees(true);
  at::empty({100000}, x.options());
  emulator::SetDeviceBytes(emulator::UsedDeviceBytes());
  const auto graph = Capture([&] { at::add(x, x); });
  emulator::SetDeviceBytes(emulator::kMappedDeviceBytes);
  emulator::KeepWhatTorchFrees(false);
  EXPECT_THAT(graph, IsOk());
}

TEST_F(CaptureTest, AReplayThatReadsWhatIsGoneGetsNoNumbers) {
  std::optional<at::Tensor> x = at::ones({1000}, at::TensorOptions().device(kDevice));
  at::Tensor sum;
  const auto graph = Capture([&] { sum = at::add(*x, 1.0f); }).value();
  ASSERT_THAT(graph->Replay(), IsOk());
  x.reset();
  // Its memory is somebody else's, who has not written it yet: not a number.
  const at::Tensor others = at::empty({1000}, at::TensorOptions().device(kDevice));
  ASSERT_THAT(graph->Replay(), IsOk());
  EXPECT_TRUE(std::isnan(At(sum, 0)));
}

// Three sequences of one token in a step of four rows.
class CapturedStepTest : public testing::Test {
 protected:
  static constexpr int64_t kBlocks = 6;

  explicit CapturedStepTest(const std::string& folder = GoldenDir("llama3") + "/model")
      : model_(CausalLm::Load(folder, {.device = kDevice}).value()),
        slots_(model_->base_shape()),
        seam_(slots_, model_->base_shape(), kDevice),
        graphs_(StepGraphs::Create(model_.get(), &seam_, {})),
        block_bytes_(model_->kv_layout().block_bytes()),
        memory_(lorad::emulator::EmulatedLibrary().memory.create(kBlocks * block_bytes_).value()),
        kv_{memory_->data(), block_bytes_, model_->kv_layout()} {}

  static at::Tensor Ints(const std::vector<int32_t>& values) {
    return at::tensor(values, at::TensorOptions().dtype(at::kInt));
  }
  // A sequence for each token, at position 0 of the block of its own.
  static ForwardBatch Batch(const std::vector<int32_t>& tokens, const std::vector<int32_t>& blocks) {
    ForwardBatch batch;
    const auto rows = static_cast<int32_t>(tokens.size());
    std::vector<int32_t> slots, all;
    for (int32_t r = 0; r < rows; ++r) slots.push_back(blocks[static_cast<size_t>(r)] * int32_t{kKvBlockTokens});
    for (int32_t r = 0; r <= rows; ++r) all.push_back(r);
    batch.token_ids = Ints(tokens);
    batch.positions = at::zeros({rows}, at::kInt);
    batch.cu_rows = Ints(all);
    batch.kv_slots = Ints(slots);
    batch.block_table = Ints(blocks).view({rows, 1});
    all.pop_back();
    batch.logit_rows = Ints(all);
    batch.rows.starts = batch.head_rows.starts = {0, rows};
    batch.rows.term_starts = batch.head_rows.term_starts = {0, 0};
    batch.max_context_tokens = 1;
    batch.sequence_tokens.assign(tokens.size(), 1);
    return batch;
  }
  at::Tensor Forward(const ForwardBatch& batch) { return ToHost(graphs_->Forward(batch, kv_, base_).value()); }
  // Until it is captured.
  void Capture(const ForwardBatch& batch) {
    Forward(batch);
    EXPECT_EQ(graphs_->how(), "first");
    Forward(batch);
    EXPECT_EQ(graphs_->how(), "captured");
  }
  at::Tensor Eagerly(const ForwardBatch& batch) { return model_->Forward(batch, kv_, base_).value(); }
  std::vector<std::byte> Arena() const {
    const emulator::DeviceAccess access;
    return {memory_->data(), memory_->data() + memory_->bytes()};
  }

  const std::unique_ptr<CausalLm> model_;
  const SlotTable slots_;
  SlotGraphSeam seam_;
  std::unique_ptr<StepGraphs> graphs_;
  const int64_t block_bytes_;
  const std::unique_ptr<PoolMemory> memory_;
  const KvView kv_;
  BaseOnlySeam base_;
};

TEST_F(CapturedStepTest, AReplayHasTheLogitsOfAnEagerStep) {
  const ForwardBatch first = Batch({5, 9, 30}, {0, 2, 4}), second = Batch({77, 3, 8}, {5, 1, 0});
  Capture(first);
  const at::Tensor replayed = Forward(second);
  EXPECT_EQ(graphs_->how(), "replayed");
  ASSERT_GE(replayed.size(0), 3);
  EXPECT_TRUE(replayed.narrow(0, 0, 3).allclose(Eagerly(second), 1e-5, 1e-5));
  EXPECT_TRUE(replayed.narrow(0, 3, 1).isnan().all().item<bool>());  // nobody's
  EXPECT_EQ(graphs_->held().graphs, 1);
}

// The one that goes for lack of room is as if it had not been seen.
TEST_F(CapturedStepTest, OnlyWhatIsSeenTwiceIsCaptured) {
  graphs_ = StepGraphs::Create(model_.get(), &seam_, {.most_graphs = 1});
  const ForwardBatch one = Batch({5}, {0}), three = Batch({5, 9, 30}, {0, 2, 4});
  for (const ForwardBatch* const batch : {&one, &three}) {
    EXPECT_TRUE(Forward(*batch).narrow(0, 0, batch->rows.rows()).allclose(Eagerly(*batch), 1e-5, 1e-5));
    EXPECT_EQ(graphs_->how(), "first");
    EXPECT_EQ(graphs_->held().graphs, 0);
  }
  for (const ForwardBatch* const batch : {&one, &three}) {
    Forward(*batch);
    EXPECT_EQ(graphs_->how(), "captured");
    EXPECT_EQ(graphs_->held().graphs, 1);
  }
  Capture(one);
}

TEST_F(CapturedStepTest, PaddingRowsWriteNowhere) {
  Capture(Batch({5, 9, 30}, {0, 2, 4}));
  const std::vector<std::byte> before = Arena();
  Forward(Batch({6, 7, 8}, {1, 3, 5}));
  ASSERT_EQ(graphs_->how(), "replayed");
  const std::vector<std::byte> after = Arena();
  for (int64_t block = 0; block < kBlocks; ++block) {
    const auto begin = before.begin() + block * block_bytes_, end = begin + block_bytes_;
    const bool same = std::equal(begin, end, after.begin() + block * block_bytes_);
    EXPECT_EQ(same, block % 2 == 0) << "block " << block;
    // One token of each head of k and v in all layers.
    int64_t changed = 0;
    for (int64_t i = 0; i < block_bytes_; ++i) {
      changed +=
          before[static_cast<size_t>(block * block_bytes_ + i)] != after[static_cast<size_t>(block * block_bytes_ + i)];
    }
    EXPECT_LE(changed, block_bytes_ / kKvBlockTokens) << "block " << block;
  }
}

TEST_F(CapturedStepTest, ACaptureThatFoundTheDeviceFullIsTriedAgainLater) {
  const ForwardBatch batch = Batch({5, 9, 30, 7}, {0, 2, 4, 1});  // as many as a captured step has
  Eagerly(batch);                                                 // tables of the rope come once
  const size_t before = emulator::UsedDeviceBytes();
  emulator::TakePeakDeviceBytes();
  ASSERT_THAT(model_->ForwardOnDevice(batch, kv_, base_), IsOk());
  const size_t eager_bytes = emulator::TakePeakDeviceBytes() - before;
  for (const int64_t retry : {0, 3600}) {
    graphs_ = StepGraphs::Create(model_.get(), &seam_, {.retry = std::chrono::seconds(retry)});
    Forward(batch);
    EXPECT_EQ(graphs_->how(), "first");
    c10::cuda::CUDACachingAllocator::emptyCache();                               // what the graphs before had
    emulator::SetDeviceBytes(emulator::UsedDeviceBytes() + eager_bytes + 4096);  // room for the graph's inputs as well
    Forward(batch);
    emulator::SetDeviceBytes(emulator::kMappedDeviceBytes);
    EXPECT_EQ(graphs_->how(), "capture_failed");
    if (retry == 0) {
      Capture(batch);
      continue;
    }
    Forward(batch);
    EXPECT_EQ(graphs_->how(), "refused");
  }
}

TEST_F(CapturedStepTest, WhereAGraphIsTooLargeThoseOfAsManyRowsAreNotTried) {
  graphs_ = StepGraphs::Create(model_.get(), &seam_, {.most_bytes = 1024});
  const ForwardBatch batch = Batch({5, 9, 30}, {0, 2, 4});
  for (const char* how : {"first", "memory"}) {
    Forward(batch);
    EXPECT_EQ(graphs_->how(), how);
  }
  ForwardBatch longer = batch;
  longer.block_table = at::full({3, 5}, -1, at::kInt);
  longer.block_table.narrow(1, 0, 1).copy_(batch.block_table);
  Forward(longer);
  EXPECT_EQ(graphs_->how(), "refused");
  for (const char* how : {"first", "memory"}) {
    Forward(Batch({5}, {0}));
    EXPECT_EQ(graphs_->how(), how);
  }
}

TEST_F(CapturedStepTest, StepsOfAnotherShapeRunEagerly) {
  ForwardBatch batch = Batch({5, 9, 30}, {0, 2, 4});
  batch.logit_rows = Ints({2});
  batch.head_rows.starts = {0, 1};
  Forward(batch);
  EXPECT_EQ(graphs_->how(), "prefill");
  EXPECT_EQ(graphs_->held().graphs, 0);
}

class CapturedRoutedStepTest : public CapturedStepTest {
 protected:
  CapturedRoutedStepTest() : CapturedStepTest(GoldenDir("mixtral") + "/model") {}
};

// Rows that are nobody's are not numbers, and choose experts as well.
TEST_F(CapturedRoutedStepTest, AReplayHasTheLogitsOfAnEagerStepBesideRowsThatAreNoNumbers) {
  const ForwardBatch first = Batch({5, 9, 30}, {0, 2, 4}), second = Batch({77, 3, 8}, {5, 1, 0});
  Capture(first);
  const at::Tensor replayed = Forward(second);
  EXPECT_EQ(graphs_->how(), "replayed");
  EXPECT_TRUE(replayed.narrow(0, 0, 3).allclose(Eagerly(second), 1e-5, 1e-5));
  EXPECT_TRUE(replayed.narrow(0, 3, 1).isnan().all().item<bool>());
}

TEST_F(CapturedRoutedStepTest, NoLayerWaitsForTheHost) {
  const ForwardBatch batch = Batch({5, 9, 30}, {0, 2, 4});
  const int64_t before = emulator::CopiesToHost();
  const at::Tensor logits = model_->ForwardOnDevice(batch, kv_, base_).value();
  EXPECT_EQ(emulator::CopiesToHost(), before);
  EXPECT_TRUE(ToHost(logits).allclose(Eagerly(batch)));
}

TEST_F(CapturedRoutedStepTest, StepsOfMoreRowsThanTheDeviceDealsRunEagerly) {
  ForwardBatch batch = Batch(std::vector<int32_t>(65, 7), std::vector<int32_t>(65, 0));
  Forward(batch);
  EXPECT_EQ(graphs_->how(), "routed_base");
}

// The golden base, made for contexts of so many tokens.
std::string FolderOfLongContexts(const TempDir& dir, int64_t tokens) {
  CopyFiles(GoldenDir("llama3") + "/model", dir.path());
  std::string config = ReadFile(dir.File("config.json"));
  const std::string length = "\"max_position_embeddings\": ";
  config.replace(config.find(length), length.size() + 3, absl::StrCat(length, tokens));
  WriteFile(dir.File("config.json"), config);
  return dir.path();
}

class CapturedLongStepTest : public CapturedStepTest {
 protected:
  CapturedLongStepTest() : CapturedStepTest(FolderOfLongContexts(TempDir(), 200'000)) {}

  // How the second step runs when one of so many tokens came in between.
  std::string AfterAContextOf(int64_t tokens) {
    const ForwardBatch first = Batch({5, 9, 30}, {0, 2, 4}), second = Batch({77, 3, 8}, {5, 1, 0});
    Capture(first);
    Forward(second);
    EXPECT_EQ(graphs_->how(), "replayed");
    ForwardBatch long_one = first;
    long_one.max_context_tokens = tokens;
    Eagerly(long_one);
    const at::Tensor again = Forward(second);
    const std::string how(graphs_->how());
    EXPECT_TRUE(again.narrow(0, 0, 3).allclose(Eagerly(second), 1e-5, 1e-5));
    Forward(second);
    Forward(first);
    EXPECT_EQ(graphs_->how(), "replayed");
    EXPECT_EQ(graphs_->held().graphs, 1);
    return how;
  }
};

TEST_F(CapturedLongStepTest, ALongContextKeepsTheGraphs) { EXPECT_EQ(AfterAContextOf(100'000), "replayed"); }
TEST_F(CapturedLongStepTest, TablesOfTheRopeThatGrewDropThem) { EXPECT_EQ(AfterAContextOf(150'000), "first"); }

TEST(DeviceSlotsTest, HaveRoomForHundredsAndMoveBeyond) {
  const BaseShape shape = GoldenBase("llama3").base_shape();
  SlotTable table(shape);
  DeviceSlots slots(table, shape, kDevice);
  const int64_t first = slots.generation();
  for (const int32_t count : {16, 512}) {
    table.Resize(count);
    slots.Refresh(count - 1);
    EXPECT_EQ(slots.generation(), first) << count;
  }
  table.Resize(513);
  slots.Refresh(512);
  EXPECT_GT(slots.generation(), first);
}

TEST(SlotTableTest, AVersionIsRaisedByAChangeOfItsSlotAlone) {
  SlotTable table(GoldenBase("llama3").base_shape());
  table.Resize(2);
  const uint64_t first = table.version(0);
  EXPECT_GT(first, 0u);
  table.Set(Site::kQProj, 1, 0, {.rank = 4, .scale = 2.0f});
  EXPECT_GT(table.version(0), first);
  EXPECT_EQ(table.version(1), first);
  const uint64_t changed = table.version(0);
  table.Set(Site::kQProj, 1, 0, {.rank = 4, .scale = 2.0f});
  EXPECT_EQ(table.version(0), changed);
  table.ClearSlot(0);
  EXPECT_GT(table.version(0), changed);
}

TEST(StepGraphsTest, ThereAreNoneOnTheCpu) {
  CausalLm& model = GoldenBase("llama3");
  const SlotTable slots(model.base_shape());
  SlotGraphSeam seam(slots, model.base_shape(), at::kCPU);
  EXPECT_EQ(StepGraphs::Create(&model, &seam, {}), nullptr);
}

}  // namespace
}  // namespace lorad
