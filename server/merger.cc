#include "server/merger.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/checkpoint_tables.h"
#include "adapters/kinds/kind.h"
#include "adapters/names.h"
#include "model/base/guarded.h"
#include "model/base/status_macros.h"

namespace lorad {

Merger::Merger(std::string model_dir, BaseShape base, std::shared_ptr<FileSource> files, std::string root)
    : model_dir_(std::move(model_dir)), base_(std::move(base)), files_(std::move(files)), root_(std::move(root)) {}

Merger::~Merger() {
  stopping_.store(true);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (thread_.joinable()) thread_.join();
}

absl::Status Merger::Start(MergeJob job) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (busy_.exchange(true)) {
    return absl::ResourceExhaustedError("merges under way: 1; limit: 1; retry when it has ended");
  }
  if (thread_.joinable()) thread_.join();  // it has ended
  thread_ = std::thread([this, job = std::move(job)] {
    absl::Status status = Guarded([&] { return Run(job); });
    busy_.store(false);
    job.done(std::move(status));
  });
  return absl::OkStatus();
}

absl::Status Merger::Run(const MergeJob& job) const {
  ASSIGN_OR_RETURN(const std::string output, ResolveNewFolder(job.output_path, root_));
  ASSIGN_OR_RETURN(const BaseTables tables, OpenBaseTables(model_dir_, base_));
  ASSIGN_OR_RETURN(const AdapterImage image, ReadAdapter(job.adapter_path, base_, *files_, {.base_tables = tables}));
  if (image.digest != job.digest) {
    return absl::DataLossError(absl::StrCat("adapter folder: ", job.adapter_path,
                                            "; changed on disk since it was loaded; load it with replace first"));
  }
  return WriteMerged(model_dir_, base_, image, output,
                     [&](int64_t done, int64_t total) { return !stopping_.load() && job.progress(done, total); });
}

}  // namespace lorad
