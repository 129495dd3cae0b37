#include "adapters/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "adapters/float_convert.h"
#include "adapters/warm_adapters.h"
#include "tests/adapters/adapter_folder.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

using testing::HasSubstr;

// Collects a loader's events; Wait gives the event of an id.
class Events final {
 public:
  void Add(LoaderEvent event) {
    const AdapterId id = std::visit([](const auto& e) { return e.id; }, event);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      by_id_[id].push_back(std::move(event));
    }
    arrived_.notify_all();
  }
  LoaderEvent Wait(AdapterId id) {
    std::unique_lock<std::mutex> lock(mutex_);
    const bool came = arrived_.wait_for(lock, std::chrono::seconds(30), [&] { return !by_id_[id].empty(); });
    if (!came) return AdapterLoadFailed{.id = id, .status = absl::DeadlineExceededError("no event")};
    LoaderEvent event = std::move(by_id_[id].front());
    by_id_[id].erase(by_id_[id].begin());
    return event;
  }
  bool Has(AdapterId id) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return !by_id_[id].empty();
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::map<AdapterId, std::vector<LoaderEvent>> by_id_;
};

// Folders that hold "stuck" in their path are never read, until Release.
class StuckFiles final : public FileSource {
 public:
  bool Exists(const std::string& path) override { return files_->Exists(path); }
  absl::StatusOr<int64_t> SizeBytes(const std::string& path) override {
    std::unique_lock<std::mutex> lock(mutex_);
    if (path.find("stuck") != std::string::npos) {
      ++stuck_;
      stuck_cv_.notify_all();
      released_cv_.wait(lock, [this] { return released_; });
    }
    return files_->SizeBytes(path);
  }
  absl::Status ReadAt(const std::string& path, int64_t offset, int64_t size, std::byte* destination) override {
    return files_->ReadAt(path, offset, size, destination);
  }
  void WaitUntilStuck() {
    std::unique_lock<std::mutex> lock(mutex_);
    stuck_cv_.wait(lock, [this] { return stuck_ > 0; });
  }
  void Release() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      released_ = true;
    }
    released_cv_.notify_all();
  }

 private:
  std::unique_ptr<FileSource> files_ = LocalFiles();
  std::mutex mutex_;
  std::condition_variable released_cv_;
  std::condition_variable stuck_cv_;
  int stuck_ = 0;
  bool released_ = false;
};

class LoaderTest : public testing::Test {
 protected:
  AdapterLoader MakeLoader(FileSource* files, AdapterLoader::Options options = {}) {
    return AdapterLoader(options, TinyBase(), files, [this](LoaderEvent event) { events_.Add(std::move(event)); });
  }
  Events events_;
  TempDir dir_;
};

TEST_F(LoaderTest, ReadsThenPacksIntoThePagesItIsGiven) {
  const std::string path = WriteAdapter(dir_.path() + "/a", {.rank = 3, .alpha = 6});
  const auto files = LocalFiles();
  AdapterLoader loader = MakeLoader(files.get());
  ASSERT_TRUE(loader.Stage(1, path, "").ok());
  const LoaderEvent event = events_.Wait(1);
  ASSERT_TRUE(std::holds_alternative<AdapterStaged>(event)) << std::get<AdapterLoadFailed>(event).status;
  const AdapterStaged& staged = std::get<AdapterStaged>(event);
  EXPECT_EQ(staged.image->rank_max, 3);
  EXPECT_EQ(staged.layout.slots.size(), staged.image->slots.size());

  std::vector<std::byte> pages(static_cast<size_t>(staged.layout.total_bytes));
  ASSERT_TRUE(loader.Pack(1, staged.image, staged.layout, pages.data()).ok());
  ASSERT_TRUE(std::holds_alternative<AdapterPacked>(events_.Wait(1)));
  const ImageSlot& slot = staged.image->slots[0];
  EXPECT_EQ(std::memcmp(pages.data() + staged.layout.slots[0].a_offset_bytes, slot.a.data(), slot.a.elements() * 4), 0);
}

