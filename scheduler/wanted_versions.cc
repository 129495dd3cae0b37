#include "scheduler/wanted_versions.h"

#include <algorithm>
#include <array>
#include <unordered_map>

#include "model/kv/kv_layout.h"
#include "scheduler/account.h"

namespace lorad {
namespace {

constexpr int64_t kNoSeatsKeptAfterHangUs = 60'000'000;

AdapterReadiness ReadinessOf(const AdapterVersion& version) {
  if (version.phase == WantedPhase::kResident) return AdapterReadiness::kReady;
  if (version.phase == WantedPhase::kReading && version.hangs) return AdapterReadiness::kHanging;
  // Of unknown size before its first read: it has no claim on room.
  const bool unread = version.phase == WantedPhase::kOnDisk && !version.known;
  const bool on_its_way = unread || version.phase == WantedPhase::kReading || version.phase == WantedPhase::kPacking;
  return on_its_way ? AdapterReadiness::kReading : AdapterReadiness::kWaitsForRoom;
}

}  // namespace

bool IsCommanded(const AdapterVersion& version) {
  return version.pinned || !version.pin_replies.empty() || !version.load_replies.empty();
}

std::vector<WantedVersion> WantedVersions(const SchedulerState& state) {
  std::vector<WantedVersion> wanted;
  std::unordered_map<AdapterId, size_t> place;
  const auto want = [&](AdapterVersion* version, const Sequence* first) -> WantedVersion& {
    const auto [found, added] = place.try_emplace(version->id, wanted.size());
    if (added) wanted.push_back({.version = version, .first = first});
    return wanted[found->second];
  };
  for (const Sequence* sequence : state.waiting) {
    for (const SequenceAdapter& adapter : sequence->adapters) {
      want(adapter.version, sequence).overtaken |= sequence->overtaken >= state.config.max_overtakes;
    }
  }
  for (AdapterVersion* version : state.adapters.Watched()) {
    if (version->phase == WantedPhase::kResident || version->state == AdapterState::kDraining) continue;
    if (IsCommanded(*version)) want(version, nullptr);
  }
  return wanted;
}

int64_t PagesToPlace(const WantedVersion& wanted, const SchedulerState& state) {
  const AdapterVersion& version = *wanted.version;
  const bool alone = wanted.first == nullptr || state.running.empty();
  if (version.phase == WantedPhase::kResident || version.pages == 0 || alone) return version.pages;
  const int64_t blocks = (wanted.first->known_tokens() + kKvBlockTokens - 1) / kKvBlockTokens;
  return version.pages + blocks * state.pages_per_block() + WatermarkPages(state);
}

int64_t AdaptersAhead(const SchedulerState& state) {
  constexpr int64_t kLeast = 8;  // that one request may name
  const int64_t seats = state.config.max_sequences;
  const int64_t free_seats = std::max<int64_t>(0, seats - static_cast<int64_t>(state.running.size()));
  return free_seats + std::max(kLeast, seats / 4);
}

AdapterReadiness ReadinessOf(const Sequence& sequence) {
  // Who waits for room holds others back, so nothing else may be missing: what hangs would hold them back for ever.
  constexpr std::array kWorstLast = {AdapterReadiness::kReady, AdapterReadiness::kWaitsForRoom,
                                     AdapterReadiness::kReading, AdapterReadiness::kHanging};
  const auto badness = [&](AdapterReadiness r) { return std::find(kWorstLast.begin(), kWorstLast.end(), r); };
  auto worst = kWorstLast.begin();
  for (const SequenceAdapter& adapter : sequence.adapters)
    worst = std::max(worst, badness(ReadinessOf(*adapter.version)));
  // Its prompt is as good as being read: others pass it by meanwhile.
  if (sequence.request->awaits_tokenizer) worst = std::max(worst, badness(AdapterReadiness::kReading));
  return *worst;
}

bool MayBegin(const WantedVersion& wanted, const SchedulerState& state) {
  if (wanted.first == nullptr) return true;
  const int64_t limit = state.config.max_running_per_adapter;
  return ReadinessOf(*wanted.first) != AdapterReadiness::kHanging &&
         (limit == 0 || wanted.first->account->running < limit);
}

bool MayKeepSeat(const SchedulerState& state) {
  return state.last_hang_us < 0 || state.parts.clock->NowUs() - state.last_hang_us > kNoSeatsKeptAfterHangUs;
}

}  // namespace lorad
