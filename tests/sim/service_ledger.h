#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <unordered_set>
#include <utility>

#include "tests/support/fake_world.h"

namespace lorad {

// Counts for itself what each adapter gets, from the rows that are computed and the tokens that come of them, and looks
// for the widest gap between two of them over any stretch of time in which both were backlogged.
//
// Source   Sheng et al., OSDI 24, theorem 4.4: at most 2 max(w_p x longest prompt, w_q x tokens in a batch), where an
//          adapter's service is counted by its weight. Tokens in a batch: those that all running sequences may come to.
class ServiceLedger final {
 public:
  explicit ServiceLedger(FakeWorld* world) : world_(world) {
    world->executor.on_step = [this](absl::Span<const ExecRow> rows, StepResult* result) { NoteStep(rows, *result); };
  }

  // After each turn.
  void NoteTurn() {
    std::map<std::string, const Account*> backlogged;
    for (const auto& [name, account] : world_->core.state().accounts.all()) {
      if (account->backlogged) backlogged.emplace(name, account.get());
    }
    std::erase_if(stretches_, [&](const auto& entry) {
      return !backlogged.contains(entry.first.first) || !backlogged.contains(entry.first.second);
    });
    for (auto f = backlogged.begin(); f != backlogged.end(); ++f) {
      for (auto g = std::next(f); g != backlogged.end(); ++g) NotePair(f->first, g->first);
    }
    service_before_ = service_;
  }

  double widest_gap() const { return widest_gap_; }
  double bound() const {
    const ServicePrices& prices = world_->core.state().accounts.prices();
    return 2.0 / least_weight_ *
           std::max(prices.input_token * static_cast<double>(longest_prompt_),
                    prices.output_token * static_cast<double>(most_batch_tokens_));
  }
  double service(const std::string& name) const {
    const auto found = service_.find(name);
    return found == service_.end() ? 0.0 : found->second;
  }

 private:
  struct Stretch {
    double least;
    double most;
  };

  void NotePair(const std::string& f, const std::string& g) {
    const double before = service_before_[f] - service_before_[g];
    const double after = service_[f] - service_[g];
    Stretch& stretch = stretches_.try_emplace({f, g}, Stretch{.least = before, .most = before}).first->second;
    stretch.least = std::min(stretch.least, after);
    stretch.most = std::max(stretch.most, after);
    widest_gap_ = std::max(widest_gap_, stretch.most - stretch.least);
  }

  void NoteStep(absl::Span<const ExecRow> rows, const StepResult& result) {
    const SchedulerState& state = world_->core.state();
    const ServicePrices& prices = state.accounts.prices();
    int64_t batch_tokens = 0;
    std::unordered_set<SequenceId> in_batch;
    const auto add_to_batch = [&](const Sequence& sequence) {
      if (!in_batch.insert(sequence.id).second) return;
      batch_tokens += sequence.prompt_tokens + sequence.sampling.max_tokens;
    };
    for (const Sequence* sequence : state.running) add_to_batch(*sequence);
    for (size_t i = 0; i < rows.size(); ++i) {
      const Sequence& sequence = *state.sequences.at(rows[i].sequence);
      add_to_batch(sequence);
      const Account& account = *sequence.account;
      least_weight_ = std::min(least_weight_, account.weight);
      longest_prompt_ = std::max(longest_prompt_, sequence.prompt_tokens);
      double price = result.rows[i].sampled ? prices.output_token : 0.0;
      if (begun_.insert(sequence.id).second) price += prices.input_token * static_cast<double>(sequence.prompt_tokens);
      service_[account.name] += price / account.weight;
    }
    most_batch_tokens_ = std::max(most_batch_tokens_, batch_tokens);
  }

  FakeWorld* const world_;
  std::map<std::string, double> service_;  // by weight
  std::map<std::string, double> service_before_;
  std::map<std::pair<std::string, std::string>, Stretch> stretches_;  // both backlogged since
  std::unordered_set<SequenceId> begun_;
  double widest_gap_ = 0.0;
  double least_weight_ = 1e9;
  int64_t longest_prompt_ = 0;
  int64_t most_batch_tokens_ = 0;
};

}  // namespace lorad
