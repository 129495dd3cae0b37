// A device that answers every call with an error: the process ends on purpose, before anybody is blamed for it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdlib.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>

#include "adapters/train/synced_file.h"
#include "model/lost_device.h"
#include "scheduler/compute_gate.h"
#include "scheduler/tuning/tuning_worker.h"
#include "tests/component/golden_base.h"
#include "tests/cuda_emulator/last_error.h"
#include "tests/device/device_engine.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"
#include "tests/train/train_fixture.h"

namespace lorad {
namespace {

using emulator::device_fate;
using emulator::Fate;

constexpr char kLine[] = "device lost: .*CUDA error 700.*the daemon ends with 70; start it again";
const testing::ExitedWithCode kEnds(kLostDeviceExitCode);

class LostDeviceTest : public testing::Test {
 protected:
  // Each in a process of its own, with threads of its own.
  LostDeviceTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

// A prompt of many tokens in steps of `most_tokens`; the device is lost at the next wait after `turns`.
void ServeOnALostDevice(int64_t most_tokens, int turns) {
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir("llama3") + "/model", OnDevice()).value();
  EngineSetup setup = SetupOnDevice();
  setup.engine.max_batch_tokens = most_tokens;
  setup.engine.steps_a_turn = 1;
  DeviceEngine engine(model.get(), "llama3", setup);
  Request request;
  request.prompt_ids = {3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14};
  request.sampling.max_tokens = 30;
  engine.engine().Submit(std::move(request));
  for (int turn = 0; turn < turns; ++turn) engine.engine().Turn();
  device_fate = Fate::kLostAtNextWait;
  engine.engine().Turn();
}

TEST_F(LostDeviceTest, ADecodeEndsTheProcess) { EXPECT_EXIT(ServeOnALostDevice(512, 3), kEnds, kLine); }
TEST_F(LostDeviceTest, APieceOfAPromptEndsTheProcess) { EXPECT_EXIT(ServeOnALostDevice(4, 0), kEnds, kLine); }

TEST_F(LostDeviceTest, AStepThatCannotBeLaunchedEndsTheProcess) {
  const auto serve = [] {
    device_fate = Fate::kLost;
    EndIfLost(at::Device(at::kCUDA, 0), absl::InternalError("CUDA error 700"));
  };
  EXPECT_EXIT(serve(), kEnds, kLine);
}

TEST_F(LostDeviceTest, AnErrorOfOneCallIsNone) {
  const at::Device device(at::kCUDA, 0);
  emulator::last_error = 9;
  EndIfLost(device, absl::InternalError("of one call"));
  EXPECT_FALSE(DeviceIsLost(device));
  EXPECT_FALSE(DeviceIsLost(at::kCPU));
  emulator::TakeLastError();
}

TEST_F(LostDeviceTest, ADestructorThatThrowsEndsTheProcessTheSameWay) {
  const auto end = [] {
    const at::Device device(at::kCUDA, 0);
    EndIfLostOnTerminate(device);
    at::Tensor on_device = at::empty({4}, at::TensorOptions().device(device));
    at::Tensor staged = at::empty({4}, at::TensorOptions().pinned_memory(true));
    on_device.copy_(staged, /*non_blocking=*/true);
    device_fate = Fate::kLost;
    staged.reset();
  };
  EXPECT_EXIT(end(), kEnds, kLine);
}

constexpr char kDirVariable[] = "LOST_DEVICE_TEST_DIR";

// A job of a store in `dir`, whose device is lost in its first step.
void TrainOnALostDevice(const std::string& dir) {
  const TrainBase base = LoadTrainBase("llama3");
  ComputeGate gate(0.0);
  const std::unique_ptr<JobStore> store = JobStore::Open(dir + "/jobs.db").value();
  const std::unique_ptr<Revisions> revisions = Revisions::Open(dir + "/jobs.db", dir + "/revisions").value();
  TuningWorker::Parts parts;
  parts.store = store.get();
  parts.gate = &gate;
  parts.model = base.model.get();
  parts.max_batch_rows = 1000;
  parts.hold = [](int64_t, int64_t, std::function<void()>) { return absl::OkStatus(); };
  parts.surroundings.jobs_dir = dir + "/jobs";
  parts.surroundings.revisions = revisions.get();
  parts.surroundings.bytes = [](const Job&) { return JobBytes{1000, 0}; };
  parts.surroundings.plan = [&](const Job&, const GoOnFn&) -> absl::StatusOr<TuningPlan> {
    TuningPlan plan;
    plan.trainer = MakeTrainer(base, SmallConfig(2, /*steps=*/5), RandomExamples(6, 8, 1));
    plan.checkpoint_every_steps = 2;
    device_fate = Fate::kLostAtNextWait;
    return plan;
  };
  parts.surroundings.publish = [](const std::string&, const std::string&, bool) { return absl::OkStatus(); };
  parts.changed = [](const std::string&) {};
  TuningWorker worker(std::move(parts));
  ASSERT_THAT(worker.Start(), IsOk());
  Job job;
  job.id = job.name = "job";
  job.total_steps = 5;
  ASSERT_THAT(MakeFolders(worker.JobFolder("job")), IsOk());
  ASSERT_THAT(worker.Accept(job, ""), IsOk());
  while (!IsFinished(store->Get("job")->state)) std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

TEST_F(LostDeviceTest, AJobIsNotFailedByItAndGoesOnAfterTheNextStart) {
  // The process that ends is told the folder of the one that looks.
  const TempDir own;
  setenv(kDirVariable, own.path().c_str(), /*overwrite=*/0);
  const std::string dir = getenv(kDirVariable);
  EXPECT_EXIT(TrainOnALostDevice(dir), kEnds, kLine);
  const std::unique_ptr<JobStore> store = JobStore::Open(dir + "/jobs.db").value();
  EXPECT_EQ(store->Get("job")->state, JobState::kRunning);
}

}  // namespace
}  // namespace lorad