TEST_F(LoaderTest, WhatAPackKeptIsCopiedToTheSameBytes) {
  const std::string path = WriteAdapter(dir_.path() + "/a", {.rank = 3, .alpha = 6});
  const auto files = LocalFiles();
  AdapterLoader loader = MakeLoader(files.get());
  ASSERT_TRUE(loader.Stage(1, path, "").ok());
  const LoaderEvent event = events_.Wait(1);
  const AdapterStaged& staged = std::get<AdapterStaged>(event);
  WarmAdapters warm(int64_t{1} << 20);
  std::shared_ptr<PackedAdapter> keep = warm.Make(1, staged.layout);
  ASSERT_NE(keep, nullptr);
  const auto size = static_cast<size_t>(staged.layout.total_bytes);
  std::vector<std::byte> pages(size), again(size, std::byte{0xFF});
  ASSERT_TRUE(loader.Pack(1, staged.image, staged.layout, pages.data(), keep).ok());
  ASSERT_TRUE(std::holds_alternative<AdapterPacked>(events_.Wait(1)));
  EXPECT_EQ(keep.use_count(), 2) << "the loader holds it no longer";
  std::filesystem::remove_all(path);
  ASSERT_TRUE(loader.Copy(1, keep, again.data()).ok());
  warm.Drop(1);
  const std::weak_ptr<PackedAdapter> watch = std::exchange(keep, nullptr);
  ASSERT_TRUE(std::holds_alternative<AdapterPacked>(events_.Wait(1)));
  EXPECT_TRUE(watch.expired());
  EXPECT_EQ(again, pages);
}

TEST_F(LoaderTest, AnAdapterThatChangedOnDiskIsRefusedWhenItIsReadAgain) {
  const std::string path = WriteAdapter(dir_.path() + "/a", {.seed = 1});
  const auto files = LocalFiles();
  AdapterLoader loader = MakeLoader(files.get());
  ASSERT_TRUE(loader.Stage(1, path, "").ok());
  const LoaderEvent first = events_.Wait(1);
  const std::string digest = std::get<AdapterStaged>(first).image->digest;
  EXPECT_EQ(digest.size(), 64u);
  ASSERT_TRUE(loader.Stage(2, path, digest).ok());
  EXPECT_TRUE(std::holds_alternative<AdapterStaged>(events_.Wait(2)));

  WriteAdapter(path, {.seed = 2});
  ASSERT_TRUE(loader.Stage(3, path, digest).ok());
  const LoaderEvent changed = events_.Wait(3);
  ASSERT_TRUE(std::holds_alternative<AdapterLoadFailed>(changed));
  EXPECT_EQ(std::get<AdapterLoadFailed>(changed).status.code(), absl::StatusCode::kDataLoss);
}

TEST_F(LoaderTest, AMissingFolderIsAnEventNotAnException) {
  const auto files = LocalFiles();
  AdapterLoader loader = MakeLoader(files.get());
  ASSERT_TRUE(loader.Stage(1, dir_.path() + "/nothing", "").ok());
  const LoaderEvent event = events_.Wait(1);
  ASSERT_TRUE(std::holds_alternative<AdapterLoadFailed>(event));
  EXPECT_EQ(std::get<AdapterLoadFailed>(event).status.code(), absl::StatusCode::kNotFound);
}

TEST_F(LoaderTest, FoldersThatAreNeverReadDelayNobody) {
  const std::string stuck = WriteAdapter(dir_.path() + "/stuck", {});
  const std::string good = WriteAdapter(dir_.path() + "/good", {});
  StuckFiles files;
  AdapterLoader::Options options;
  options.threads = 1;
  options.replace_after_ms = 50;
  options.max_readers = 4;
  AdapterLoader loader = MakeLoader(&files, options);
  ASSERT_TRUE(loader.Stage(1, good, "").ok());
  const LoaderEvent first = events_.Wait(1);
  const AdapterStaged& staged = std::get<AdapterStaged>(first);

  ASSERT_TRUE(loader.Stage(2, stuck, "").ok());
  ASSERT_TRUE(loader.Stage(3, stuck, "").ok());
  std::vector<std::byte> pages(static_cast<size_t>(staged.layout.total_bytes));
  ASSERT_TRUE(loader.Pack(1, staged.image, staged.layout, pages.data()).ok());
  EXPECT_TRUE(std::holds_alternative<AdapterPacked>(events_.Wait(1))) << "packing does not wait for readers";
  ASSERT_TRUE(loader.Stage(4, good, "").ok());
  EXPECT_TRUE(std::holds_alternative<AdapterStaged>(events_.Wait(4))) << "a reader takes the place of the stuck ones";
  EXPECT_FALSE(events_.Has(2));
  EXPECT_FALSE(events_.Has(3));
  files.Release();
  EXPECT_TRUE(std::holds_alternative<AdapterStaged>(events_.Wait(2)));
  EXPECT_TRUE(std::holds_alternative<AdapterStaged>(events_.Wait(3)));
}

