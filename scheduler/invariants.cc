#include "scheduler/invariants.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/kv/kv_layout.h"

namespace lorad {
namespace {

absl::Status Broken(const std::string& what) { return absl::InternalError(absl::StrCat("broken invariant: ", what)); }

absl::Status CheckSequence(const Sequence& sequence, const SchedulerState& state) {
  const std::string who = absl::StrCat("sequence ", sequence.id, ": ");
  const int64_t blocks = sequence.blocks.size();
  if (sequence.in_flight_tokens != 0) return Broken(who + "tokens in flight between turns");
  if (!sequence.running) {
    if (blocks != 0 || !sequence.leases.empty() || sequence.computed_tokens != 0)
      return Broken(who + "waits, but holds memory");
    return absl::OkStatus();
  }
  if (blocks != (sequence.computed_tokens + kKvBlockTokens - 1) / kKvBlockTokens) {
    return Broken(absl::StrCat(who, "blocks: ", blocks, " for computed tokens: ", sequence.computed_tokens));
  }
  if (sequence.computed_tokens >= sequence.known_tokens())
    return Broken(who + "nothing left to compute, but not ended");
  if (sequence.leases.size() != sequence.adapters.size()) return Broken(who + "leases and adapters do not agree");
  for (const SequenceAdapter& adapter : sequence.adapters) {
    if (!state.parts.adapters->IsResident(adapter.version->id)) {
      return Broken(who + "runs on an adapter that is not resident");
    }
  }
  if (sequence.blocks.shared_blocks() * kKvBlockTokens > sequence.computed_tokens) {
    return Broken(who + "shares a block that is not full");
  }
  return absl::OkStatus();
}

absl::Status CheckLists(const SchedulerState& state) {
  if (!state.ended.empty()) return Broken("a sequence that ended is still held between turns");
  if (state.running.size() + state.waiting.size() != state.sequences.size())
    return Broken("a sequence is on no list, or two");
  const auto came_before = [](const Sequence* a, const Sequence* b) { return CameBefore(a->order, b->order); };
  if (!std::is_sorted(state.running.begin(), state.running.end(), came_before))
    return Broken("running is out of order");
  if (static_cast<int64_t>(state.running.size()) > state.config.max_sequences) return Broken("too many run");
  size_t by_request = 0;
  for (const auto& [id, sequences] : state.by_request) by_request += sequences.size();
  if (by_request != state.sequences.size()) return Broken("requests and sequences do not agree");
  return absl::OkStatus();
}

absl::Status CheckPages(const SchedulerState& state) {
  const PagePool& pages = *state.parts.pages;
  const int64_t block_pages = state.pages_per_block();
  std::unordered_set<int64_t> owned;            // first pages of blocks of one sequence's own
  std::unordered_map<int64_t, int64_t> shared;  // of the others: sequences that hold them
  for (const Sequence* sequence : state.running) {
    const BlockTable& blocks = sequence->blocks;
    for (int64_t b = 0; b < blocks.shared_blocks(); ++b) ++shared[blocks.first_page(b)];
    for (int64_t b = blocks.shared_blocks(); b < blocks.size(); ++b) {
      if (!owned.insert(blocks.first_page(b)).second) return Broken("a block belongs to two sequences");
    }
  }
  int64_t idle_pages = 0;
  for (const PrefixCache::View& block : state.prefix_cache->Blocks()) {
    if (block.pages != block_pages) return Broken("cached block of another size");
    if (block.holders == 0) idle_pages += block.pages;
    const auto held = shared.find(block.first_page);
    if (block.holders != (held == shared.end() ? 0 : held->second)) {
      return Broken(absl::StrCat("cached block: holders counted: ", block.holders,
                                 "; sequences that hold it: ", held == shared.end() ? 0 : held->second));
    }
    if (!owned.insert(block.first_page).second)
      return Broken("a cached block belongs to a sequence, or is cached twice");
    if (held != shared.end()) shared.erase(held);
  }
  if (!shared.empty()) return Broken("a sequence holds a block that is not cached");
  if (idle_pages != state.prefix_cache->idle_pages()) return Broken("idle blocks miscounted");
  const int64_t kv_pages = static_cast<int64_t>(owned.size()) * block_pages;
  int64_t adapter_pages = 0;
  int64_t resident = 0;
  for (const auto& [id, version] : state.adapters.versions()) {
    const bool holds = version->phase == WantedPhase::kResident || version->phase == WantedPhase::kPacking;
    if (holds) adapter_pages += version->pages;
    resident += version->phase == WantedPhase::kResident;
    if ((version->phase == WantedPhase::kPacking) == version->reservation.empty())
      return Broken("packing without pages");
    if ((version->phase == WantedPhase::kResident) != state.parts.adapters->IsResident(id)) {
      return Broken(absl::StrCat("adapter ", version->name, ": residency does not agree with the pool"));
    }
    if (holds && version->image != nullptr && version->phase == WantedPhase::kResident)
      return Broken("image kept beside pages");
  }
  if (kv_pages != pages.used_pages(PageOwner::kKv)) {
    return Broken(absl::StrCat("KV pages of sequences and cache: ", kv_pages,
                               "; of the pool: ", pages.used_pages(PageOwner::kKv)));
  }
  if (adapter_pages != pages.used_pages(PageOwner::kAdapter)) {
    return Broken(absl::StrCat("adapter pages of versions: ", adapter_pages,
                               "; of the pool: ", pages.used_pages(PageOwner::kAdapter)));
  }
  if (resident != state.parts.adapters->resident_count())
    return Broken("the pool holds an adapter that has no version");
  if (kv_pages + adapter_pages + pages.withheld_pages() + pages.free_pages() != pages.total_pages()) {
    return Broken("pages do not add up");
  }
  return absl::OkStatus();
}

absl::Status CheckWarm(const SchedulerState& state) {
  int64_t kept = 0;
  for (const auto& [id, version] : state.adapters.versions()) {
    kept += state.warm.Has(id);
    if (version->warm != (state.warm.Find(id) != nullptr)) {
      return Broken(absl::StrCat("adapter ", version->name, ": warm does not agree with what is kept"));
    }
    if (!version->warm && state.warm.Has(id) && version->phase != WantedPhase::kPacking) {
      return Broken(absl::StrCat("adapter ", version->name, ": kept, but nobody writes it"));
    }
  }
  if (kept != state.warm.count()) return Broken("an adapter is kept that has no version");
  if (state.warm.bytes() > state.warm.limit_bytes()) return Broken("more adapters are kept than the limit");
  if (kept == 0 && state.warm.bytes() != 0) return Broken("bytes of warm adapters miscounted");
  return absl::OkStatus();
}

absl::Status CheckUsers(const SchedulerState& state) {
  std::unordered_map<const AdapterVersion*, int64_t> running;
  std::unordered_map<const AdapterVersion*, int64_t> waiting;
  int64_t not_begun = 0;
  for (const auto& [id, sequence] : state.sequences) {
    not_begun += !sequence->order.begun;
    for (const SequenceAdapter& adapter : sequence->adapters) {
      ++(sequence->running ? running : waiting)[adapter.version];
    }
  }
  for (const auto& [id, version] : state.adapters.versions()) {
    if (version->running != running[version.get()] || version->waiting != waiting[version.get()]) {
      return Broken(absl::StrCat("adapter ", version->name, ": users miscounted"));
    }
    const bool named = state.adapters.Current(version->name) == version.get() ||
                       state.adapters.Replacing(version->name) == version.get();
    if (named == (version->state == AdapterState::kDraining)) {
      return Broken(absl::StrCat("adapter ", version->name, ": named and draining do not agree"));
    }
  }
  if (not_begun > state.parts.inbox->queued_sequences()) return Broken("the inbox has lost count of waiting sequences");
  return absl::OkStatus();
}

absl::Status CheckAccounts(const SchedulerState& state) {
  struct Counted {
    int64_t sequences = 0;
    int64_t running = 0;
    int64_t not_begun = 0;
  };
  std::unordered_map<const Account*, Counted> counted;
  for (const auto& [id, sequence] : state.sequences) {
    Counted& of_account = counted[sequence->account];
    ++of_account.sequences;
    of_account.running += sequence->running;
    of_account.not_begun += !sequence->order.begun;
  }
  const int64_t most_running = state.config.max_running_per_adapter;
  const int64_t most_waiting = state.config.max_waiting_per_adapter;
  for (const auto& [name, account] : state.accounts.all()) {
    const Counted& of_account = counted[account.get()];
    if (account->sequences != of_account.sequences || account->running != of_account.running ||
        account->not_begun != of_account.not_begun) {
      return Broken(absl::StrCat("account ", name, ": users miscounted"));
    }
    if (name.empty()) continue;
    if (most_running > 0 && account->running > most_running) return Broken("an adapter runs beyond its limit");
    if (most_waiting > 0 && account->not_begun > most_waiting) return Broken("an adapter waits beyond its limit");
  }
  if (counted.size() > state.accounts.all().size()) return Broken("a sequence of a forgotten account");
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckInvariants(const SchedulerState& state) {
  RETURN_IF_ERROR(CheckLists(state));
  for (const auto& [id, sequence] : state.sequences) RETURN_IF_ERROR(CheckSequence(*sequence, state));
  RETURN_IF_ERROR(CheckPages(state));
  RETURN_IF_ERROR(CheckWarm(state));
  RETURN_IF_ERROR(CheckAccounts(state));
  return CheckUsers(state);
}

}  // namespace lorad
