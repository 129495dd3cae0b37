#include "scheduler/planner.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "model/kv/kv_layout.h"

namespace lorad {
namespace {

int64_t BlocksFor(int64_t tokens) { return (tokens + kKvBlockTokens - 1) / kKvBlockTokens; }

// A running sequence while its row is being decided.
struct Draft {
  const PlanSequence* sequence;
  int64_t tokens = 0;
  int64_t new_blocks = 0;
  bool preempted = false;
};

class Planner final {
 public:
  explicit Planner(const PlanInput& input) : input_(input), budget_(input.token_budget), pages_(input.available_pages) {
    for (const PlanSequence& sequence : input.running) drafts_.push_back({.sequence = &sequence});
  }

  StepPlan Plan() {
    PlanDecodes();
    PlanRunningPrefills();
    WriteRunning();
    if (plan_.preempt.empty()) PlanWaiting();
    return std::move(plan_);
  }

 private:
  static int64_t Pending(const PlanSequence& s) { return s.known_tokens - s.computed_tokens; }
  static int64_t NewBlocks(const PlanSequence& s, int64_t tokens) {
    return std::max<int64_t>(0, BlocksFor(s.computed_tokens + tokens) - s.blocks);
  }

  int64_t ChunkOf(const PlanSequence& s) const {
    int64_t tokens = std::min(Pending(s), budget_);
    if (s.row_limit_tokens > 0) tokens = std::min(tokens, s.row_limit_tokens);
    return tokens;
  }

  void Take(Draft* draft, int64_t tokens) {
    draft->tokens = tokens;
    draft->new_blocks = NewBlocks(*draft->sequence, tokens);
    budget_ -= tokens;
    pages_ -= draft->new_blocks * input_.pages_per_block;
  }

  // Takes back the memory, and the row if it has one, of the last in order that is not `keep` or before it.
  bool PreemptBehind(size_t keep) {
    for (size_t i = drafts_.size(); i-- > keep + 1;) {
      Draft& victim = drafts_[i];
      if (victim.preempted) continue;
      pages_ += (victim.sequence->sole_blocks + victim.new_blocks) * input_.pages_per_block;
      budget_ += victim.tokens;
      victim.tokens = 0;
      victim.preempted = true;
      return true;
    }
    return false;
  }

  void PlanDecodes() {
    for (size_t i = 0; i < drafts_.size(); ++i) {
      Draft& draft = drafts_[i];
      if (draft.preempted || Pending(*draft.sequence) != 1) continue;
      const int64_t pages = NewBlocks(*draft.sequence, 1) * input_.pages_per_block;
      while (pages > pages_ && PreemptBehind(i)) {
      }
      if (pages <= pages_) {
        Take(&draft, 1);
      } else if (i > 0) {
        draft.preempted = true;
        pages_ += draft.sequence->sole_blocks * input_.pages_per_block;
      }
    }
  }

  void PlanRunningPrefills() {
    for (size_t i = 0; i < drafts_.size(); ++i) {
      Draft& draft = drafts_[i];
      const PlanSequence& s = *draft.sequence;
      if (draft.preempted || Pending(s) <= 1) continue;
      // The first in order always gets on, so that somebody ends and gives memory back.
      if (i == 0) {
        while (NewBlocks(s, 1) * input_.pages_per_block > pages_ && PreemptBehind(i)) {
        }
      }
      const int64_t room_tokens = (s.blocks + pages_ / input_.pages_per_block) * kKvBlockTokens - s.computed_tokens;
      const int64_t tokens = std::min(ChunkOf(s), room_tokens);
      if (tokens > 0) Take(&draft, tokens);
    }
  }

  void WriteRunning() {
    for (const Draft& draft : drafts_) {
      const PlanSequence& s = *draft.sequence;
      if (draft.preempted) {
        plan_.preempt.push_back(s.id);
        continue;
      }
      ++seats_taken_;
      ++running_of_[s.account];
      NoteLeased(s);
      being_computed_.insert(s.next_block);
      // What running prompts still need is spoken for.
      pages_ -= (std::max(BlocksFor(s.known_tokens), s.blocks + draft.new_blocks) - s.blocks - draft.new_blocks) *
                input_.pages_per_block;
      if (draft.tokens > 0) WriteRow(s, draft.tokens);
    }
  }

  void WriteRow(const PlanSequence& s, int64_t tokens) {
    plan_.rows.push_back(
        {.sequence = s.id, .first_position = s.computed_tokens, .tokens = tokens, .sample = tokens == Pending(s)});
  }

  void NoteLeased(const PlanSequence& s) {
    for (const PlanAdapter& adapter : s.adapters) leased_.insert(adapter.id);
  }

  bool IsAtLimit(const PlanSequence& s) {
    return input_.max_running_per_account > 0 && s.account != 0 &&
           running_of_[s.account] >= input_.max_running_per_account;
  }

  // What it takes to begin: the blocks that are not cached, those cached ones that nobody holds yet, and the pages of
  // its adapters that nobody has leased.
  int64_t PagesToBegin(const PlanSequence& s) const {
    int64_t adapter_pages = 0;
    for (const PlanAdapter& adapter : s.adapters) {
      if (!leased_.contains(adapter.id)) adapter_pages += adapter.idle_pages;
    }
    const int64_t blocks = BlocksFor(s.known_tokens) - s.blocks + s.idle_blocks;
    return blocks * input_.pages_per_block + adapter_pages;
  }

  void PlanWaiting() {
    std::vector<SequenceId> passed_by;
    bool may_keep = input_.may_keep_seat;
    for (const PlanSequence& s : input_.waiting) {
      if (seats_taken_ >= input_.max_sequences || budget_ <= 0) return;
      if (IsAtLimit(s)) continue;
      if (s.readiness != AdapterReadiness::kReady) {
        const bool enough = s.overtaken >= input_.max_overtakes;
        if (enough && s.readiness == AdapterReadiness::kWaitsForRoom) return;
        if (enough && s.readiness == AdapterReadiness::kReading && std::exchange(may_keep, false)) {
          ++seats_taken_;
          pages_ -= PagesToBegin(s);
        }
        passed_by.push_back(s.id);
        continue;
      }
      if (s.next_block != 0 && being_computed_.contains(s.next_block)) continue;
      const int64_t pages = PagesToBegin(s);
      const int64_t watermark_pages = seats_taken_ == 0 ? 0 : input_.watermark_pages;
      if (pages + watermark_pages > pages_) return;
      pages_ -= pages;
      ++seats_taken_;
      ++running_of_[s.account];
      NoteLeased(s);
      being_computed_.insert(s.next_block);
      const int64_t tokens = ChunkOf(s);
      budget_ -= tokens;
      WriteRow(s, tokens);
      plan_.overtaken.insert(plan_.overtaken.end(), passed_by.begin(), passed_by.end());
    }
  }

  const PlanInput& input_;
  int64_t budget_;
  int64_t pages_;
  int64_t seats_taken_ = 0;
  std::vector<Draft> drafts_;
  std::unordered_set<AdapterId> leased_;
  std::unordered_map<uint64_t, int64_t> running_of_;  // by account
  std::unordered_set<uint64_t> being_computed_;       // next blocks of those that have begun
  StepPlan plan_;
};

}  // namespace

StepPlan PlanStep(const PlanInput& input) { return Planner(input).Plan(); }

}  // namespace lorad