TEST_F(LoaderTest, AFullQueueAnswersAtOnceAndAWaitingJobCanBeTakenBack) {
  const std::string stuck = WriteAdapter(dir_.path() + "/stuck", {});
  StuckFiles files;
  AdapterLoader::Options options;
  options.threads = 1;
  options.queue_limit = 2;
  options.max_readers = 1;
  AdapterLoader loader = MakeLoader(&files, options);
  AdapterId id = 1;
  absl::Status status;
  while (status.ok() && id < 100) status = loader.Stage(id++, stuck, "");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  const AdapterId last_accepted = id - 2;
  EXPECT_TRUE(loader.Cancel(last_accepted));
  EXPECT_FALSE(loader.Cancel(last_accepted));
  EXPECT_TRUE(loader.Stage(200, stuck, "").ok());
  files.Release();
  EXPECT_TRUE(std::holds_alternative<AdapterStaged>(events_.Wait(200)));
  EXPECT_FALSE(events_.Has(last_accepted));
}

TEST_F(LoaderTest, ManyThreadsMayAskAtOnce) {
  const std::string path = WriteAdapter(dir_.path() + "/a", {});
  const auto files = LocalFiles();
  AdapterLoader loader = MakeLoader(files.get());
  std::vector<std::thread> askers;
  for (AdapterId t = 0; t < 4; ++t) {
    askers.emplace_back([&, t] {
      for (AdapterId i = 0; i < 25; ++i) EXPECT_TRUE(loader.Stage(100 * t + i, path, "").ok());
    });
  }
  for (std::thread& asker : askers) asker.join();
  for (AdapterId t = 0; t < 4; ++t) {
    for (AdapterId i = 0; i < 25; ++i) EXPECT_TRUE(std::holds_alternative<AdapterStaged>(events_.Wait(100 * t + i)));
  }
}

TEST_F(LoaderTest, GoingAwayLeavesAReadBehindThatNeverReturns) {
  const std::string stuck = WriteAdapter(dir_.path() + "/stuck", {});
  const std::string good = WriteAdapter(dir_.path() + "/good", {});
  auto files = std::make_shared<StuckFiles>();
  {
    AdapterLoader::Options options;
    options.end_patience_ms = 50;
    AdapterLoader loader(options, TinyBase(), std::shared_ptr<FileSource>(files),
                         [this](LoaderEvent event) { events_.Add(std::move(event)); });
    ASSERT_TRUE(loader.Stage(1, stuck, "").ok());
    ASSERT_TRUE(loader.Stage(2, good, "").ok());
    EXPECT_TRUE(std::holds_alternative<AdapterStaged>(events_.Wait(2)));
    files->WaitUntilStuck();
  }
  EXPECT_GT(files.use_count(), 1) << "the reader that is left behind keeps what it reads from";
  files->Release();
  const std::weak_ptr<StuckFiles> watch = files;
  files.reset();
  for (int i = 0; i < 30'000 && !watch.expired(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(watch.expired()) << "when the read returns after all, its thread ends";
  EXPECT_FALSE(events_.Has(1)) << "nobody is told any more";
}

TEST_F(LoaderTest, GoingAwayDropsWhatIsQueued) {
  const std::string path = WriteAdapter(dir_.path() + "/a", {});
  const auto files = LocalFiles();
  AdapterLoader loader = MakeLoader(files.get());
  for (AdapterId id = 1; id <= 50; ++id) ASSERT_TRUE(loader.Stage(id, path, "").ok());
}

}  // namespace
}  // namespace lorad
