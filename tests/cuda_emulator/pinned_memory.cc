#include "tests/cuda_emulator/pinned_memory.h"

#include <sanitizer/asan_interface.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "tests/cuda_emulator/stream_races.h"

namespace lorad::emulator {
namespace {

constexpr size_t kPageBytes = 4096;
constexpr size_t kMappedBytes = size_t{1} << 30;
constexpr int kOpen = PROT_READ | PROT_WRITE;

struct Use {
  Time time;
  uintptr_t begin = 0, end = 0;  // of pages
  bool writes = false;
};
struct Block {
  size_t bytes = 0;  // of pages
  bool is_free = false;
  std::vector<Use> uses;
};

class Pinned final {
 public:
  static Pinned& Get() {
    static auto* const pinned = new Pinned;
    return *pinned;
  }
  bool Has(uintptr_t at) const { return at - base_ < kMappedBytes; }

  void* Allocate(size_t bytes) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    const size_t taken = std::bit_ceil(std::max(bytes + 1, kPageBytes));  // with a red zone behind it
    for (auto& [at, block] : blocks_) {
      if (block.is_free && block.bytes == taken && block.uses.empty()) {
        block.is_free = false;
        return Give(at, bytes, taken);
      }
    }
    if (end_ + taken > kMappedBytes) return nullptr;
    const uintptr_t at = base_ + end_;
    end_ += taken;
    blocks_[at].bytes = taken;
    return Give(at, bytes, taken);
  }
  void Free(void* data) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    Block& block = blocks_.at(reinterpret_cast<uintptr_t>(data));
    block.is_free = true;
    if (block.uses.empty()) ASAN_POISON_MEMORY_REGION(data, block.bytes);
  }
  void TellUses(const char* call, void* data) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    for (const Use& use : blocks_.at(reinterpret_cast<uintptr_t>(data)).uses) {
      ReportRace(std::string(call) + " of pinned memory, which " + Describe(use.time) +
                 (use.writes ? " writes" : " reads") + ", and nobody has waited for it");
    }
  }

  void Add(const Work& work, uintptr_t at, size_t bytes, bool writes) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    const Use use = {work.time, at / kPageBytes * kPageBytes, (at + bytes + kPageBytes - 1) / kPageBytes * kPageBytes,
                     writes};
    const auto block = BlockAt(at);
    block->second.uses.push_back(use);
    used_.push_back(block->first);
    Close(use);
  }
  void OpenDone() {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    std::erase_if(used_, [&](uintptr_t at) {
      Block& block = blocks_.at(at);
      if (std::erase_if(block.uses, [](const Use& use) { return HostKnows(use.time); }) > 0) CloseAgain(at, block);
      return block.uses.empty();
    });
  }

  void Enter(uintptr_t at) {
    mutex_.lock();
    const auto block = BlockAt(at);
    if (!block->second.uses.empty()) Protect(block->first, block->first + block->second.bytes, kOpen);
  }
  void Leave(uintptr_t at) {
    const auto block = BlockAt(at);
    if (!block->second.uses.empty()) CloseAgain(block->first, block->second);
    mutex_.unlock();
  }

  // Whether it was closed there; who collects races goes on behind this one.
  bool TellFault(uintptr_t at) {
    if (!Has(at)) return false;
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    const auto block = BlockAt(at);
    if (block == blocks_.end()) return false;
    std::vector<Use>& uses = block->second.uses;
    std::stable_partition(uses.begin(), uses.end(), [](const Use& use) { return use.writes; });
    for (const Use& use : uses) {
      if (at < use.begin || at >= use.end) continue;
      std::array<char, 32> address{};
      std::snprintf(address.data(), address.size(), "%#zx", static_cast<size_t>(at));
      ReportRace(std::string("the host ") + (use.writes ? "touches" : "writes") + " pinned memory at " +
                 address.data() + ", which " + Describe(use.time) + (use.writes ? " writes" : " reads") +
                 ", and has not waited for it");
      uses.clear();
      Protect(block->first, block->first + block->second.bytes, kOpen);
      return true;
    }
    return false;
  }

 private:
  using Blocks = std::map<uintptr_t, Block>;

  Pinned() {
    void* const mapped = mmap(nullptr, kMappedBytes, kOpen, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) std::abort();
    base_ = reinterpret_cast<uintptr_t>(mapped);
    ASAN_POISON_MEMORY_REGION(mapped, kMappedBytes);
    WatchRange(mapped, kMappedBytes);
    struct sigaction action = {};
    action.sa_sigaction = &OnFault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &before_);
  }
  // Behind what it says, the fault is whose it was before: AddressSanitizer has the stack.
  static void OnFault(int number, siginfo_t* info, void* context) {
    Pinned& self = Get();
    if (self.TellFault(reinterpret_cast<uintptr_t>(info->si_addr))) return;
    if ((self.before_.sa_flags & SA_SIGINFO) != 0) return self.before_.sa_sigaction(number, info, context);
    sigaction(SIGSEGV, &self.before_, nullptr);
  }

  static void* Give(uintptr_t at, size_t bytes, size_t taken) {
    void* const data = reinterpret_cast<void*>(at);
    ASAN_POISON_MEMORY_REGION(data, taken);
    ASAN_UNPOISON_MEMORY_REGION(data, bytes);
    return data;
  }
  Blocks::iterator BlockAt(uintptr_t at) {
    const auto above = blocks_.upper_bound(at);
    return above == blocks_.begin() ? blocks_.end() : std::prev(above);
  }
  static void Protect(uintptr_t begin, uintptr_t end, int how) {
    if (mprotect(reinterpret_cast<void*>(begin), end - begin, how) != 0) std::abort();
  }
  static void Close(const Use& use) { Protect(use.begin, use.end, use.writes ? PROT_NONE : PROT_READ); }
  static void CloseAgain(uintptr_t at, const Block& block) {
    Protect(at, at + block.bytes, kOpen);
    for (const Use& use : block.uses) {
      if (!use.writes) Close(use);
    }
    for (const Use& use : block.uses) {
      if (use.writes) Close(use);
    }
  }

  std::recursive_mutex mutex_;
  uintptr_t base_ = 0;
  size_t end_ = 0;
  Blocks blocks_;                // also free ones
  std::vector<uintptr_t> used_;  // blocks with uses; some twice
  struct sigaction before_ = {};
};

}  // namespace

