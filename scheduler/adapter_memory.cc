#include "scheduler/adapter_memory.h"

#include <algorithm>
#include <unordered_set>
#include <utility>
#include <vector>

#include "adapters/residency.h"
#include "model/base/check.h"
#include "scheduler/eviction.h"
#include "scheduler/lifecycle.h"
#include "scheduler/replies.h"
#include "scheduler/wanted_versions.h"

namespace lorad {
namespace {

constexpr int64_t kStalledReadUs = 1'000'000;
constexpr int64_t kCompactBytesPerTry = int64_t{4} << 20;

// Joins free pages that are enough, but scattered. False: nothing can move, or they are too few.
bool MovePagesFor(const AdapterVersion& version, SchedulerState* state) {
  PagePool* const pages = state->parts.pages;
  if (pages->free_pages() < version.pages) return false;
  bool moved = false;
  bool moved_adapters = false;
  const bool more = pages->Compact(kCompactBytesPerTry, [&](PageOwner owner) {
    moved = true;
    moved_adapters |= owner == PageOwner::kAdapter;
  });
  if (moved_adapters) state->parts.adapters->RefreshAddresses();
  return moved || more;
}

void MarkEvicted(AdapterId id, SchedulerState* state) {
  AdapterVersion* const version = state->adapters.Find(id);
  LORAD_CHECK(version != nullptr);
  version->phase = WantedPhase::kOnDisk;
  state->warm.Touch(id);
  if (version->state == AdapterState::kResident) MoveTo(version, AdapterState::kHost);
  state->adapters.Touch(version);
  state->parts.observer->OnAdapterEvicted(version->name);
}

// An entry among the warm ones, for the packer to write; nullptr: it will not be kept.
std::shared_ptr<PackedAdapter> KeepWarm(const AdapterVersion& version, SchedulerState* state) {
  std::shared_ptr<PackedAdapter> keep = state->warm.Make(version.id, version.layout);
  for (const AdapterId id : state->warm.TakeDropped()) {
    AdapterVersion* const dropped = state->adapters.Find(id);
    LORAD_CHECK(dropped != nullptr);
    dropped->warm = false;
    state->adapters.Touch(dropped);
  }
  return keep;
}

absl::Status GiveToPacker(const AdapterVersion& version, std::shared_ptr<const PackedAdapter> warm,
                          std::byte* destination, SchedulerState* state) {
  const LoaderCalls& loader = state->parts.loader;
  if (warm != nullptr) return loader.copy(version.id, std::move(warm), destination);
  const absl::Status status =
      loader.pack(version.id, version.image, version.layout, destination, KeepWarm(version, state));
  if (!status.ok()) state->warm.Drop(version.id);
  return status;
}

// `warm`: what it is copied from; nullptr: it was read. True: packing has begun, or the next turn may find the room
// that this one was making.
bool StartPacking(AdapterVersion* version, std::shared_ptr<const PackedAdapter> warm, SchedulerState* state) {
  const bool copies = warm != nullptr;
  absl::StatusOr<AdapterReservation> reservation =
      state->parts.adapters->Reserve(version->id, copies ? warm->layout : version->layout);
  if (!reservation.ok()) {
    if (reservation.status().code() == absl::StatusCode::kInvalidArgument) {
      FailVersion(reservation.status(), version, state);
      return false;
    }
    return MovePagesFor(*version, state);
  }
  // A full queue of the loader: the pages go back, the next turn tries again.
  if (!GiveToPacker(*version, std::move(warm), reservation->data(), state).ok()) return false;
  version->reservation = *std::move(reservation);
  version->phase = WantedPhase::kPacking;
  if (!copies) return true;
  state->warm.Touch(version->id);
  state->adapters.Watch(version);
  version->started_us = state->parts.clock->NowUs();
  return true;
}

void DropStaged(AdapterVersion* version) {
  LORAD_CHECK(version->phase == WantedPhase::kStaged);
  version->DropImage();
  version->phase = WantedPhase::kOnDisk;
}

// Room for images goes to who waits longest: else later ones that wait for pages keep out earlier ones to be read.
void MakeRoomForEarlierImages(int64_t max_staged, const std::vector<WantedVersion>& wanted) {
  int64_t in_the_way = 0;
  bool unread_ahead = false;
  std::vector<AdapterVersion*> behind;  // staged, for no command
  for (const WantedVersion& each : wanted) {
    AdapterVersion* const version = each.version;
    unread_ahead |= version->phase == WantedPhase::kOnDisk && !version->warm;
    const bool staged_behind = version->phase == WantedPhase::kStaged && unread_ahead;
    in_the_way += version->phase == WantedPhase::kReading || staged_behind;
    if (staged_behind && !IsCommanded(*version)) behind.push_back(version);
  }
  for (; in_the_way >= max_staged && !behind.empty(); --in_the_way) {
    DropStaged(behind.back());
    behind.pop_back();
  }
}

void NoteHangingReads(SchedulerState* state) {
  const int64_t now_us = state->parts.clock->NowUs();
  for (AdapterVersion* version : state->adapters.Watched()) {
    if (version->phase != WantedPhase::kReading || version->hangs) continue;
    if (now_us - version->started_us < state->config.hanging_read_us) continue;
    version->hangs = true;
    state->last_hang_us = now_us;
  }
}

// What the residency's decision is made from. A read that lasts too long is left out: it holds no image, may never end,
// and has no claim on pages.
ResidencyInput MakeResidencyInput(SchedulerState* state) {
  const int64_t now_us = state->parts.clock->NowUs();
  std::vector<WantedVersion> wanted = WantedVersions(*state);
  std::erase_if(wanted, [now_us](const WantedVersion& each) {
    return each.version->phase == WantedPhase::kReading && now_us - each.version->started_us > kStalledReadUs;
  });
  ResidencyInput input;
  if (wanted.empty()) return input;
  MakeRoomForEarlierImages(input.max_staged, wanted);
  for (const WantedVersion& each : wanted) {
    input.wanted.push_back({.id = each.version->id,
                            .phase = each.version->phase,
                            .pages = PagesToPlace(each, *state),
                            .warm = each.version->warm,
                            .overtakable = !each.overtaken,
                            .commanded = IsCommanded(*each.version),
                            .ahead = each.version->running == 0 && MayBegin(each, *state)});
  }
  input.idle = state->parts.adapters->Idle();
  input.free_pages = state->parts.pages->free_pages() + state->prefix_cache->idle_pages();
  input.max_ahead = AdaptersAhead(*state);
  return input;
}

// Loads are answered as soon as it is clear that no room is to be had now; images that nobody waits for go, and those
// beyond what host memory may hold. True: some were.
bool SettleStaged(SchedulerState* state) {
  bool settled = false;
  int64_t kept = 0;
  for (AdapterVersion* version : state->adapters.Watched()) {
    if (version->phase != WantedPhase::kStaged) continue;
    if (!version->load_replies.empty()) {
      SwitchIfReplacing(version, state);
      AnswerLoads(InfoOf(*version), version, state);
      settled = true;
    }
    if (version->waiting > 0 || version->pinned || !version->pin_replies.empty()) {
      ++kept;
      continue;
    }
    DropStaged(version);
    settled = true;
  }
  const ResidencyInput bounds;
  int64_t room = bounds.max_staged + bounds.max_parked;
  if (kept <= room) return settled;
  for (const WantedVersion& each : WantedVersions(*state)) {
    if (each.version->phase != WantedPhase::kStaged || --room >= 0) continue;
    DropStaged(each.version);
    settled = true;
  }
  return settled;
}

}  // namespace

absl::Status StartReading(AdapterVersion* version, SchedulerState* state) {
  const absl::Status status = state->parts.loader.stage(version->id, version->path, version->digest);
  if (!status.ok()) return status;
  version->phase = WantedPhase::kReading;
  state->adapters.Watch(version);
  version->started_us = state->parts.clock->NowUs();
  version->hangs = false;
  return absl::OkStatus();
}

bool RunResidency(SchedulerState* state) {
  NoteHangingReads(state);
  AdapterPool* const pool = state->parts.adapters;
  bool acted = false;
  const ResidencyInput input = MakeResidencyInput(state);
  if (!input.wanted.empty()) {
    const ResidencyPlan plan = PlanResidency(input);
    for (const AdapterId id : plan.evict) pool->Evict(id);
    // KV takes the pages of what was used longest ago: not of these, and of the first of them last.
    std::for_each(plan.keep.rbegin(), plan.keep.rend(), [pool](AdapterId id) { pool->Touch(id); });
    std::unordered_set<AdapterId> wanted;
    for (const WantedAdapter& adapter : input.wanted) wanted.insert(adapter.id);
    // Held: one that is packed first may push later ones out of what is kept.
    std::vector<std::shared_ptr<const PackedAdapter>> warm;
    for (const AdapterId id : plan.pack) {
      const bool staged = state->adapters.Find(id)->phase == WantedPhase::kStaged;
      warm.push_back(staged ? nullptr : state->warm.Find(id));
      LORAD_CHECK(staged || warm.back() != nullptr);
    }
    for (size_t i = 0; i < plan.pack.size(); ++i) {
      AdapterVersion* const version = state->adapters.Find(plan.pack[i]);
      EvictUntilFree(version->pages, wanted, state);
      acted |= StartPacking(version, std::move(warm[i]), state);
    }
    for (const AdapterId id : plan.read) acted |= StartReading(state->adapters.Find(id), state).ok();
  }
  for (const AdapterId id : pool->TakeEvicted()) MarkEvicted(id, state);
  acted |= SettleStaged(state);
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
    // Whoever named the folder is gone before it was read: the name is unknown again.
    if (version->state == AdapterState::kLoading && version->phase == WantedPhase::kOnDisk && !used) {
      state->adapters.Detach(version);
      MoveTo(version, AdapterState::kDraining);
    }
    if (version->state != AdapterState::kDraining || used) continue;
    if (pool->IsResident(version->id)) LORAD_CHECK(pool->Remove(version->id).ok());
    MoveTo(version, AdapterState::kGone);
    AnswerUnloads(absl::OkStatus(), version, state);
    if (version->phase == WantedPhase::kReading) state->parts.loader.cancel(version->id);
    state->warm.Drop(version->id);
    state->adapters.Erase(version);
    settled = true;
  }
  state->adapters.UnwatchQuiet();
  return settled;
}

}  // namespace lorad
