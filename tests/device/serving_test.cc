// The whole of serving on a device: weights, KV and adapters lie in memory that the host does not touch.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/from_blob.h>

#include "adapters/kinds/kind.h"
#include "adapters/pack_into.h"
#include "model/base/file_source.h"
#include "model/causal_lm.h"
#include "tests/component/golden_base.h"
#include "tests/device/device_engine.h"
#include "tests/device/test_device.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

class ServingOnDeviceTest : public testing::TestWithParam<std::string> {};

TEST_P(ServingOnDeviceTest, EveryAdapterAndTheBaseInOneBatchAnswerAsPeft) {
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(GetParam()) + "/model", OnDevice()).value();
  ASSERT_TRUE(model->device().is_cuda());
  const std::vector<GoldenCase> cases = CasesOf(GetParam());
  EngineSetup setup = SetupOnDevice();
  setup.engine.max_batch_tokens = 64;  // long prompts go in pieces, beside rows that decode
  DeviceEngine engine(model.get(), GetParam(), setup);
  engine.LoadFor(cases);
  engine.ExpectAnswers(cases);
  EXPECT_GT(engine.observer().most_sequences, 1);
  EXPECT_GT(engine.observer().steps_behind, 0);
}

INSTANTIATE_TEST_SUITE_P(Bases, ServingOnDeviceTest, testing::ValuesIn(GoldenBases(GoldenDir(""))),
                         [](const auto& info) { return info.param; });

// A pool that holds a few adapters at a time, and steps of few tokens: adapters are evicted and read again, pages
// moved, sequences give their blocks back; whoever reads an old address gets other numbers.
TEST(PoolOnDeviceTest, EvictionReloadAndCompactionKeepTheAnswers) {
  const std::string base = "llama3";
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  std::vector<GoldenCase> cases =
      CasesOf(base, {"", "all_linear", "rank_80", "dora", "saved_embed_and_head", "q_v", "rank_1"});
  DeviceEngine engine(model.get(), base, WithSmallPool(SetupOnDevice()));
  engine.LoadFor(cases);
  engine.ExpectAnswers(cases);
  std::reverse(cases.begin(), cases.end());
  engine.ExpectAnswers(cases);
  const CountingObserver& observer = engine.observer();
  EXPECT_GT(observer.evictions, 0);
  EXPECT_GT(observer.loads, static_cast<int64_t>(NamesIn(cases).size()));
}

// The same with all of them kept by the host: each is read once, and what is copied back answers as what was read.
TEST(PoolOnDeviceTest, WhatTheHostKeepsAnswersAsWhatWasRead) {
  const std::string base = "llama3";
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  std::vector<GoldenCase> cases = CasesOf(base, {"", "all_linear", "rank_80", "dora", "saved_embed_and_head", "q_v"});
  EngineSetup setup = SetupOnDevice();
  setup.page_bytes = 1024;
  setup.pool_bytes = int64_t{360} << 10;
  setup.engine.max_batch_tokens = 12;
  setup.engine.max_sequences = 3;
  setup.engine.host_adapter_bytes = int64_t{16} << 20;
  DeviceEngine engine(model.get(), base, setup);
  const std::set<std::string> names = NamesIn(cases);
  for (const std::string& name : names) engine.Load(name);
  engine.ExpectAnswers(cases);
  std::reverse(cases.begin(), cases.end());
  engine.ExpectAnswers(cases);
  const CountingObserver& observer = engine.engine().parts().observer;
  EXPECT_GT(observer.warm_loads, 2);
  EXPECT_EQ(observer.loads - observer.warm_loads, static_cast<int64_t>(names.size()));
}

at::Tensor BytesOnHost(std::byte* on_device, int64_t bytes) {
  const at::Device device(at::kCUDA, 0);
  return at::for_blob(on_device, {bytes})
      .options(at::TensorOptions().dtype(at::kByte).device(device))
      .target_device(device)
      .make_tensor()
      .cpu();
}