void* AllocatePinned(size_t bytes) {
  return WatchesStreams() ? Pinned::Get().Allocate(bytes) : std::malloc(bytes > 0 ? bytes : 1);
}
void FreePinnedLater(void* data) { IsPinned(data) ? Pinned::Get().Free(data) : std::free(data); }
void FreePinned(void* data) {
  if (IsPinned(data)) Pinned::Get().TellUses("cudaFreeHost", data);
  FreePinnedLater(data);
}
bool IsPinned(const void* at) { return WatchesStreams() && Pinned::Get().Has(reinterpret_cast<uintptr_t>(at)); }

void UsePinned(const Ticket& ticket, const void* at, size_t bytes, bool writes) {
  if (bytes > 0 && ticket.work != nullptr && IsPinned(at))
    Pinned::Get().Add(*ticket.work, reinterpret_cast<uintptr_t>(at), bytes, writes);
}
void OpenWhatIsDone() { Pinned::Get().OpenDone(); }

PinnedAccess::PinnedAccess(const void* at) : at_(IsPinned(at) ? at : nullptr) {
  if (at_ != nullptr) Pinned::Get().Enter(reinterpret_cast<uintptr_t>(at_));
}
PinnedAccess::~PinnedAccess() {
  if (at_ != nullptr) Pinned::Get().Leave(reinterpret_cast<uintptr_t>(at_));
}

}  // namespace lorad::emulator
