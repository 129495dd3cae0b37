#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <unordered_map>
#include <vector>

#include "adapters/image.h"
#include "adapters/loader.h"
#include "model/memory/pool_memory.h"

namespace lorad {

// An adapter's weights in ordinary host memory as they lie in the pool. Its loader writes the bytes; const afterwards.
struct PackedAdapter {
  PackedLayout layout;
  std::unique_ptr<PoolMemory> memory;  // layout.total_bytes; zero where nothing was written
};

// Keeps adapters packed in the host's memory, so that one that was evicted from the pool comes back by a copy alone:
// nothing is read, digested, checked or converted again. The one that was packed, copied or evicted longest ago goes
// first.
//
// By AdapterId, which is one loaded version: an old version can never be taken for a new one. An entry is made when its
// adapter is read and about to be packed, is written by the packer, and is found once it is filled. Who writes or
// copies holds it: if it is dropped meanwhile, its memory is given back when that is done.
//
// Units    bytes of whole pages of the system.
// Threads  one, the engine's; the bytes of an entry that is not filled are the packer's until its event.
class WarmAdapters final {
 public:
  explicit WarmAdapters(int64_t limit_bytes) : limit_bytes_(limit_bytes) {}  // 0: it keeps nothing

  // An entry to be written, with room made for it; nullptr: it is larger than the limit, or the system has no memory.
  std::shared_ptr<PackedAdapter> Make(AdapterId id, const PackedLayout& layout);
  // It is written. False: it was dropped meanwhile.
  bool SetFilled(AdapterId id);
  // nullptr: there is none, or it is being written.
  std::shared_ptr<const PackedAdapter> Find(AdapterId id) const;
  // As if it had just been used, where it is there.
  void Touch(AdapterId id);
  void Drop(AdapterId id);  // where it is there
  // That went since the last call to make room for others.
  std::vector<AdapterId> TakeDropped();

  int64_t limit_bytes() const { return limit_bytes_; }
  int64_t bytes() const { return bytes_; }
  int64_t count() const { return static_cast<int64_t>(entries_.size()); }  // those being written as well
  bool Has(AdapterId id) const { return entries_.contains(id); }           // the same

 private:
  struct Entry {
    std::shared_ptr<PackedAdapter> packed;
    int64_t bytes = 0;
    bool filled = false;
    std::list<AdapterId>::iterator use;
  };
  int64_t limit_bytes_;
  int64_t bytes_ = 0;
  std::unordered_map<AdapterId, Entry> entries_;
  std::list<AdapterId> uses_;  // oldest first
  std::vector<AdapterId> dropped_;
};

}  // namespace lorad
