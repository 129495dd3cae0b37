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

}  // namespace

absl::Status LoadAdaptersOfFlags(const ServerConfig& config, Engine* engine, Log* log) {
  const auto failed = [](const std::string& name, const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat("--adapter=", name, ": ", status.message()));
  };
  std::vector<std::string> paths;
  for (const AdapterFlag& flag : config.adapters) {
    RETURN_IF_ERROR(CheckAdapterName(flag.name));
    absl::StatusOr<std::string> path = ResolveAdapterPath(flag.path, config.adapter_root);
    if (!path.ok()) return failed(flag.name, path.status());
    paths.push_back(*std::move(path));
  }

  // Replies use these, so from here on nothing returns before every one has come.
  std::mutex mutex;
  std::condition_variable wake;
  size_t open = 0;
  absl::Status first;
  for (size_t i = 0; i < paths.size(); ++i) {
    {
      std::unique_lock<std::mutex> lock(mutex);
      wake.wait(lock, [&] { return open < kMaxOpenLoads; });
      if (!first.ok()) break;
      ++open;
    }
    const std::string& name = config.adapters[i].name;
    LoadCommand command;
    command.name = name;
    command.path = std::move(paths[i]);
    command.reply = [&, name](const absl::StatusOr<AdapterInfo>& info) {
      if (info.ok()) log->Info("adapter_loaded", {{"adapter", name}, {"rank", info->rank_max}, {"bytes", info->bytes}});
      const std::lock_guard<std::mutex> lock(mutex);
      if (!info.ok()) first.Update(failed(name, info.status()));
      --open;
      wake.notify_all();
    };
    if (const absl::Status status = engine->Load(std::move(command)); !status.ok()) {
      const std::lock_guard<std::mutex> lock(mutex);
      first.Update(failed(name, status));
      --open;
    }
  }
  std::unique_lock<std::mutex> lock(mutex);
  wake.wait(lock, [&] { return open == 0; });
  return first;
}

}  // namespace lorad
