// The whole of serving on the emulated device: weights, KV and adapters lie in memory that the host cannot touch.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/ones.h>

#include "model/causal_lm.h"
#include "tests/component/golden_base.h"
#include "tests/component/golden_requests.h"
#include "tests/cuda_emulator/device_memory.h"
#include "tests/cuda_emulator/torch_device.h"
#include "tests/support/engine_fixture.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

constexpr double kTolerance = 5e-4;
constexpr int64_t kMostPromptTokens = 40;  // the emulator's time

LoadOptions OnDevice() { return {.device = at::Device(at::kCUDA, 0)}; }

// One short case of each adapter ("": the base alone) in `wanted`.
std::vector<GoldenCase> CasesOf(const std::string& base, std::set<std::string> wanted) {
  std::vector<GoldenCase> cases;
  for (GoldenCase& golden : AllGoldenCases(base)) {
    const auto tokens = static_cast<int64_t>(golden.prompt.size());
    if (!golden.composition.empty() || tokens < 4 || tokens > kMostPromptTokens) continue;
    if (wanted.erase(golden.adapter) > 0) cases.push_back(std::move(golden));
  }
  EXPECT_TRUE(wanted.empty()) << "no short case of " << *wanted.begin();
  return cases;
}

// One short case of each adapter that there is of the base, and of each composition.
std::vector<GoldenCase> CasesOf(const std::string& base) {
  std::set<std::string> adapters;
  std::vector<GoldenCase> compositions;
  for (GoldenCase& golden : AllGoldenCases(base)) {
    if (golden.composition.empty()) {
      adapters.insert(golden.adapter);
    } else if (static_cast<int64_t>(golden.prompt.size()) <= kMostPromptTokens) {
      compositions.push_back(std::move(golden));
    }
  }
  std::vector<GoldenCase> cases = CasesOf(base, std::move(adapters));
  for (GoldenCase& golden : compositions) cases.push_back(std::move(golden));
  return cases;
}

std::set<std::string> NamesIn(const std::vector<GoldenCase>& cases) {
  std::set<std::string> names;
  for (const GoldenCase& golden : cases) {
    for (const auto& [name, scale] : AdaptersOf(golden)) names.insert(name);
  }
  return names;
}

EngineSetup SetupOn(const DeviceMemory& device) {
  EngineSetup setup;
  setup.device = device;
  setup.pool_bytes = int64_t{4} << 20;
  return setup;
}

// The engine over a model and a pool on the device.
class DeviceEngine final {
 public:
  DeviceEngine(CausalLm* model, std::string base, const EngineSetup& setup)
      : base_(std::move(base)), engine_(model, GoldenDir(base_) + "/model", setup) {}

  void Load(const std::string& name) {
    const CommandAnswer answer = engine_.Load(name, GoldenAdapterDir(base_, name));
    engine_.RunUntilIdle();
    ASSERT_TRUE(answer->has_value()) << name;
    ASSERT_THAT(**answer, IsOk()) << name;
  }
  // All at once.
  void ExpectAnswers(const std::vector<GoldenCase>& cases) {
    std::vector<std::shared_ptr<Recording>> recordings;
    for (const GoldenCase& golden : cases) recordings.push_back(engine_.Submit(GoldenRequestOf(golden)));
    engine_.RunUntilIdle();
    for (size_t i = 0; i < cases.size(); ++i) {
      EXPECT_EQ(recordings[i]->broken_rule(), "");
      const std::optional<Finish>& finish = recordings[i]->sequences()[0].finish;
      ASSERT_TRUE(finish.has_value()) << cases[i].name;
      EXPECT_EQ(finish->reason, FinishReason::kLength) << cases[i].name << ": " << finish->abort_detail;
      ExpectGolden(cases[i], GoldenAnswerOf(*recordings[i]), kTolerance);
    }
  }
  SteppedEngine& engine() { return engine_; }

 private:
  const std::string base_;
  SteppedEngine engine_;
};

class EmulatedDeviceTest : public testing::TestWithParam<std::string> {};

TEST_P(EmulatedDeviceTest, EveryAdapterAndTheBaseInOneBatchAnswerAsPeft) {
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(GetParam()) + "/model", OnDevice()).value();
  ASSERT_TRUE(model->device().is_cuda());
  const std::vector<GoldenCase> cases = CasesOf(GetParam());
  EngineSetup setup = SetupOn(emulator::EmulatedLibrary().memory);
  setup.engine.max_batch_tokens = 64;  // long prompts go in pieces, beside rows that decode
  DeviceEngine engine(model.get(), GetParam(), setup);
  for (const std::string& name : NamesIn(cases)) engine.Load(name);
  engine.ExpectAnswers(cases);
  EXPECT_GT(engine.engine().parts().observer.most_sequences, 1);
}

INSTANTIATE_TEST_SUITE_P(Bases, EmulatedDeviceTest, testing::ValuesIn(GoldenBases(GoldenDir(""))),
                         [](const auto& info) { return info.param; });

