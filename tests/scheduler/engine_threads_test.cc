#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <future>
#include <mutex>
#include <optional>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "scheduler/engine.h"
#include "tests/adapters/adapter_folder.h"
#include "tests/support/fake_executor.h"
#include "tests/support/recording_sink.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kPageBytes = 4096;
constexpr int kAdapters = 6;

// Folders that hold "stuck" in their path are not read until the end.
class StuckFiles final : public FileSource {
 public:
  bool Exists(const std::string& path) override { return files_->Exists(path); }
  absl::StatusOr<int64_t> SizeBytes(const std::string& path) override {
    std::unique_lock<std::mutex> lock(mutex_);
    if (path.find("stuck") != std::string::npos) wake_.wait(lock, [this] { return released_; });
    return files_->SizeBytes(path);
  }
  absl::Status ReadAt(const std::string& path, int64_t offset, int64_t size, std::byte* destination) override {
    return files_->ReadAt(path, offset, size, destination);
  }
  void Release() {
    const std::lock_guard<std::mutex> lock(mutex_);
    released_ = true;
    wake_.notify_all();
  }

 private:
  std::unique_ptr<FileSource> files_ = LocalFiles();
  std::mutex mutex_;
  std::condition_variable wake_;
  bool released_ = false;
};

class SilentObserver final : public StepObserver {
 public:
  void OnStep(const StepStats&) override {}
  void OnScheduled(int64_t) override {}
  void OnFirstToken(int64_t) override {}
  void OnToken(const std::string&, int64_t, int64_t) override {}
  void OnFinish(const SequenceStats&) override { ++finished; }
  void OnAdapterLoaded(const std::string&, LoadedFrom from, int64_t) override {
    warm_loads += from == LoadedFrom::kHost;
  }
  void OnAdapterLoadFailed(const std::string&) override {}
  void OnAdapterEvicted(const std::string&) override {}
  void OnPreempted(const std::string&) override {}
  int64_t finished = 0;
  int64_t warm_loads = 0;
};

// A whole engine with its threads and a real loader; the model is the fake one.
class EngineThreadsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (int i = 0; i < kAdapters; ++i) {
      WriteAdapter(absl::StrCat(folder_.path(), "/a", i), {.rank = 1 + i, .seed = 10 + i});
    }
    WriteAdapter(folder_.path() + "/stuck", {.seed = 99});
    config_.max_context_tokens = 512;
    config_.max_batch_tokens = 96;
    config_.max_sequences = 8;
    config_.queue_limit = 64;
    config_.check_invariants = true;
    config_.host_adapter_bytes = int64_t{256} << 10;
    config_.adapter_dir = folder_.path();
  }

  void Start(int64_t total_pages) {
    pages_ = *PagePool::Create(total_pages * kPageBytes, kPageBytes);
    pool_ = std::make_unique<AdapterPool>(pages_.get(), TinyBase());
    executor_ = std::make_unique<FakeExecutor>(pages_.get(), &pool_->slots(), kKvLayout, nullptr);
    loader_ = std::make_unique<AdapterLoader>(loader_options_, TinyBase(), &files_,
                                              [this](LoaderEvent event) { engine_->OnLoaderEvent(std::move(event)); });
    engine_ = std::make_unique<Engine>(config_, Engine::Parts{pages_.get(), pool_.get(), loader_.get(), executor_.get(),
                                                              &observer_, &completions_, &clock_, kKvLayout});
    engine_thread_ = std::thread([this] { engine_->Run(); });
  }

  void TearDown() override {
    if (engine_thread_.joinable()) {
      engine_->Stop();
      engine_thread_.join();
    }
    files_.Release();
    loader_.reset();
    engine_.reset();
  }

  Request MakeRequest(const std::string& adapter, int64_t prompt_tokens, int64_t max_tokens) {
    Request request;
    request.id = next_request_.fetch_add(1);
    request.adapter = adapter;
    for (int64_t i = 0; i < prompt_tokens; ++i)
      request.prompt_ids.push_back(static_cast<int32_t>(i * 7 % kFakeVocabulary));
    request.sampling.max_tokens = max_tokens;
    request.arrival_us = clock_.NowUs();
    request.sink = std::make_shared<RecordingSink>();
    return request;
  }

  static RecordingSink::Answer WaitFor(const Request& request) {
    const auto sink = std::static_pointer_cast<RecordingSink>(request.sink);
    for (int i = 0; i < 60'000 && !sink->finished(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return sink->answer();
  }

  RecordingSink::Answer Generate(const std::string& adapter, int64_t prompt_tokens, int64_t max_tokens) {
    Request request = MakeRequest(adapter, prompt_tokens, max_tokens);
    if (const absl::Status status = engine_->Submit(request); !status.ok()) {
      RecordingSink::Answer answer;
      answer.finish.status = status;
      return answer;
    }
    return WaitFor(request);
  }

  static constexpr KvLayout kKvLayout = {.num_layers = 1, .num_kv_heads = 1, .head_dim = 32, .dtype = DType::kF32};
  TempDir folder_;
  EngineConfig config_;
  SteadyClock clock_;
  StuckFiles files_;
  AdapterLoader::Options loader_options_;
  SilentObserver observer_;
  Completions completions_;
  std::unique_ptr<PagePool> pages_;
  std::unique_ptr<AdapterPool> pool_;
  std::unique_ptr<FakeExecutor> executor_;
  std::unique_ptr<AdapterLoader> loader_;
  std::unique_ptr<Engine> engine_;
  std::thread engine_thread_;
  std::atomic<RequestId> next_request_ = 1;
};

