#include "tests/cuda_emulator/torch_order.h"

#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "tests/cuda_emulator/capture.h"

namespace lorad::emulator {
namespace {

constexpr size_t kSmallBytes = size_t{1} << 20;  // LibTorch has two pools, by that

// Calls fn(at, bytes) for each piece in a row.
template <typename Fn>
void ForPieces(const at::Tensor& tensor, const Fn& fn) {
  if (!tensor.defined() || tensor.numel() == 0) return;
  const auto element = static_cast<int64_t>(tensor.element_size());
  std::vector<int64_t> dims(static_cast<size_t>(tensor.dim()));
  std::iota(dims.begin(), dims.end(), 0);
  std::erase_if(dims, [&](int64_t dim) { return tensor.size(dim) == 1 || tensor.stride(dim) == 0; });
  std::sort(dims.begin(), dims.end(), [&](int64_t a, int64_t b) { return tensor.stride(a) < tensor.stride(b); });
  int64_t row = 1;
  size_t inner = 0;
  while (inner < dims.size() && tensor.stride(dims[inner]) == row) row *= tensor.size(dims[inner++]);
  const auto* const data = static_cast<const std::byte*>(tensor.const_data_ptr());
  const auto visit = [&](const auto& self, size_t outer, const std::byte* at) -> void {
    if (outer == inner) return fn(at, static_cast<size_t>(row * element));
    const int64_t dim = dims[outer - 1];
    for (int64_t i = 0; i < tensor.size(dim); ++i) self(self, outer - 1, at + i * tensor.stride(dim) * element);
  };
  visit(visit, dims.size(), data);
}

struct Block {
  const Stream* stream;
  size_t bytes;
  const CapturedLaunches* graph;  // whose memory it is, or null
};
// Freed while others than its stream had touched it and nothing says that they are done.
struct Unfinished {
  Clock touched;
  bool small;
};

class Blocks final {
 public:
  static Blocks& Get() {
    static auto* const blocks = new Blocks;
    return *blocks;
  }
  void Add(void* data, Block block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    blocks_[data] = block;
  }
  Block Remove(void* data) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = blocks_.extract(data);
    return found.empty() ? Block{nullptr, 0, nullptr} : found.mapped();
  }

  void Allocated(const Work& work, const Stream* stream, size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::erase_if(unfinished_[stream], [&](const Unfinished& freed) {
      const Time open = OpenTime(freed.touched, work.before);
      if (open.count > 0 && freed.small != (bytes <= kSmallBytes)) return false;
      if (open.count > 0) {
        ReportRace("memory that " + Describe(open) + " touches was freed, and is there for who allocates on " +
                   StreamName(work.time.component) + " now, which has not waited for that");
      }
      return true;
    });
  }
  void Freed(const Work& work, const Block& block, void* data) {
    Clock touched = WhoTouched(data, block.bytes);
    TouchAnew(work, data, block.bytes);
    if (OpenTime(touched, work.before).count == 0) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    unfinished_[block.stream].push_back({std::move(touched), block.bytes <= kSmallBytes});
  }

 private:
  // One that is not known, or none.
  static Time OpenTime(const Clock& touched, const Clock& known) {
    for (uint32_t i = 0; i < touched.size(); ++i) {
      const Time time = {i, touched[i]};
      if (!Knows(known, time)) return time;
    }
    return {};
  }

  std::mutex mutex_;
  std::map<void*, Block> blocks_;
  std::map<const Stream*, std::vector<Unfinished>> unfinished_;
};

Stream* AsideStream() {
  static auto* const aside = new Stream;
  return aside;
}

}  // namespace

Stream* StreamOf(const c10::Stream& stream) { return stream.id() == kAside ? AsideStream() : nullptr; }
Stream* CurrentStream() {
  return current_stream == kAside ? AsideStream() : c10::cuda::getCurrentCUDAStream().stream();
}

void Reads(const RunningWork& work, const at::Tensor& tensor) {
  ForPieces(tensor, [&](const void* at, size_t bytes) { work.Reads(at, bytes); });
}
void Writes(const RunningWork& work, const at::Tensor& tensor) {
  ForPieces(tensor, [&](const void* at, size_t bytes) { work.Writes(at, bytes); });
}

void NoteTorchAllocated(const Stream* stream, void* data, size_t bytes) {
  if (!WatchesStreams()) return;
  const Ticket ticket = NoteQueued(stream, {"an allocation"});
  CapturedLaunches* const captured = Capturing();
  Blocks::Get().Add(data, {stream, bytes, captured});
  if (captured != nullptr) {
    captured->AddNote([=] {
      const std::shared_ptr<const Work> work = WorkOf(ticket);
      Blocks::Get().Allocated(*work, stream, bytes);
      Touch(*work, data, bytes, /*writes=*/true);
    });
  } else {
    Blocks::Get().Allocated(*ticket.work, stream, bytes);
    TouchAnew(*ticket.work, data, bytes);
  }
}

void NoteTorchFreed(void* data) {
  if (!WatchesStreams()) return;
  const Block block = Blocks::Get().Remove(data);
  CapturedLaunches* const captured = Capturing();
  // A graph's memory is its own when the capture is over.
  if (block.bytes == 0 || block.graph != captured) return;
  const Ticket ticket = NoteQueued(block.stream, {"the end of a tensor"});
  const auto freed = [=] { Blocks::Get().Freed(*WorkOf(ticket), block, data); };
  captured == nullptr ? freed() : captured->AddNote(freed);
}

}  // namespace lorad::emulator
