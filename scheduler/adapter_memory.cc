#include "scheduler/adapter_memory.h"

#include <unordered_set>
#include <utility>
#include <vector>

#include "adapters/residency.h"
#include "model/base/check.h"
#include "model/kv/kv_layout.h"
#include "scheduler/lifecycle.h"
#include "scheduler/replies.h"

namespace lorad {
namespace {

constexpr int64_t kStalledReadUs = 1'000'000;

void MarkEvicted(AdapterId id, SchedulerState* state) {
  AdapterVersion* const version = state->adapters.Find(id);
  LORAD_CHECK(version != nullptr);
  version->phase = WantedPhase::kOnDisk;
  if (version->state == AdapterState::kResident) MoveTo(version, AdapterState::kHost);
  state->adapters.Touch(version);
  state->parts.observer->OnAdapterEvicted(version->name);
}

bool StartPacking(AdapterVersion* version, SchedulerState* state) {
  absl::StatusOr<AdapterReservation> reservation = state->parts.adapters->Reserve(version->id, version->layout);
  if (!reservation.ok()) {
    if (reservation.status().code() == absl::StatusCode::kInvalidArgument) {
      FailVersion(reservation.status(), version, state);
    }
    return false;
  }
  // A full queue of the loader: the pages go back, the next turn tries again.
  if (!state->parts.loader.pack(version->id, version->image, version->layout, reservation->data()).ok()) return false;
  version->reservation = *std::move(reservation);
  version->phase = WantedPhase::kPacking;
  return true;
}

// Pages that must be there before an adapter is placed: its own and, while others run and would take them away again,
// those of the request that waits for it.
int64_t PagesToPlace(const AdapterVersion& version, const SchedulerState& state) {
  if (version.phase == WantedPhase::kResident || version.pages == 0 || state.running.empty()) return version.pages;
  for (const Sequence* sequence : state.waiting) {
    if (sequence->adapter != &version) continue;
    const int64_t blocks = (sequence->known_tokens() + kKvBlockTokens - 1) / kKvBlockTokens;
    return version.pages + blocks * state.pages_per_block() + WatermarkPages(state);
  }
  return version.pages;
}

// Waiting requests in order, then pins, then loads that wait for their reply.
std::vector<AdapterVersion*> WantedVersions(const SchedulerState& state, std::unordered_set<AdapterId>* overtaken) {
  std::vector<AdapterVersion*> wanted;
  std::unordered_set<AdapterId> seen;
  const auto want = [&](AdapterVersion* version) {
    if (seen.insert(version->id).second) wanted.push_back(version);
  };
  for (const Sequence* sequence : state.waiting) {
    if (sequence->adapter == nullptr) continue;
    want(sequence->adapter);
    if (sequence->overtaken >= state.config.max_overtakes) overtaken->insert(sequence->adapter->id);
  }
  for (AdapterVersion* version : state.adapters.Watched()) {
    if (version->phase == WantedPhase::kResident || version->state == AdapterState::kDraining) continue;
    if (version->pinned || !version->pin_replies.empty() || !version->load_replies.empty()) want(version);
  }
  return wanted;
}

// What the residency's decision is made from. A read that lasts too long is left out: it holds no image, may never end,
// and has no claim on pages.
ResidencyInput MakeResidencyInput(SchedulerState* state) {
  const int64_t now_us = state->parts.clock->NowUs();
  std::unordered_set<AdapterId> overtaken;
  std::vector<AdapterVersion*> wanted;
  for (AdapterVersion* version : WantedVersions(*state, &overtaken)) {
    const bool stalled = version->phase == WantedPhase::kReading && now_us - version->started_us > kStalledReadUs;
    if (!stalled) wanted.push_back(version);
  }
  ResidencyInput input;
  if (wanted.empty()) return input;
  // Room for images goes to who waits longest: else later ones that wait for pages keep out earlier ones to be read.
  int64_t images = 0;
  const AdapterVersion* first_unread = nullptr;
  AdapterVersion* last_staged_behind = nullptr;
  for (AdapterVersion* version : wanted) {
    images += version->phase == WantedPhase::kReading || version->phase == WantedPhase::kStaged;
    if (version->phase == WantedPhase::kOnDisk && first_unread == nullptr) first_unread = version;
    if (version->phase == WantedPhase::kStaged && first_unread != nullptr) last_staged_behind = version;
  }
  if (images >= input.max_staged && last_staged_behind != nullptr && last_staged_behind->load_replies.empty()) {
    last_staged_behind->DropImage();
    last_staged_behind->phase = WantedPhase::kOnDisk;
  }
  for (const AdapterVersion* version : wanted) {
    input.wanted.push_back({.id = version->id,
                            .phase = version->phase,
                            .pages = PagesToPlace(*version, *state),
                            .overtakable = !overtaken.contains(version->id)});
  }
  input.idle = state->parts.adapters->Idle();
  input.free_pages = state->parts.pages->free_pages();
  return input;
}

// Loads are answered as soon as it is clear that no room is to be had now; images that nobody waits for go.
void SettleStaged(SchedulerState* state) {
  for (AdapterVersion* version : state->adapters.Watched()) {
    if (version->phase != WantedPhase::kStaged) continue;
    if (!version->load_replies.empty()) {
      SwitchIfReplacing(version, state);
      AnswerLoads(InfoOf(*version), version, state);
    }
    if (version->waiting > 0 || version->pinned || !version->pin_replies.empty()) continue;
    version->DropImage();
    version->phase = WantedPhase::kOnDisk;
  }
}

}  // namespace

absl::Status StartReading(AdapterVersion* version, SchedulerState* state) {
  const absl::Status status = state->parts.loader.stage(version->id, version->path, version->digest);
  if (!status.ok()) return status;
  version->phase = WantedPhase::kReading;
  state->adapters.Watch(version);
  version->started_us = state->parts.clock->NowUs();
  return absl::OkStatus();
}

AdapterReadiness ReadinessOf(const AdapterVersion* version) {
  if (version == nullptr || version->phase == WantedPhase::kResident) return AdapterReadiness::kReady;
  const bool on_its_way = version->phase == WantedPhase::kReading || version->phase == WantedPhase::kPacking;
  return on_its_way ? AdapterReadiness::kReading : AdapterReadiness::kWaitsForRoom;
}

bool RunResidency(SchedulerState* state) {
  AdapterPool* const pool = state->parts.adapters;
  bool acted = false;
  const ResidencyInput input = MakeResidencyInput(state);
  if (!input.wanted.empty()) {
    const ResidencyPlan plan = PlanResidency(input);
    for (const AdapterId id : plan.evict) {
      LORAD_CHECK(pool->Remove(id).ok());
      MarkEvicted(id, state);
    }
    for (const AdapterId id : plan.pack) acted |= StartPacking(state->adapters.Find(id), state);
    for (const AdapterId id : plan.read) acted |= StartReading(state->adapters.Find(id), state).ok();
  }
  for (const AdapterId id : pool->TakeEvicted()) MarkEvicted(id, state);
  SettleStaged(state);
  return acted;
}

bool SettleAdapters(SchedulerState* state) {
  AdapterPool* const pool = state->parts.adapters;
  bool settled = false;
  for (const AdapterId id : pool->TakeEvicted()) {
    MarkEvicted(id, state);
    settled = true;
  }
  for (AdapterVersion* version : state->adapters.Watched()) {
    const bool used = version->running + version->waiting > 0 || version->phase == WantedPhase::kPacking;
    if (version->state != AdapterState::kDraining || used) continue;
    if (pool->IsResident(version->id)) LORAD_CHECK(pool->Remove(version->id).ok());
    MoveTo(version, AdapterState::kGone);
    AnswerUnloads(absl::OkStatus(), version, state);
    if (version->phase == WantedPhase::kReading) state->parts.loader.cancel(version->id);
    state->adapters.Erase(version);
    settled = true;
  }
  state->adapters.UnwatchQuiet();
  return settled;
}

}  // namespace lorad