// A pool that holds a few adapters at a time, and steps of few tokens: adapters are evicted and read again, pages
// moved, sequences give their blocks back; whoever reads an old address gets other numbers.
TEST(EmulatedDevicePoolTest, EvictionReloadAndCompactionKeepTheAnswers) {
  const std::string base = "llama3";
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  std::vector<GoldenCase> cases =
      CasesOf(base, {"", "all_linear", "rank_80", "dora", "saved_embed_and_head", "q_v", "rank_1"});
  EngineSetup setup = SetupOn(emulator::EmulatedLibrary().memory);
  setup.page_bytes = 1024;
  setup.pool_bytes = int64_t{360} << 10;
  setup.engine.max_batch_tokens = 12;
  setup.engine.max_sequences = 3;
  DeviceEngine engine(model.get(), base, setup);
  for (const std::string& name : NamesIn(cases)) engine.Load(name);
  engine.ExpectAnswers(cases);
  std::reverse(cases.begin(), cases.end());
  engine.ExpectAnswers(cases);
  const CountingObserver& observer = engine.engine().parts().observer;
  EXPECT_GT(observer.evictions, 0);
  EXPECT_GT(observer.loads, static_cast<int64_t>(NamesIn(cases).size()));
}

// Slides whose two places overlap, and swaps of neighbours, leave every run its bytes.
TEST(EmulatedDevicePoolTest, CompactionMovesBytesOnTheDevice) {
  constexpr int64_t kPage = 64;
  const std::unique_ptr<PagePool> pages =
      PagePool::Create(emulator::EmulatedLibrary().memory.create(40 * kPage).value(), kPage).value();
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
  const emulator::DeviceAccess access;
  for (const Owned& taken : owned) {
    for (int64_t page = 0; page < taken.run.pages(); ++page) {
      const std::byte* const bytes = taken.run.data() + page * kPage;
      EXPECT_EQ(bytes[0], std::byte(page));
      EXPECT_EQ(std::count(bytes + 1, bytes + kPage, taken.mark), kPage - 1);
    }
  }
}

// Of LoRAMoE and MOLA the kernels count, into memory that both sides see; of MixLoRA the host.
TEST(EmulatedDevicePoolTest, RoutersCountAsOnTheCpu) {
  const std::string base = "llama2";
  const std::set<std::string> routed = {"moe/loramoe", "moe/mixlora"};
  const std::vector<GoldenCase> cases = CasesOf(base, routed);
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  std::map<std::string, std::vector<int64_t>> counted[2];
  for (const bool on_device : {false, true}) {
    const EngineSetup setup = SetupOn(on_device ? emulator::EmulatedLibrary().memory : DeviceMemory());
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

TEST(EmulatedDeviceMemoryTest, TheHostCannotTouchIt) {
  const at::Tensor ones = at::ones({4}, at::TensorOptions().device(at::kCUDA, 0));
  EXPECT_EQ(ones.cpu().const_data_ptr<float>()[3], 1.0f);
  EXPECT_DEATH(std::printf("%f", ones.const_data_ptr<float>()[3]), "SEGV");
}

// Ends in the test below whatever happens.
class FullDevice final {
 public:
  explicit FullDevice(size_t bytes_left) { emulator::SetDeviceBytes(emulator::UsedDeviceBytes() + bytes_left); }
  ~FullDevice() { emulator::SetDeviceBytes(emulator::kMappedDeviceBytes); }
};

TEST(EmulatedDeviceMemoryTest, WhatDoesNotFitIsAStatus) {
  const FullDevice full(/*bytes_left=*/size_t{64} << 10);
  const auto memory = emulator::EmulatedLibrary().memory.create(int64_t{1} << 20);
  EXPECT_EQ(memory.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(memory.status().message()), testing::HasSubstr("lower --memory-bytes"));
  EXPECT_EQ(CausalLm::Load(GoldenDir("llama3") + "/model", OnDevice()).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(EmulatedDeviceMemoryTest, AStepWithoutMemoryFailsAloneAndTheNextOneAnswers) {
  const std::string base = "llama3";
  const std::vector<GoldenCase> cases = CasesOf(base, {"all_linear"});
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  DeviceEngine engine(model.get(), base, SetupOn(emulator::EmulatedLibrary().memory));
  engine.Load("all_linear");
  {
    const FullDevice full(/*bytes_left=*/4096);
    const std::shared_ptr<Recording> recording = engine.engine().Submit(GoldenRequestOf(cases[0]));
    engine.engine().RunUntilIdle();
    const std::optional<Finish>& finish = recording->sequences()[0].finish;
    ASSERT_TRUE(finish.has_value());
    EXPECT_EQ(finish->status.code(), absl::StatusCode::kResourceExhausted) << finish->status;
  }
  engine.ExpectAnswers(cases);
}

}  // namespace
}  // namespace lorad

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  lorad::emulator::RegisterDevice();
  lorad::InstallCudaOps(&lorad::emulator::EmulatedLibrary().ops);
  return RUN_ALL_TESTS();
}
