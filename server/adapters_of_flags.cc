#include "server/adapters_of_flags.h"

#include <condition_variable>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/names.h"
#include "model/base/status_macros.h"
#include "scheduler/engine.h"

namespace lorad {
namespace {

constexpr size_t kMaxOpenLoads = 256;  // well below the engine's limit of commands

absl::Status Failed(const std::string& name, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat("--adapter=", name, ": ", status.message()));
}

}  // namespace

absl::StatusOr<std::vector<AdapterFlag>> ResolveAdapterFlags(const ServerConfig& config) {
  std::vector<AdapterFlag> resolved;
  for (const AdapterFlag& flag : config.adapters) {
    if (const absl::Status status = CheckAdapterName(flag.name); !status.ok()) return Failed(flag.name, status);
    absl::StatusOr<std::string> path = ResolveAdapterPath(flag.path, config.adapter_root);
    if (!path.ok()) return Failed(flag.name, path.status());
    resolved.push_back({flag.name, *std::move(path)});
  }
  return resolved;
}

absl::Status LoadAdaptersOfFlags(const std::vector<AdapterFlag>& adapters, Engine* engine, Log* log) {
  // Replies use these, so from here on nothing returns before every one has come.
  std::mutex mutex;
  std::condition_variable wake;
  size_t open = 0;
  absl::Status first;
  for (const AdapterFlag& adapter : adapters) {
    {
      std::unique_lock<std::mutex> lock(mutex);
      wake.wait(lock, [&] { return open < kMaxOpenLoads; });
      if (!first.ok()) break;
      ++open;
    }
    const std::string& name = adapter.name;
    LoadCommand command;
    command.name = name;
    command.path = adapter.path;
    command.reply = [&, name](const absl::StatusOr<AdapterInfo>& info) {
      if (info.ok()) log->Info("adapter_loaded", {{"adapter", name}, {"rank", info->rank_max}, {"bytes", info->bytes}});
      const std::lock_guard<std::mutex> lock(mutex);
      if (!info.ok()) first.Update(Failed(name, info.status()));
      --open;
      wake.notify_all();
    };
    if (const absl::Status status = engine->Load(std::move(command)); !status.ok()) {
      const std::lock_guard<std::mutex> lock(mutex);
      first.Update(Failed(name, status));
      --open;
    }
  }
  std::unique_lock<std::mutex> lock(mutex);
  wake.wait(lock, [&] { return open == 0; });
  return first;
}

}  // namespace lorad
