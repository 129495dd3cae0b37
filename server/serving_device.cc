#include "server/serving_device.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/base/round_up.h"
#include "model/base/status_macros.h"
#include "model/ops/cuda_driver.h"
#include "model/ops/open_cuda.h"
#include "server/memory_defaults.h"

namespace lorad {
namespace {

constexpr int64_t kMaxPageBytes = 64 << 10;
constexpr int64_t kPageStepBytes = 4 << 10;

// A page is 64 KiB, or one KV block where that is smaller, so that tiny models waste nothing.
int64_t PageBytes(const KvLayout& layout) {
  return std::min(kMaxPageBytes, RoundUp(layout.block_bytes(), kPageStepBytes));
}

std::string ProgramDir() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "." : program.parent_path().string();
}

absl::StatusOr<ServingDevice> OpenCuda(bool fast_forms, Log* log) {
  // Before the driver, whose advice is of no use to a build that has no such library.
  ASSIGN_OR_RETURN(const std::string library, FindCudaLibrary(ProgramDir()));
  ASSIGN_OR_RETURN(const DeviceMemory memory, OpenCudaOps(library));
  RETURN_IF_ERROR(memory.available_bytes().status());  // it starts
  std::vector<std::string> used;
  if (fast_forms) {
    for (const std::string& line : CheckFastForms(&used)) log->Warning("device", {{"why", line}});
  } else {
    LeaveOutFastForms();
  }
  log->Info("device", {{"device", "cuda"},
                       {"name", CudaDeviceName()},
                       {"library", library},
                       {"fast_forms", used.empty() ? "none" : absl::StrJoin(used, "; ")}});
  return ServingDevice{.name = "cuda", .memory = memory};
}

}  // namespace

absl::StatusOr<ServingDevice> ChooseDevice(const ServerConfig& config, Log* log) {
  std::string why_cpu = "--device=cpu";
  if (config.device != DeviceChoice::kCpu) {
    absl::StatusOr<ServingDevice> cuda = OpenCuda(config.fast_forms, log);
    if (cuda.ok()) return cuda;
    if (config.device == DeviceChoice::kCuda) {
      return absl::Status(cuda.status().code(),
                          absl::StrCat("--device: cuda; ", cuda.status().message(), "; or serve with --device=cpu"));
    }
    why_cpu = std::string(cuda.status().message());
    if (MayHaveMeantADevice(ReadDriverFacts(), FindCudaLibrary(ProgramDir()).ok())) {
      log->Warning("device", {{"device", "cpu"},
                              {"why", why_cpu},
                              {"hint",
                               "it is slow here if a GPU was meant: --device=cuda refuses to start without one, "
                               "--device=cpu says that the CPU is meant"}});
      return ServingDevice();
    }
  }
  log->Info("device", {{"device", "cpu"}, {"why", why_cpu}});
  return ServingDevice();
}

absl::StatusOr<ServingMemory> CreateMemory(const ServerConfig& config, const ServingDevice& device,
                                           const KvLayout& layout, Log* log) {
  const int64_t page_bytes = PageBytes(layout);
  ServingMemory made;
  if (!device.is_cuda()) {
    const int64_t available_bytes = AvailableMemoryBytes();
    const int64_t bytes = config.memory_bytes.value_or(DefaultMemoryBytes(available_bytes));
    if (available_bytes > 0 && bytes > available_bytes) {  // it is taken page by page, and not refused
      log->Warning("memory", {{"bytes", bytes},
                              {"available", available_bytes},
                              {"hint", "the system may end the daemon before the pool is full; lower --memory-bytes"}});
    }
    ASSIGN_OR_RETURN(made.pages, PagePool::Create(bytes, page_bytes));
    return made;
  }
  ASSIGN_OR_RETURN(const int64_t available_bytes, device.memory.available_bytes());
  const int64_t bytes = config.memory_bytes.value_or(DefaultDeviceMemoryBytes(available_bytes));
  if (config.cuda_graphs) made.graph_bytes = DeviceGraphBytes(bytes);
  const int64_t pages = (bytes - made.graph_bytes) / page_bytes;
  ASSIGN_OR_RETURN(std::unique_ptr<PoolMemory> memory, device.memory.create(pages * page_bytes));
  if (memory->chunk_bytes() == 0 && !config.state_dir.empty()) {
    log->Warning("device",
                 {{"why", "its memory cannot be mapped in chunks: training takes what is free beside the pool"},
                  {"hint", "lower --memory-bytes to leave it some"}});
  }
  ASSIGN_OR_RETURN(made.pages, PagePool::Create(std::move(memory), page_bytes));
  return made;
}

}  // namespace lorad
