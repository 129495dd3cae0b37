#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <variant>

#include "absl/status/status.h"
#include "adapters/base_tables.h"
#include "adapters/image.h"
#include "model/base/file_source.h"
#include "model/sites.h"

namespace lorad {

class PoolMemory;
struct PackedAdapter;
class Tokenizer;

// One loaded version of an adapter; never used again, so that nothing of an old version can be mistaken for a new one.
using AdapterId = uint64_t;

// The folder was read, checked and digested; `image` waits to be packed into pages.
struct AdapterStaged {
  AdapterId id;
  std::shared_ptr<const AdapterImage> image;
  PackedLayout layout;
  std::shared_ptr<const Tokenizer> tokenizer = nullptr;  // of its folder; null: it has none but the base's
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
// Packing has a thread of its own (it alone waits for copies to a device, whose adapter is packed when they are done),
// so that a folder that cannot be read (a dead network mount) delays no adapter that has been read; and when every
// reader has been busy with one folder for `replace_after_ms` while others wait, another reader is started, up to
// max_readers.
//
// Threads  Stage, Pack, Copy and Cancel from any thread; `on_event` is called on a loader thread and must not block.
// Errors   Stage: ResourceExhausted when the queue is full. Everything else arrives as AdapterLoadFailed.
class AdapterLoader final {
 public:
  struct Options {
    int threads = 2;  // readers
    int64_t queue_limit = 4096;
    DType pool_dtype = DType::kF32;
    BaseTables base_tables = nullptr;
    // The tokenizer of an adapter's folder, or null; none: nobody asks. Called on reader threads.
    std::function<absl::StatusOr<std::shared_ptr<const Tokenizer>>(FileSource& files, const std::string& dir)>
        read_tokenizer = nullptr;
    PoolMemory* pool_memory = nullptr;  // what adapters are packed into; none: the host's
    int64_t max_pool_bytes = 0;         // a larger adapter is refused before its tensors are read; 0: no limit
    int max_readers = 16;
    int64_t replace_after_ms = 10'000;
    int64_t end_patience_ms = 2000;
  };
  AdapterLoader(const Options& options, BaseShape base, std::shared_ptr<FileSource> files,
                std::function<void(LoaderEvent)> on_event);
  // `files` is the caller's and may go when the loader does: the loader then waits for every read, however long.
  AdapterLoader(const Options& options, BaseShape base, FileSource* files, std::function<void(LoaderEvent)> on_event);
  // Drops the queued jobs and the answers of running reads, and waits for these up to end_patience_ms; a read that is
  // not done by then (a dead network mount) is left behind with its thread. `on_event` is not called any more.
  ~AdapterLoader();

  // `expected_digest`: not empty when an evicted adapter is read again; a folder that changed meanwhile is DataLoss.
  absl::Status Stage(AdapterId id, std::string path, std::string expected_digest);
  // `destination` stays valid until the answer. Packs are never dropped for a full queue: their pages are held already.
  // What is packed is written into `keep` as well, if there is one.
  absl::Status Pack(AdapterId id, std::shared_ptr<const AdapterImage> image, PackedLayout layout,
                    std::byte* destination, std::shared_ptr<PackedAdapter> keep = nullptr);
  // Packs what a Pack kept: AdapterPacked is all that comes of it.
  absl::Status Copy(AdapterId id, std::shared_ptr<const PackedAdapter> packed, std::byte* destination);
  // Takes a Stage job that no reader has begun out of the queue: it gets no answer then. False: it is answered.
  bool Cancel(AdapterId id);

 private:
  // What the threads use; theirs too, so that a reader that is left behind finds it.
  struct State;

  void Start();

  const std::shared_ptr<State> state_;
  std::thread packer_;
};

}  // namespace lorad
