#include "scheduler/engine.h"

#include <atomic>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/names.h"
#include "model/base/check.h"
#include "model/base/status_macros.h"
#include "scheduler/admission.h"
#include "scheduler/composition.h"
#include "scheduler/engine_core.h"
#include "scheduler/find_adapter.h"
#include "scheduler/inbox.h"

namespace lorad {
namespace {

LoaderCalls CallsOf(AdapterLoader* loader) {
  return {.stage = [loader](AdapterId id, std::string path,
                            std::string digest) { return loader->Stage(id, std::move(path), std::move(digest)); },
          .pack =
              [loader](AdapterId id, std::shared_ptr<const AdapterImage> image, PackedLayout layout,
                       std::byte* destination, std::shared_ptr<PackedAdapter> keep) {
                return loader->Pack(id, std::move(image), std::move(layout), destination, std::move(keep));
              },
          .copy = [loader](AdapterId id, std::shared_ptr<const PackedAdapter> packed,
                           std::byte* destination) { return loader->Copy(id, std::move(packed), destination); },
          .cancel = [loader](AdapterId id) { loader->Cancel(id); }};
}

SchedulerParts PartsOf(const Engine::Parts& parts, Inbox* inbox) {
  return {.pages = parts.pages,
          .adapters = parts.adapters,
          .loader = CallsOf(parts.loader),
          .executor = parts.executor,
          .observer = parts.observer,
          .clock = parts.clock,
          .inbox = inbox,
          .post_reply = [completions =
                             parts.completions](std::function<void()> call) { completions->Post(std::move(call)); },
          .kv_layout = parts.kv_layout,
          .events_given = parts.events_given};
}

// Where an adapter that is not known would lie, by its words alone: the loader finds out whether it is there, since
// that may take for ever.
std::string FolderOf(const std::string& adapter, const EngineConfig& config) {
  const std::string& dir = IsRevision(adapter) ? config.revision_dir : config.adapter_dir;
  return dir.empty() ? "" : absl::StrCat(dir, "/", adapter);
}

}  // namespace

struct Engine::Impl {
  Impl(const EngineConfig& engine_config, const Parts& engine_parts)
      : config(engine_config),
        parts(engine_parts),
        inbox(config.queue_limit, config.command_limit),
        core(config, PartsOf(parts, &inbox)) {}

  // Nothing comes in from now on; what came is answered.
  void End() {
    for (Command& command : inbox.Close()) core.Apply(std::move(command));
    core.End();
  }

  const EngineConfig config;
  const Parts parts;
  Inbox inbox;
  EngineCore core;
  std::atomic<bool> stopping = false;
};

Engine::Engine(const EngineConfig& config, const Parts& parts) : impl_(std::make_unique<Impl>(config, parts)) {}

Engine::~Engine() { impl_->End(); }

absl::Status Engine::Submit(Request request) {
  LORAD_CHECK(request.sink != nullptr);
  const PagePool& pages = *impl_->parts.pages;
  const std::shared_ptr<const EngineSnapshot> now = snapshot();
  std::vector<std::string> folders;
  int64_t adapter_pages = 0;
  for (const RequestAdapter& adapter : AdaptersOf(request)) {
    RETURN_IF_ERROR(CheckRequestedName(adapter.name));
    const AdapterInfo* const live = FindLive(*now->adapters, adapter.name);
    if (live != nullptr) adapter_pages += pages.PagesFor(live->bytes);
    folders.push_back(live == nullptr ? FolderOf(adapter.name, impl_->config) : "");
  }
  RETURN_IF_ERROR(CheckEverFits(request, adapter_pages,
                                {.max_context_tokens = impl_->config.max_context_tokens,
                                 .queue_limit = impl_->config.queue_limit,
                                 .total_pages = pages.total_pages(),
                                 .pages_per_block = now->pages_per_kv_block}));
  return impl_->inbox.PutSubmit({.request = std::move(request), .adapter_folders = std::move(folders)});
}

void Engine::GivePrompt(Request request) { impl_->inbox.Put(PromptCommand{.request = std::move(request)}); }

void Engine::Cancel(RequestId request, int32_t index, std::string reason, bool as_stop) {
  impl_->inbox.Put(CancelCommand{.request = request, .index = index, .reason = std::move(reason), .as_stop = as_stop});
}

absl::Status Engine::Load(LoadCommand command) { return impl_->inbox.PutAdapter(std::move(command)); }

absl::Status Engine::Unload(UnloadCommand command) { return impl_->inbox.PutAdapter(std::move(command)); }

absl::Status Engine::Pin(PinCommand command) { return impl_->inbox.PutAdapter(std::move(command)); }

absl::Status Engine::HoldForTuning(TuningMemoryCommand command) { return impl_->inbox.PutAdapter(std::move(command)); }

void Engine::OnLoaderEvent(LoaderEvent event) { impl_->inbox.Put(LoaderCommand{std::move(event)}); }

void Engine::Drain(int64_t deadline_us) {
  impl_->inbox.RefuseSubmits();
  impl_->inbox.Put(DrainCommand{.deadline_us = deadline_us});
}

std::shared_ptr<const EngineSnapshot> Engine::snapshot() const { return impl_->core.snapshot(); }

void Engine::Run() {
  std::vector<Command> commands;
  bool acted = true;
  while (!impl_->stopping.load() && !impl_->core.drained()) {
    impl_->inbox.DrainInto(&commands, acted ? 0 : impl_->core.WaitBudgetUs());
    for (Command& command : commands) impl_->core.Apply(std::move(command));
    commands.clear();
    acted = impl_->core.Turn();
  }
  impl_->End();
}

void Engine::Stop() {
  impl_->stopping.store(true);
  impl_->inbox.Wake();
}

}  // namespace lorad
