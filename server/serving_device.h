#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "model/kv/kv_layout.h"
#include "model/memory/page_pool.h"
#include "model/memory/pool_memory.h"
#include "server/config.h"
#include "server/log.h"

namespace lorad {

// What the daemon computes on.
struct ServingDevice {
  std::string name = "cpu";  // or "cuda", as clients see it
  DeviceMemory memory = {};  // of CUDA's

  bool is_cuda() const { return memory.create != nullptr; }
};

// Opens the CUDA operators if --device asks for them or allows them, and says in one line of the log what serves; to be
// called before the first call of LibTorch. Errors: with --device=cuda why there is none; auto takes the CPU then, and
// warns where the machine has a driver.
absl::StatusOr<ServingDevice> ChooseDevice(const ServerConfig& config, Log* log);

// What --memory-bytes is spent on.
struct ServingMemory {
  std::unique_ptr<PagePool> pages;  // of KV and adapters, where the model computes
  int64_t graph_bytes = 0;          // of a device, for the graphs of captured steps; 0: none are wanted
};

// Once the model's weights are there, since the default is of what they leave. Errors: ResourceExhausted;
// InvalidArgument for a pool that has no page.
absl::StatusOr<ServingMemory> CreateMemory(const ServerConfig& config, const ServingDevice& device,
                                           const KvLayout& layout, Log* log);

}  // namespace lorad