// Slides whose two places overlap, and swaps of neighbours, leave every run its bytes.
TEST(PoolOnDeviceTest, CompactionMovesBytesOnTheDevice) {
  constexpr int64_t kPage = 64;
  const std::unique_ptr<PagePool> pages =
      PagePool::Create(TestDeviceMemory().create(40 * kPage).value(), kPage).value();
  const std::unique_ptr<PieceCopier> copier = pages->memory().NewCopier().value();
  struct Owned {
    PageRun run;
    std::byte mark;
  };
  std::vector<Owned> owned;
  const auto take = [&](int64_t count, PageOwner owner) {
    Owned& taken = owned.emplace_back(Owned{pages->Reserve(count, owner).value(), std::byte(owned.size() + 1)});
    const int64_t bytes = count * kPage;
    std::byte* const piece = copier->Next(bytes).value();
    std::fill_n(piece, bytes, taken.mark);
    for (int64_t page = 0; page < count; ++page) piece[page * kPage] = std::byte(page);  // pages differ
    ASSERT_THAT(copier->Send(taken.run.data()), IsOk());
  };
  for (const int64_t count : {1, 2, 1, 2, 1}) take(count, PageOwner::kKv);
  for (const int64_t count : {7, 3, 5, 4, 6}) take(count, PageOwner::kAdapter);
  ASSERT_THAT(copier->Finish(), IsOk());
  take(2, PageOwner::kKv);
  ASSERT_THAT(copier->Finish(), IsOk());
  // Holes everywhere.
  for (const size_t gone : {9, 6, 3, 0}) owned.erase(owned.begin() + static_cast<int64_t>(gone));
  int64_t moves = 0;
  while (pages->Compact(kPage, [&](PageOwner) { ++moves; })) {
  }
  EXPECT_GT(moves, 3);
  EXPECT_EQ(pages->largest_free_run(), pages->free_pages());
  for (const Owned& taken : owned) {
    const at::Tensor on_host = BytesOnHost(taken.run.data(), taken.run.pages() * kPage);
    for (int64_t page = 0; page < taken.run.pages(); ++page) {
      const auto* const bytes = static_cast<const std::byte*>(on_host.const_data_ptr()) + page * kPage;
      EXPECT_EQ(bytes[0], std::byte(page));
      EXPECT_EQ(std::count(bytes + 1, bytes + kPage, taken.mark), kPage - 1);
    }
  }
}

// Into other pages than it had at first, which hold another's bytes.
TEST(PoolOnDeviceTest, ACopyOfWhatTheHostKeepsIsEveryByteThatWasPacked) {
  constexpr int64_t kPage = 4096;
  const BaseShape shape = GoldenBase("llama3").base_shape();
  const std::string folder = GoldenAdapterDir("llama3", "all_linear");
  const AdapterImage image = ReadAdapter(folder, shape, *LocalFiles(), {}).value();
  const PackedLayout layout = PlanLayout(image, DType::kBF16);
  const std::unique_ptr<PagePool> pages =
      PagePool::Create(TestDeviceMemory().create(int64_t{4} << 20).value(), kPage).value();
  WarmAdapters warm(int64_t{4} << 20);
  const std::shared_ptr<PackedAdapter> kept = warm.Make(1, layout);
  ASSERT_NE(kept, nullptr);
  AdapterPacker packer(&pages->memory());
  const int64_t run_pages = pages->PagesFor(layout.total_bytes);
  const PageRun cold = pages->Reserve(run_pages, PageOwner::kAdapter).value();
  const PageRun again = pages->Reserve(run_pages, PageOwner::kAdapter).value();
  ASSERT_THAT(packer.Pack(image, layout, cold.data(), kept.get()), IsOk());
  ASSERT_THAT(packer.Copy(*kept, again.data()), IsOk());
  std::vector<std::byte> packed(static_cast<size_t>(layout.total_bytes));
  Pack(image, layout, packed.data());
  const at::Tensor of_cold = BytesOnHost(cold.data(), layout.total_bytes);
  const at::Tensor of_copy = BytesOnHost(again.data(), layout.total_bytes);
  EXPECT_EQ(std::memcmp(of_copy.const_data_ptr(), packed.data(), packed.size()), 0);
  for (const PackedSlot& slot : layout.slots) {
    const auto at = [&slot](const at::Tensor& bytes) {
      return static_cast<const std::byte*>(bytes.const_data_ptr()) + slot.begin_bytes;
    };
    EXPECT_EQ(std::memcmp(at(of_copy), at(of_cold), static_cast<size_t>(slot.end_bytes - slot.begin_bytes)), 0);
  }
}

