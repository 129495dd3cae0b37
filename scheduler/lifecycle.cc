#include "scheduler/lifecycle.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "adapters/names.h"
#include "model/base/check.h"
#include "scheduler/adapter_memory.h"
#include "scheduler/apply.h"
#include "scheduler/finish.h"
#include "scheduler/replies.h"

namespace lorad {
namespace {

int64_t PinnedPages(const SchedulerState& state) {
  int64_t pages = 0;
  for (const auto& [id, version] : state.adapters.versions()) {
    if (version->pinned) pages += version->pages;
  }
  return pages;
}

// Pins leave the KV of one whole context, or half of the memory if that is less.
absl::Status CheckPin(const AdapterVersion& version, const SchedulerState& state) {
  const int64_t total = state.parts.pages->total_pages();
  const int64_t context_blocks = (state.config.max_context_tokens + kKvBlockTokens - 1) / kKvBlockTokens;
  const int64_t limit = total - std::min(total / 2, context_blocks * state.pages_per_block());
  const int64_t pinned = PinnedPages(state) - (version.pinned ? version.pages : 0);
  if (pinned + version.pages <= limit) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("pages that pins would hold: ", pinned, " + ", version.pages,
                                                   "; limit: ", limit, " of ", total,
                                                   ", the rest is for KV; unpin others or raise --memory-bytes"));
}

// The name lets go of the version; it is given back when its users are done.
void Retire(AdapterVersion* version, SchedulerState* state) {
  state->adapters.Detach(version);
  version->pinned = false;
  state->parts.adapters->SetPinned(version->id, false);
  MoveTo(version, AdapterState::kDraining);
}

// A name that somebody made up: no adapter of adapter_dir, nor a load that failed.
bool IsUnknown(const absl::Status& status, const AdapterVersion& version) {
  return absl::IsNotFound(status) && version.from_folder && !version.known;
}

absl::Status UnknownName(const absl::Status& status, const AdapterVersion& version) {
  return absl::NotFoundError(absl::StrCat(
      "adapter: ", version.name, "; not loaded, and not found in --adapter-dir: ", std::string(status.message())));
}

absl::Status TooManyNames(const SchedulerState& state) {
  return absl::ResourceExhaustedError(absl::StrCat("adapters known: ", state.adapters.names(),
                                                   "; limit: ", state.config.max_adapters, "; unload some"));
}

void FailUsers(const absl::Status& status, AdapterVersion* version, SchedulerState* state) {
  std::vector<Sequence*> users;
  for (Sequence* sequence : state->waiting) {
    if (sequence->RunsOn(version)) users.push_back(sequence);
  }
  for (Sequence* sequence : users) GiveUp(status, sequence, state);
}

void OnStaged(AdapterStaged event, AdapterVersion* version, SchedulerState* state) {
  const AdapterImage& image = *event.image;
  const bool first = !version->known;
  version->digest = image.digest;
  version->kind = image.kind;
  version->targets = image.targets;
  version->warnings = image.warnings;
  version->rank_min = image.rank_min;
  version->rank_max = image.rank_max;
  version->num_labels = image.num_labels;
  version->vocab_size = image.vocab_size;
  version->tokenizer = std::move(event.tokenizer);
  version->invocation_tokens = image.invocation_tokens;
  version->replaced = ReplacedTensors(image);
  if (first) version->expert_load = ExpertLoadFor(image, state->parts.pages->memory());
  version->bytes = event.layout.total_bytes;
  version->pages = state->parts.pages->PagesFor(version->bytes);
  version->image = std::move(event.image);
  version->layout = std::move(event.layout);
  version->phase = WantedPhase::kStaged;
  version->error.clear();
  state->adapters.Touch(version);
  if (!first) return;
  const int64_t total = state->parts.pages->total_pages();
  if (version->pages > total) {
    FailVersion(absl::InvalidArgumentError(absl::StrCat("adapter: ", version->name, "; pages: ", version->pages,
                                                        "; limit: ", total, "; raise --memory-bytes")),
                version, state);
    return;
  }
  if (version->pinned) {
    version->pinned = false;
    if (const absl::Status status = CheckPin(*version, *state); !status.ok()) {
      FailVersion(status, version, state);
      return;
    }
    version->pinned = true;
  }
  version->known = true;
  LORAD_CHECK(!version->digest.empty());  // ours: every reader digests what it reads
  if (state->config.prefix_cache) {
    const std::string content = "adapter " + version->digest;
    PrefixCache* const cache = state->prefix_cache.get();
    version->prefixes = version->invocation_tokens.empty()
                            ? cache->TreesOf(content, state->config.rope_switch.last_variant)
                            : cache->BranchesOf(state->base_prefixes, content);
  }
  if (version->state == AdapterState::kLoading) MoveTo(version, AdapterState::kHost);
  RefuseThoseThatNeverFit(version, state);
}

void OnPacked(AdapterVersion* version, SchedulerState* state) {
  LORAD_CHECK(version->phase == WantedPhase::kPacking);
  AdapterPool* const pool = state->parts.adapters;
  const bool was_read = version->image != nullptr;
  if (was_read) version->warm = state->warm.SetFilled(version->id);
  version->DropImage();
  version->error.clear();
  pool->Commit(std::move(version->reservation), version->expert_load);
  version->reservation = AdapterReservation();
  version->phase = WantedPhase::kResident;
  pool->SetPinned(version->id, version->pinned);
  if (version->state == AdapterState::kHost) MoveTo(version, AdapterState::kResident);
  state->adapters.Touch(version);
  state->parts.observer->OnAdapterLoaded(version->name, was_read ? LoadedFrom::kDisk : LoadedFrom::kHost,
                                         state->parts.clock->NowUs() - version->started_us);
  SwitchIfReplacing(version, state);
  AnswerLoads(InfoOf(*version), version, state);
  AnswerPins(InfoOf(*version), version, state);
}

}  // namespace

