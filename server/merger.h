#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "adapters/merge.h"
#include "model/base/file_source.h"
#include "model/sites.h"

namespace lorad {

struct MergeJob {
  std::string adapter_path;
  std::string digest;       // of what is served; a folder that changed since is refused
  std::string output_path;  // as it was asked for; looked up on the merger's thread
  MergeProgressFn progress;
  std::function<void(absl::Status)> done;  // once; both are called on the merger's thread
};

// Merges adapters into copies of the base on disk, one at a time, on a thread of its own: it reads base and adapter
// from their folders again and touches nothing of what is served.
class Merger final {
 public:
  // `files` reads adapter folders; `root` is where output folders may be made, "" = anywhere.
  Merger(std::string model_dir, BaseShape base, std::shared_ptr<FileSource> files, std::string root);
  ~Merger();  // gives up what is under way

  // Any thread. Errors: ResourceExhausted while another one is under way; then `done` is not called.
  absl::Status Start(MergeJob job);

 private:
  absl::Status Run(const MergeJob& job) const;

  const std::string model_dir_;
  const BaseShape base_;
  const std::shared_ptr<FileSource> files_;
  const std::string root_;
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> busy_ = false;
  std::mutex mutex_;  // of thread_
  std::thread thread_;
};

}  // namespace lorad
