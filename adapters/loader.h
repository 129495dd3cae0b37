#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "adapters/image.h"
#include "adapters/kinds/kind.h"
#include "model/base/file_source.h"
#include "model/sites.h"

namespace lorad {

// One loaded version of an adapter; never used again, so that nothing of an old version can be mistaken for a new one.
using AdapterId = uint64_t;

// The folder was read, checked and digested; `image` waits to be packed into pages.
struct AdapterStaged {
  AdapterId id;
  std::shared_ptr<const AdapterImage> image;
  PackedLayout layout;
};
// The weights lie in the pages that Pack was given.
struct AdapterPacked {
  AdapterId id;
};
struct AdapterLoadFailed {
  AdapterId id;
  absl::Status status;
};
using LoaderEvent = std::variant<AdapterStaged, AdapterPacked, AdapterLoadFailed>;

// Threads that read adapters from disk and pack them into reserved pages. A loader decides nothing: it answers each
// job with one event.
//
// Threads  Stage, Pack and Cancel from any thread; `on_event` is called on a loader thread and must not block.
// Errors   Stage and Pack: ResourceExhausted when the queue is full. Everything else arrives as AdapterLoadFailed.
class AdapterLoader final {
 public:
  struct Options {
    int threads = 2;
    int64_t queue_limit = 4096;
    DType pool_dtype = DType::kF32;
  };
  AdapterLoader(const Options& options, BaseShape base, FileSource* files, std::function<void(LoaderEvent)> on_event);
  ~AdapterLoader();  // lets running jobs end, drops the others

  // `expected_digest`: not empty when an evicted adapter is read again; a folder that changed meanwhile is DataLoss.
  absl::Status Stage(AdapterId id, std::string path, std::string expected_digest);
  absl::Status Pack(AdapterId id, std::shared_ptr<const AdapterImage> image, PackedLayout layout, std::byte* destination);

 private:
  struct Job;
  void Run();

  const Options options_;
  const BaseShape base_;
  FileSource* const files_;
  const std::function<void(LoaderEvent)> on_event_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace lorad
