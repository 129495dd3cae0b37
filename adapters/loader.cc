#include "adapters/loader.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/kinds/kind.h"
#include "adapters/pack_into.h"
#include "model/base/guarded.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr std::chrono::milliseconds kWatchEvery{200};

using Time = std::chrono::steady_clock::time_point;

struct StageJob {
  AdapterId id;
  std::string path;
  std::string expected_digest;
};
struct PackJob {
  AdapterId id = 0;
  std::shared_ptr<const AdapterImage> image;
  PackedLayout layout;
  std::shared_ptr<PackedAdapter> keep;
  std::shared_ptr<const PackedAdapter> packed;  // instead of the image
  std::byte* destination = nullptr;
};

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

struct AdapterLoader::State {
  State(const Options& with, BaseShape of_base, std::shared_ptr<FileSource> from, bool leave,
        std::function<void(LoaderEvent)> tell)
      : options(with),
        base(std::move(of_base)),
        files(std::move(from)),
        may_leave_readers(leave),
        on_event(std::move(tell)) {}

  // Each is given the state it is a member of, to keep.
  static void StartReader(const std::shared_ptr<State>& state);  // mutex held
  static void RunReader(const std::shared_ptr<State>& state, size_t reader);
  static void RunPacker(const std::shared_ptr<State>& state);

  absl::Status PutPack(PackJob job);
  LoaderEvent Read(const StageJob& job) const;
  bool EveryReaderIsStuck(Time now) const;
  void EndReaders();

  const Options options;
  const BaseShape base;
  const std::shared_ptr<FileSource> files;
  const bool may_leave_readers;
  const std::function<void(LoaderEvent)> on_event;  // not after `stopping`, except by whom `telling` counts
  std::mutex mutex;
  std::condition_variable readers_wake;
  std::condition_variable packer_wakes;
  std::condition_variable reader_ended;  // or has told
  std::deque<StageJob> stage_jobs;
  std::deque<PackJob> pack_jobs;
  bool stopping = false;
  int running = 0;                              // readers that have not ended
  int telling = 0;                              // readers inside on_event
  std::vector<std::optional<Time>> busy_since;  // by reader
  std::vector<std::thread> readers;
};

AdapterLoader::AdapterLoader(const Options& options, BaseShape base, std::shared_ptr<FileSource> files,
                             std::function<void(LoaderEvent)> on_event)
    : state_(std::make_shared<State>(options, std::move(base), std::move(files), /*leave=*/true, std::move(on_event))) {
  Start();
}

AdapterLoader::AdapterLoader(const Options& options, BaseShape base, FileSource* files,
                             std::function<void(LoaderEvent)> on_event)
    : state_(std::make_shared<State>(options, std::move(base), std::shared_ptr<FileSource>(files, [](FileSource*) {}),
                                     /*leave=*/false, std::move(on_event))) {
  Start();
}

void AdapterLoader::Start() {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  for (int i = 0; i < state_->options.threads; ++i) State::StartReader(state_);
  packer_ = std::thread([state = state_] { State::RunPacker(state); });
}

AdapterLoader::~AdapterLoader() {
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->stopping = true;
    state_->stage_jobs.clear();
    state_->pack_jobs.clear();
  }
  state_->readers_wake.notify_all();
  state_->packer_wakes.notify_all();
  packer_.join();  // the only one that starts readers
  state_->EndReaders();
}

void AdapterLoader::State::EndReaders() {
  std::unique_lock<std::mutex> lock(mutex);
  const auto all_ended = [this] { return running == 0; };
  if (may_leave_readers) {
    reader_ended.wait_for(lock, std::chrono::milliseconds(options.end_patience_ms), all_ended);
    reader_ended.wait(lock, [this] { return telling == 0; });
  } else {
    reader_ended.wait(lock, all_ended);
  }
  const bool leave = running > 0;
  // A reader that is left behind has none of what is here: it sees `stopping` when its read returns, and ends.
  std::vector<std::thread> threads = std::move(readers);
  lock.unlock();
  for (std::thread& thread : threads) {
    if (leave) {
      thread.detach();
    } else {
      thread.join();
    }
  }
}

absl::Status AdapterLoader::Stage(AdapterId id, std::string path, std::string expected_digest) {
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    if (static_cast<int64_t>(state_->stage_jobs.size()) >= state_->options.queue_limit) {
      return absl::ResourceExhaustedError(absl::StrCat("adapters waiting to be read: ", state_->stage_jobs.size(),
                                                       "; limit: ", state_->options.queue_limit, "; retry later"));
    }
    state_->stage_jobs.push_back({.id = id, .path = std::move(path), .expected_digest = std::move(expected_digest)});
  }
  state_->readers_wake.notify_one();
  state_->packer_wakes.notify_one();  // it watches the readers while jobs wait
  return absl::OkStatus();
}

absl::Status AdapterLoader::Pack(AdapterId id, std::shared_ptr<const AdapterImage> image, PackedLayout layout,
                                 std::byte* destination, std::shared_ptr<PackedAdapter> keep) {
  return state_->PutPack({.id = id,
                          .image = std::move(image),
                          .layout = std::move(layout),
                          .keep = std::move(keep),
                          .packed = nullptr,
                          .destination = destination});
}