// It is only counted where the driver maps no memory in chunks.
TEST(PoolOnDeviceTest, WhatIsWithheldIsTheDevicesUntilItIsNotAndTheRestStays) {
  constexpr int64_t kPage = 4096, kPages = 4096;
  const std::unique_ptr<PagePool> pages =
      PagePool::Create(TestDeviceMemory().create(kPages * kPage).value(), kPage).value();
  const std::unique_ptr<PieceCopier> copier = pages->memory().NewCopier().value();
  const auto write = [&](std::byte* to, int64_t count, std::byte mark) {
    std::fill_n(copier->Next(count * kPage).value(), count * kPage, mark);
    ASSERT_THAT(copier->Send(to), IsOk());
    ASSERT_THAT(copier->Finish(), IsOk());
  };
  const auto expect = [](std::byte* at, int64_t count, std::byte mark) {
    const at::Tensor on_host = BytesOnHost(at, count * kPage);
    const auto* const bytes = static_cast<const std::byte*>(on_host.const_data_ptr());
    EXPECT_EQ(std::count(bytes, bytes + count * kPage, mark), count * kPage);
  };
  const PageRun kv = pages->Reserve(700, PageOwner::kKv).value();
  const PageRun adapter = pages->Reserve(900, PageOwner::kAdapter).value();
  write(kv.data(), 700, std::byte{'k'});
  write(adapter.data(), 900, std::byte{'a'});
  const int64_t available_bytes = TestDeviceMemory().available_bytes().value();
  ASSERT_THAT(pages->Withhold(kPages / 2, [](PageOwner) {}), IsOk());
  EXPECT_EQ(pages->released_pages(), pages->memory().chunk_bytes() == 0 ? 0 : kPages / 2);
  EXPECT_GE(TestDeviceMemory().available_bytes().value(), available_bytes + pages->released_pages() * kPage);
  expect(kv.data(), 700, std::byte{'k'});
  expect(adapter.data(), 900, std::byte{'a'});
  ASSERT_THAT(pages->Withhold(0, [](PageOwner) {}), IsOk());
  EXPECT_EQ(pages->withheld_pages(), 0);
  const PageRun again = pages->Reserve(kPages / 2, PageOwner::kAdapter).value();
  write(again.data(), kPages / 2, std::byte{'n'});
  expect(again.data(), kPages / 2, std::byte{'n'});
  expect(adapter.data(), 900, std::byte{'a'});
}

// Of LoRAMoE and MOLA the kernels count, into memory that both sides see; of MixLoRA the host.
TEST(PoolOnDeviceTest, RoutersCountAsOnTheCpu) {
  const std::string base = "llama2";
  const std::set<std::string> routed = {"moe/loramoe", "moe/mixlora"};
  const std::vector<GoldenCase> cases = CasesOf(base, routed);
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  std::map<std::string, std::vector<int64_t>> counted[2];
  for (const bool on_device : {false, true}) {
    EngineSetup setup = SetupOnDevice();
    if (!on_device) setup.device = DeviceMemory();
    DeviceEngine engine(on_device ? model.get() : &GoldenBase(base), base, setup);
    for (const std::string& name : routed) engine.Load(name);
    engine.ExpectAnswers(cases);
    for (const std::string& name : routed) {
      const std::shared_ptr<ExpertLoad> load = engine.engine().state().adapters.Current(name)->expert_load;
      ASSERT_NE(load, nullptr);
      counted[on_device][name] = load->Rows(/*layer=*/1);
    }
  }
  EXPECT_EQ(counted[1], counted[0]);
  for (const auto& [name, rows] : counted[1]) EXPECT_GT(*std::max_element(rows.begin(), rows.end()), 0) << name;
}

TEST(PoolOnDeviceTest, APoolThatDoesNotFitIsAStatus) {
  const auto memory = TestDeviceMemory().create(int64_t{1} << 46);
  EXPECT_THAT(memory.status(),
              IsError(absl::StatusCode::kResourceExhausted, testing::HasSubstr("lower --memory-bytes")));
}

}  // namespace
}  // namespace lorad
