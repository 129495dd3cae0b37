// Loader and pool together, as the engine drives them: nothing stays behind.
#include <gtest/gtest.h>
#include <malloc.h>
#include <unistd.h>

#include <condition_variable>
#include <deque>
#include <fstream>
#include <mutex>
#include <string>

#include "adapters/loader.h"
#include "adapters/pool.h"
#include "tests/adapters/adapter_folder.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

class LoadUnloadTest : public testing::Test {
 protected:
  LoadUnloadTest()
      : pages_(PagePool::Create(int64_t{64} << 20, 64 << 10).value()),
        pool_(pages_.get(), TinyBase()),
        loader_({}, TinyBase(), files_.get(), [this](LoaderEvent event) { Add(std::move(event)); }) {}

  void Add(LoaderEvent event) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      events_.push_back(std::move(event));
    }
    arrived_.notify_one();
  }
  LoaderEvent Next() {
    std::unique_lock<std::mutex> lock(mutex_);
    arrived_.wait(lock, [this] { return !events_.empty(); });
    LoaderEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
  }
  void Load(AdapterId id, const std::string& path) {
    ASSERT_TRUE(loader_.Stage(id, path, "").ok());
    const LoaderEvent staged_event = Next();
    ASSERT_TRUE(std::holds_alternative<AdapterStaged>(staged_event));
    const AdapterStaged& staged = std::get<AdapterStaged>(staged_event);
    AdapterReservation reservation = pool_.Reserve(id, staged.layout).value();
    ASSERT_TRUE(loader_.Pack(id, staged.image, staged.layout, reservation.data()).ok());
    ASSERT_TRUE(std::holds_alternative<AdapterPacked>(Next()));
    pool_.Commit(std::move(reservation));
  }

  TempDir dir_;
  std::unique_ptr<FileSource> files_ = LocalFiles();
  std::unique_ptr<PagePool> pages_;
  AdapterPool pool_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<LoaderEvent> events_;
  AdapterLoader loader_;  // last: its threads use what is above
};

TEST_F(LoadUnloadTest, AThousandLoadsAndUnloadsLeaveNoPageOwnedAndMemoryAsItWas) {
  std::vector<std::string> paths;
  for (int i = 0; i < 4; ++i) {
    paths.push_back(WriteAdapter(dir_.path() + "/" + std::to_string(i), {.rank = 16 << i, .seed = i}));
  }
  int64_t before = 0;
  for (AdapterId id = 1; id <= 1000; ++id) {
    if (id == 100) {
      ::malloc_trim(0);
      before = ResidentBytes();
    }
    Load(id, paths[id % paths.size()]);
    if (HasFatalFailure()) return;
    { const AdapterLease lease = pool_.Acquire(id).value(); }
    ASSERT_TRUE(pool_.Remove(id).ok());
  }
  EXPECT_EQ(pages_->free_pages(), pages_->total_pages());
  EXPECT_EQ(pages_->largest_free_run(), pages_->total_pages());
  ::malloc_trim(0);
  EXPECT_LT(ResidentBytes(), before * 105 / 100 + (int64_t{1} << 20));
}

TEST_F(LoadUnloadTest, AnUnloadedAdaptersMemoryGoesBackToTheSystem) {
  const std::string path =
      WriteAdapter(dir_.path() + "/a", {.rank = 512, .modules = {"q_proj", "lm_head", "embed_tokens"}});
  for (AdapterId id = 1; id <= 40; ++id) Load(id, path);
  ::malloc_trim(0);
  const int64_t loaded = ResidentBytes();
  const int64_t held = pages_->used_pages(PageOwner::kAdapter) * pages_->page_bytes();
  ASSERT_GT(held, int64_t{10} << 20);
  for (AdapterId id = 1; id <= 40; ++id) ASSERT_TRUE(pool_.Remove(id).ok());
  EXPECT_LT(ResidentBytes(), loaded - held * 9 / 10);
}

}  // namespace
}  // namespace lorad