absl::Status AdapterLoader::Copy(AdapterId id, std::shared_ptr<const PackedAdapter> packed, std::byte* destination) {
  return state_->PutPack({.id = id,
                          .image = nullptr,
                          .layout = {},
                          .keep = nullptr,
                          .packed = std::move(packed),
                          .destination = destination});
}

absl::Status AdapterLoader::State::PutPack(PackJob job) {
  {
    const std::lock_guard<std::mutex> lock(mutex);
    pack_jobs.push_back(std::move(job));
  }
  packer_wakes.notify_one();
  return absl::OkStatus();
}

bool AdapterLoader::Cancel(AdapterId id) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  const auto found = std::find_if(state_->stage_jobs.begin(), state_->stage_jobs.end(),
                                  [id](const StageJob& job) { return job.id == id; });
  if (found == state_->stage_jobs.end()) return false;
  state_->stage_jobs.erase(found);
  return true;
}

void AdapterLoader::State::StartReader(const std::shared_ptr<State>& state) {
  const size_t reader = state->readers.size();
  state->busy_since.emplace_back();
  state->readers.emplace_back([state, reader] { RunReader(state, reader); });
  ++state->running;
}

void AdapterLoader::State::RunReader(const std::shared_ptr<State>& state, size_t reader) {
  State& s = *state;
  std::unique_lock<std::mutex> lock(s.mutex);
  while (true) {
    s.readers_wake.wait(lock, [&s] { return s.stopping || !s.stage_jobs.empty(); });
    if (s.stopping) break;
    const StageJob job = std::move(s.stage_jobs.front());
    s.stage_jobs.pop_front();
    s.busy_since[reader] = std::chrono::steady_clock::now();
    lock.unlock();
    LoaderEvent event = s.Read(job);
    lock.lock();
    if (s.stopping) break;
    ++s.telling;
    lock.unlock();
    s.on_event(std::move(event));
    lock.lock();
    --s.telling;
    s.reader_ended.notify_all();
    s.busy_since[reader].reset();
  }
  --s.running;
  s.reader_ended.notify_all();
}

LoaderEvent AdapterLoader::State::Read(const StageJob& job) const {
  const AdapterReadOptions read_options{
      .pool_dtype = options.pool_dtype, .base_tables = options.base_tables, .max_pool_bytes = options.max_pool_bytes};
  absl::StatusOr<std::shared_ptr<const AdapterImage>> image =
      Guarded([&] { return ReadAndCompare(job.path, job.expected_digest, base, *files, read_options); });
  if (!image.ok()) return AdapterLoadFailed{.id = job.id, .status = image.status()};
  AdapterStaged staged{.id = job.id, .image = *std::move(image), .layout = {}};
  if (options.read_tokenizer != nullptr) {
    auto tokenizer = options.read_tokenizer(*files, job.path);
    if (!tokenizer.ok()) return AdapterLoadFailed{.id = job.id, .status = tokenizer.status()};
    staged.tokenizer = *std::move(tokenizer);
  }
  staged.layout = PlanLayout(*staged.image, options.pool_dtype);
  return staged;
}

void AdapterLoader::State::RunPacker(const std::shared_ptr<State>& state) {
  State& s = *state;
  AdapterPacker packer(s.options.pool_memory);
  std::unique_lock<std::mutex> lock(s.mutex);
  while (!s.stopping) {
    if (!s.pack_jobs.empty()) {
      PackJob job = std::move(s.pack_jobs.front());
      s.pack_jobs.pop_front();
      lock.unlock();
      const absl::Status packed = job.packed != nullptr
                                      ? packer.Copy(*job.packed, job.destination)
                                      : packer.Pack(*job.image, job.layout, job.destination, job.keep.get());
      const AdapterId id = job.id;
      job = PackJob();  // before the event: whoever gets it may count on the job's hold on host copies being gone
      if (packed.ok()) {
        s.on_event(AdapterPacked{.id = id});
      } else {
        s.on_event(AdapterLoadFailed{.id = id, .status = packed});
      }
      lock.lock();
      continue;
    }
    if (s.stage_jobs.empty()) {
      s.packer_wakes.wait(lock);
      continue;
    }
    s.packer_wakes.wait_for(lock, kWatchEvery);
    const bool may_start = !s.stopping && static_cast<int>(s.readers.size()) < s.options.max_readers;
    if (may_start && !s.stage_jobs.empty() && s.EveryReaderIsStuck(std::chrono::steady_clock::now())) {
      StartReader(state);
    }
  }
}

bool AdapterLoader::State::EveryReaderIsStuck(Time now) const {
  const auto is_stuck = [&](const std::optional<Time>& since) {
    return since.has_value() && now - *since >= std::chrono::milliseconds(options.replace_after_ms);
  };
  return std::all_of(busy_since.begin(), busy_since.end(), is_stuck);
}

}  // namespace lorad