TEST_F(EngineThreadsTest, ManyThreadsSubmitCancelLoadAndUnloadAndEachRequestIsAnsweredOnceAndRight) {
  Start(24);
  std::vector<std::vector<int32_t>> alone;
  for (int i = 0; i < kAdapters; ++i) alone.push_back(Generate(absl::StrCat("a", i), 30, 12).tokens);
  for (const auto& tokens : alone) ASSERT_EQ(tokens.size(), 12u);

  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      std::vector<std::pair<Request, int>> mine;
      for (int i = 0; i < 25; ++i) {
        const int adapter = static_cast<int>(random() % kAdapters);
        Request request = MakeRequest(absl::StrCat("a", adapter), 30, 12);
        if (!engine_->Submit(request).ok()) continue;
        if (random() % 4 == 0) engine_->Cancel(request.id, -1, "changed my mind");
        mine.emplace_back(std::move(request), adapter);
        if (i % 5 == 4) std::this_thread::sleep_for(std::chrono::milliseconds(2));
      }
      for (const auto& [request, adapter] : mine) {
        const RecordingSink::Answer answer = WaitFor(request);
        EXPECT_EQ(answer.finishes, 1);
        if (answer.tokens.size() == 12u) {
          EXPECT_EQ(answer.tokens, alone[static_cast<size_t>(adapter)]);
          ++right;
        }
      }
    });
  }
  std::atomic<int> replies = 0;
  int commands = 0;
  threads.emplace_back([&] {
    for (int i = 0; i < 40; ++i) {
      const std::string name = absl::StrCat("a", i % kAdapters);
      if (i % 2 == 0) {
        commands += engine_->Unload({.name = name, .reply = [&](const absl::Status&) { ++replies; }}).ok();
      } else {
        commands += engine_
                        ->Load({.name = name,
                                .path = absl::StrCat(folder_.path(), "/", name),
                                .replace = i % 4 == 1,
                                .reply = [&](const auto&) { ++replies; }})
                        .ok();
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  threads.emplace_back([&] {
    for (int i = 0; i < 200; ++i) {
      const std::shared_ptr<const EngineSnapshot> snapshot = engine_->snapshot();
      EXPECT_EQ(snapshot->kv_pages + snapshot->cached_pages + snapshot->adapter_pages + snapshot->free_pages,
                snapshot->total_pages);
      for (const auto& info : snapshot->adapters->all) EXPECT_FALSE(info->name.empty());
      std::this_thread::yield();
    }
  });
  for (std::thread& thread : threads) thread.join();
  engine_->Drain(clock_.NowUs() + 10'000'000);
  engine_thread_.join();
  EXPECT_GT(right, 20);
  EXPECT_EQ(engine_->snapshot()->kv_pages, 0);
  for (int i = 0; i < 5'000 && replies < commands; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(replies, commands);
}

TEST_F(EngineThreadsTest, AdaptersThatTakeTurnsInThePoolComeBackFromTheHost) {
  Start(8);
  std::vector<std::vector<int32_t>> first;
  for (int i = 0; i < kAdapters; ++i) first.push_back(Generate(absl::StrCat("a", i), 30, 12).tokens);
  for (int i = 0; i < kAdapters; ++i) {
    ASSERT_EQ(first[static_cast<size_t>(i)].size(), 12u);
    EXPECT_EQ(Generate(absl::StrCat("a", i), 30, 12).tokens, first[static_cast<size_t>(i)]);
  }
  engine_->Stop();
  engine_thread_.join();
  EXPECT_GT(observer_.warm_loads, 0);
}

TEST_F(EngineThreadsTest, AFileSourceThatNeverReturnsDelaysNobodyElse) {
  Start(64);
  Request stuck = MakeRequest("stuck", 10, 10);
  ASSERT_TRUE(engine_->Submit(stuck).ok());
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Generate(i % 2 == 0 ? "" : "a1", 10, 10).tokens.size(), 10u);
  EXPECT_EQ(Generate("a2", 10, 10).tokens.size(), 10u);
  EXPECT_FALSE(std::static_pointer_cast<RecordingSink>(stuck.sink)->finished());
  engine_->Cancel(stuck.id, -1, "enough");
  EXPECT_TRUE(absl::IsCancelled(WaitFor(stuck).finish.status));
}

TEST_F(EngineThreadsTest, ATokenizerThatIsNeverReadDelaysNobodyElse) {
  std::promise<void> released;
  const std::shared_future<void> release = released.get_future().share();
  loader_options_.read_tokenizer = [release](FileSource&, const std::string& dir) {
    if (dir.ends_with("/a0")) release.wait();
    return std::shared_ptr<const Tokenizer>();
  };
  Start(64);
  const auto without_prompt = [this](const std::string& adapter, std::optional<int64_t> deadline_us) {
    Request request = MakeRequest(adapter, 10, 10);
    request.deadline_us = deadline_us;
    Request submitted = request;
    submitted.awaits_tokenizer = true;
    submitted.prompt_ids.clear();
    EXPECT_TRUE(engine_->Submit(std::move(submitted)).ok());
    return request;
  };
  const Request stuck = without_prompt("a0", std::nullopt);
  const Request late = without_prompt("a0", clock_.NowUs() + 200'000);
  Request read = without_prompt("a1", std::nullopt);
  const auto sink = std::static_pointer_cast<RecordingSink>(read.sink);
  for (int i = 0; i < 60'000 && sink->tokenizers().empty(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  engine_->GivePrompt(read);
  EXPECT_EQ(WaitFor(read).tokens.size(), 10u);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Generate(i % 2 == 0 ? "" : "a2", 10, 10).tokens.size(), 10u);
  EXPECT_TRUE(absl::IsDeadlineExceeded(WaitFor(late).finish.status));
  EXPECT_FALSE(std::static_pointer_cast<RecordingSink>(stuck.sink)->finished());
  engine_->Cancel(stuck.id, -1, "enough");
  EXPECT_TRUE(absl::IsCancelled(WaitFor(stuck).finish.status));
  released.set_value();
}

TEST_F(EngineThreadsTest, NamesAndFoldersOfAdapterDirAreChecked) {
  Start(64);
  EXPECT_TRUE(absl::IsNotFound(Generate("none-such", 4, 4).finish.status));
  EXPECT_TRUE(absl::IsInvalidArgument(Generate("../a1", 4, 4).finish.status));
  EXPECT_TRUE(absl::IsNotFound(Generate("a1@3", 4, 4).finish.status));  // no revisions here
  EXPECT_TRUE(absl::IsInvalidArgument(Generate("a1@../a1", 4, 4).finish.status));
}

TEST_F(EngineThreadsTest, ANameWhoseLoadFailedForItsSizeIsAsUnknownAsAnyOther) {
  Start(8);
  const std::string path =
      WriteAdapter(folder_.path() + "/wide/wide", {.rank = 32, .modules = {"q_proj", "k_proj", "v_proj"}});
  std::atomic<bool> failed = false;
  ASSERT_TRUE(engine_
                  ->Load({.name = "huge",
                          .path = path,
                          .reply = [&](const auto& info) { failed = absl::IsInvalidArgument(info.status()); }})
                  .ok());
  for (int i = 0; i < 5'000 && !failed; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ASSERT_TRUE(failed);
  EXPECT_TRUE(absl::IsNotFound(Generate("huge", 4, 4).finish.status));
  // A folder of that name that does fit loads at its first use.
  WriteAdapter(folder_.path() + "/huge", {.rank = 1});
  EXPECT_EQ(Generate("huge", 4, 4).tokens.size(), 4u);
  EXPECT_EQ(engine_->snapshot()->adapters->all.size(), 1u);
}

TEST_F(EngineThreadsTest, WhatCanNeverFitIsRefusedAtOnce) {
  Start(8);
  const absl::Status context = engine_->Submit(MakeRequest("", 500, 13));
  EXPECT_TRUE(absl::IsInvalidArgument(context));
  EXPECT_THAT(std::string(context.message()), HasSubstr("context limit: 512"));
  const absl::Status memory = engine_->Submit(MakeRequest("", 120, 20));
  EXPECT_TRUE(absl::IsInvalidArgument(memory));
  EXPECT_THAT(std::string(memory.message()), HasSubstr("memory pages: 8"));
}

TEST_F(EngineThreadsTest, AFullQueueIsTold) {
  config_.queue_limit = 2;
  config_.max_sequences = 1;
  Start(64);
  absl::Status status;
  std::vector<Request> requests;
  for (int i = 0; i < 200 && status.ok(); ++i) {
    Request request = MakeRequest("stuck", 10, 10);
    status = engine_->Submit(request);
    if (status.ok()) requests.push_back(std::move(request));
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("limit: 2"));
  EXPECT_EQ(requests.size(), 2u);
}

TEST_F(EngineThreadsTest, StopAnswersWhatIsLeft) {
  Start(64);
  Request stuck = MakeRequest("stuck", 10, 10);
  ASSERT_TRUE(engine_->Submit(stuck).ok());
  std::atomic<int> replies = 0;
  ASSERT_TRUE(engine_
                  ->Load({.name = "also-stuck",
                          .path = folder_.path() + "/stuck",
                          .reply = [&](const auto& info) { replies += absl::IsUnavailable(info.status()); }})
                  .ok());
  engine_->Stop();
  engine_thread_.join();
  EXPECT_TRUE(absl::IsUnavailable(WaitFor(stuck).finish.status));
  for (int i = 0; i < 5'000 && replies == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(replies, 1);
  EXPECT_TRUE(absl::IsUnavailable(engine_->Submit(MakeRequest("", 1, 1))));
}

TEST_F(EngineThreadsTest, CompletionsCallWhatIsLeftBeforeTheyEnd) {
  int calls = 0;
  {
    Completions completions;
    for (int i = 0; i < 100; ++i) completions.Post([&calls] { ++calls; });
  }
  EXPECT_EQ(calls, 100);
}

}  // namespace
}  // namespace lorad
