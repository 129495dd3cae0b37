#include "adapters/loader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/kinds/kind.h"
#include "model/base/guarded.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr std::chrono::milliseconds kWatchEvery{200};

absl::StatusOr<std::shared_ptr<const AdapterImage>> ReadAndCompare(const std::string& path,
                                                                   const std::string& expected_digest,
                                                                   const BaseShape& base, FileSource& files,
                                                                   const AdapterReadOptions& options) {
  ASSIGN_OR_RETURN(AdapterImage image, ReadAdapter(path, base, files, options));
  if (!expected_digest.empty() && image.digest != expected_digest) {
    return absl::DataLossError(absl::StrCat("adapter changed on disk since it was loaded: ", path,
                                            "; digest: ", image.digest, "; expected: ", expected_digest,
                                            "; load it again with replace"));
  }
  return std::make_shared<const AdapterImage>(std::move(image));
}

}  // namespace

AdapterLoader::AdapterLoader(const Options& options, BaseShape base, FileSource* files,
                             std::function<void(LoaderEvent)> on_event)
    : options_(options), base_(std::move(base)), files_(files), on_event_(std::move(on_event)) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (int i = 0; i < options_.threads; ++i) StartReader();
  packer_ = std::thread([this] { RunPacker(); });
}

AdapterLoader::~AdapterLoader() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    stage_jobs_.clear();
    pack_jobs_.clear();
  }
  readers_wake_.notify_all();
  packer_wakes_.notify_all();
  packer_.join();  // the only one that starts readers
  for (std::thread& reader : readers_) reader.join();
}

absl::Status AdapterLoader::Stage(AdapterId id, std::string path, std::string expected_digest) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (static_cast<int64_t>(stage_jobs_.size()) >= options_.queue_limit) {
      return absl::ResourceExhaustedError(absl::StrCat("adapters waiting to be read: ", stage_jobs_.size(),
                                                       "; limit: ", options_.queue_limit, "; retry later"));
    }
    stage_jobs_.push_back({.id = id, .path = std::move(path), .expected_digest = std::move(expected_digest)});
  }
  readers_wake_.notify_one();
  packer_wakes_.notify_one();  // it watches the readers while jobs wait
  return absl::OkStatus();
}

absl::Status AdapterLoader::Pack(AdapterId id, std::shared_ptr<const AdapterImage> image, PackedLayout layout,
                                 std::byte* destination) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    pack_jobs_.push_back(
        {.id = id, .image = std::move(image), .layout = std::move(layout), .destination = destination});
  }
  packer_wakes_.notify_one();
  return absl::OkStatus();
}

bool AdapterLoader::Cancel(AdapterId id) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found =
      std::find_if(stage_jobs_.begin(), stage_jobs_.end(), [id](const StageJob& job) { return job.id == id; });
  if (found == stage_jobs_.end()) return false;
  stage_jobs_.erase(found);
  return true;
}

void AdapterLoader::StartReader() {  // mutex_ held
  const size_t reader = readers_.size();
  busy_since_.emplace_back();
  readers_.emplace_back([this, reader] { RunReader(reader); });
}

void AdapterLoader::RunReader(size_t reader) {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    readers_wake_.wait(lock, [this] { return stopping_ || !stage_jobs_.empty(); });
    if (stopping_) return;
    const StageJob job = std::move(stage_jobs_.front());
    stage_jobs_.pop_front();
    busy_since_[reader] = std::chrono::steady_clock::now();
    lock.unlock();
    on_event_(Read(job));
    lock.lock();
    busy_since_[reader].reset();
  }
}

LoaderEvent AdapterLoader::Read(const StageJob& job) const {
  const AdapterReadOptions read_options{.pool_dtype = options_.pool_dtype,
                                        .base_tables = options_.base_tables,
                                        .max_pool_bytes = options_.max_pool_bytes};
  absl::StatusOr<std::shared_ptr<const AdapterImage>> image =
      Guarded([&] { return ReadAndCompare(job.path, job.expected_digest, base_, *files_, read_options); });
  if (!image.ok()) return AdapterLoadFailed{.id = job.id, .status = image.status()};
  PackedLayout layout = PlanLayout(**image, options_.pool_dtype);
  return AdapterStaged{.id = job.id, .image = *std::move(image), .layout = std::move(layout)};
}

void AdapterLoader::RunPacker() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stopping_) {
    if (!pack_jobs_.empty()) {
      PackJob job = std::move(pack_jobs_.front());
      pack_jobs_.pop_front();
      lock.unlock();
      lorad::Pack(*job.image, job.layout, job.destination);
      job.image.reset();  // before the event: whoever gets it may count on the host copy being gone
      on_event_(AdapterPacked{.id = job.id});
      lock.lock();
      continue;
    }
    if (stage_jobs_.empty()) {
      packer_wakes_.wait(lock);
      continue;
    }
    packer_wakes_.wait_for(lock, kWatchEvery);
    const bool may_start = !stopping_ && static_cast<int>(readers_.size()) < options_.max_readers;
    if (may_start && !stage_jobs_.empty() && EveryReaderIsStuck(std::chrono::steady_clock::now())) StartReader();
  }
}

bool AdapterLoader::EveryReaderIsStuck(Time now) const {
  const auto is_stuck = [&](const std::optional<Time>& since) {
    return since.has_value() && now - *since >= std::chrono::milliseconds(options_.replace_after_ms);
  };
  return std::all_of(busy_since_.begin(), busy_since_.end(), is_stuck);
}

}  // namespace lorad