void SwitchIfReplacing(AdapterVersion* version, SchedulerState* state) {
  if (!version->replaces) return;
  AdapterVersion* const before = state->adapters.Switch(version->name);
  const absl::Status replaced = absl::AbortedError(absl::StrCat("adapter: ", before->name, "; replaced meanwhile"));
  AnswerLoads(replaced, before, state);
  AnswerPins(replaced, before, state);
  before->pinned = false;
  state->parts.adapters->SetPinned(before->id, false);
  MoveTo(before, AdapterState::kDraining);
  state->adapters.Touch(before);
}

absl::StatusOr<AdapterVersion*> VersionFor(const std::string& name, const std::string& folder, SchedulerState* state) {
  if (AdapterVersion* const current = state->adapters.Current(name); current != nullptr) return current;
  if (folder.empty()) return absl::NotFoundError(absl::StrCat("adapter: ", name, "; not loaded; load it first"));
  if (state->adapters.names() >= state->config.max_adapters) return TooManyNames(*state);
  state->adapters.ForgetFailure(name);
  AdapterVersion* const version = state->adapters.Add(name, folder);
  version->from_folder = true;
  MoveTo(version, AdapterState::kLoading);
  return version;  // unread: the residency reads so many at a time
}

void ApplyLoad(LoadCommand command, SchedulerState* state) {
  AdapterTable& table = state->adapters;
  const auto refuse = [&](absl::Status status) { AnswerAdapter(std::move(command.reply), std::move(status), state); };
  if (absl::Status status = CheckAdapterName(command.name); !status.ok()) return refuse(std::move(status));
  const AdapterVersion* const current = table.Current(command.name);
  if (current != nullptr && !command.replace) {
    return refuse(absl::AlreadyExistsError(absl::StrCat("adapter: ", command.name, "; loaded from: ", current->path,
                                                        "; use replace, or unload it first")));
  }
  if (current != nullptr && (current->state == AdapterState::kLoading || table.Replacing(command.name) != nullptr)) {
    return refuse(absl::FailedPreconditionError(
        absl::StrCat("adapter: ", command.name, "; another load of it is under way; wait for it, or unload the name")));
  }
  if (current == nullptr && table.names() >= state->config.max_adapters) return refuse(TooManyNames(*state));
  table.ForgetFailure(command.name);
  AdapterVersion* const version = table.Add(command.name, command.path);
  version->pinned = command.pinned;
  MoveTo(version, AdapterState::kLoading);
  if (absl::Status status = StartReading(version, state); !status.ok()) {
    table.Detach(version);
    table.Erase(version);
    return refuse(std::move(status));
  }
  version->load_replies.push_back(std::move(command.reply));
}

