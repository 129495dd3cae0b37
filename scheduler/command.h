#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/loader.h"
#include "scheduler/adapter_info.h"
#include "scheduler/request.h"

namespace lorad {

// What other threads want of the engine; it is the only thread that acts on it. Replies are called once, on the
// completions thread (scheduler/completions.h), never on the engine's.
using AdapterReply = std::function<void(absl::StatusOr<AdapterInfo>)>;
using StatusReply = std::function<void(absl::Status)>;

struct SubmitCommand {
  Request request;
  // Where an unknown adapter of the request would lie in adapter_dir; "" or no entry = nowhere.
  std::vector<std::string> adapter_folders = {};
};
// A request that awaited its tokenizer, with it and with the ids of its prompt.
struct PromptCommand {
  Request request;
};
// The caller went away, or the front end met a stop string (`as_stop`: the sequence ends as kStop, and counts as such).
struct CancelCommand {
  RequestId request = 0;
  int32_t index = -1;  // -1: every sequence of the request
  std::string reason = {};
  bool as_stop = false;
};
struct LoadCommand {
  std::string name;
  std::string path;
  bool pinned = false;
  bool replace = false;
  AdapterReply reply;  // when it can be named in Generate, or why not
};
struct UnloadCommand {
  std::string name;
  StatusReply reply;  // when its memory is given back
};
struct PinCommand {
  std::string name;
  bool pinned = false;
  AdapterReply reply;
};
struct LoaderCommand {
  LoaderEvent event;
};
// Stop admitting; running and waiting requests end normally until `deadline_us`, then with kAbort.
struct DrainCommand {
  int64_t deadline_us = 0;
};

// Training holds so many bytes in all from now on, outside the arena.
struct TuningMemoryCommand {
  int64_t bytes = 0;
  int64_t kept_bytes = 0;  // of them: never given back on demand
  StatusReply reply;       // ResourceExhausted: not now; InvalidArgument: never
  // Called on the completions thread when requests cannot go on without what training holds; it is then to hold nothing
  // as soon as it can.
  std::function<void()> give_back;
};

using Command = std::variant<SubmitCommand, PromptCommand, CancelCommand, LoadCommand, UnloadCommand, PinCommand,
                             LoaderCommand, DrainCommand, TuningMemoryCommand>;

}  // namespace lorad