void ApplyUnload(UnloadCommand command, SchedulerState* state) {
  AdapterTable& table = state->adapters;
  AdapterVersion* const version = table.Current(command.name);
  if (version == nullptr) {
    const bool failed = table.ForgetFailure(command.name);
    AnswerStatus(
        std::move(command.reply),
        failed ? absl::OkStatus() : absl::NotFoundError(absl::StrCat("adapter: ", command.name, "; not loaded")),
        state);
    return;
  }
  const absl::Status unloaded = absl::CancelledError(absl::StrCat("adapter: ", command.name, "; unloaded meanwhile"));
  if (AdapterVersion* const replacing = table.Replacing(command.name); replacing != nullptr) {
    AnswerLoads(unloaded, replacing, state);
    Retire(replacing, state);
  }
  const bool known = version->known;
  AnswerLoads(unloaded, version, state);
  AnswerPins(unloaded, version, state);
  Retire(version, state);
  version->unload_replies.push_back(std::move(command.reply));
  // Nobody has run on it yet and nobody knows whether anybody could.
  if (!known) {
    FailUsers(absl::NotFoundError(absl::StrCat("adapter: ", command.name, "; unloaded before its load ended")), version,
              state);
  }
}

void ApplyPin(PinCommand command, SchedulerState* state) {
  AdapterVersion* const version = state->adapters.Current(command.name);
  const auto refuse = [&](absl::Status status) { AnswerAdapter(std::move(command.reply), std::move(status), state); };
  if (version == nullptr) return refuse(absl::NotFoundError(absl::StrCat("adapter: ", command.name, "; not loaded")));
  if (version->state == AdapterState::kLoading) {
    return refuse(
        absl::FailedPreconditionError(absl::StrCat("adapter: ", command.name, "; its load is under way; wait for it")));
  }
  if (command.pinned) {
    if (absl::Status status = CheckPin(*version, *state); !status.ok()) return refuse(std::move(status));
  }
  version->pinned = command.pinned;
  state->parts.adapters->SetPinned(version->id, command.pinned);
  state->adapters.Touch(version);
  if (!command.pinned) AnswerPins(InfoOf(*version), version, state);
  if (command.pinned && version->phase != WantedPhase::kResident) {
    version->pin_replies.push_back(std::move(command.reply));
  } else {
    AnswerAdapter(std::move(command.reply), InfoOf(*version), state);
  }
}

void ApplyLoaderEvent(LoaderEvent event, SchedulerState* state) {
  const AdapterId id = std::visit([](const auto& e) { return e.id; }, event);
  AdapterVersion* const version = state->adapters.Find(id);
  if (version == nullptr) return;  // unloaded while it was read
  if (auto* staged = std::get_if<AdapterStaged>(&event)) {
    if (version->phase == WantedPhase::kReading) OnStaged(std::move(*staged), version, state);
  } else if (std::holds_alternative<AdapterPacked>(event)) {
    OnPacked(version, state);
  } else {
    const absl::Status& status = std::get<AdapterLoadFailed>(event).status;
    FailVersion(IsUnknown(status, *version) ? UnknownName(status, *version) : status, version, state);
  }
}

void FailVersion(const absl::Status& status, AdapterVersion* version, SchedulerState* state) {
  if (!IsUnknown(status, *version)) state->parts.observer->OnAdapterLoadFailed(version->name);
  version->reservation = AdapterReservation();
  version->DropImage();
  if (!version->warm) state->warm.Drop(version->id);  // it was not written to the end
  version->phase = WantedPhase::kOnDisk;
  AnswerLoads(status, version, state);
  AnswerPins(status, version, state);
  FailUsers(status, version, state);
  version->pinned = false;
  state->adapters.Touch(version);
  if (version->state == AdapterState::kDraining) return;
  // It was good once: the name stays, and the next request tries again.
  if (version->known && !version->from_folder) {
    version->error = std::string(status.message());
    return;
  }
  const bool remember = !version->replaces && !version->from_folder;
  state->adapters.Detach(version);
  MoveTo(version, AdapterState::kDraining);
  if (remember) state->adapters.RememberFailure(*version, status);
}

void AnswerOpenCommands(const absl::Status& status, SchedulerState* state) {
  for (const auto& [id, version] : state->adapters.versions()) {
    AnswerLoads(status, version.get(), state);
    AnswerPins(status, version.get(), state);
    AnswerUnloads(status, version.get(), state);
  }
}

}  // namespace lorad
