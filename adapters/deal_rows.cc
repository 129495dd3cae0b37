#include "adapters/deal_rows.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "adapters/expert_load.h"
#include "model/base/check.h"
#include "model/expert_rows.h"

namespace lorad {
namespace {

// All routed adapters' experts are numbered through, adapter by adapter.
struct RoutedAdapter {
  int32_t slot;
  LayerRouters::Router router;
  int32_t first_expert;
};

class Dealer final {
 public:
  Dealer(const RowSegments& rows, LayerRouters& routers) : rows_(rows), routers_(routers) {}

  std::shared_ptr<RoutedRows> Deal() {
    NumberExperts();
    auto routed = std::make_shared<RoutedRows>();
    for (int64_t group = 0; group < rows_.groups(); ++group) {
      const int32_t term = RoutedTerm(group);
      AddOthers(group, term >= 0, routed.get());
      if (term < 0) continue;
      ChooseFor(group, *Find(rows_.terms[term].slot), routed.get());
      routed->scales_down |= ScalesDown(group);
    }
    if (routed->rows.empty()) return nullptr;
    ExpertRows pairs = GroupByExpert(chosen_, weights_, std::ssize(routed->rows), experts_);
    routed->row_pairs = std::move(pairs.pairs);
    routed->weights = std::move(pairs.weights);
    for (const RoutedAdapter& adapter : adapters_) AddPairsOf(adapter, pairs, routed.get());
    return routed;
  }

 private:
  // The routed one of a segment's terms; -1: none.
  int32_t RoutedTerm(int64_t group) const {
    for (int32_t t = rows_.term_starts[group]; t < rows_.term_starts[group + 1]; ++t) {
      if (routers_.Of(rows_.terms[t].slot).experts > 0) return t;
    }
    return -1;
  }

  // Whether one of a segment's terms has DoRA at down.
  bool ScalesDown(int64_t group) const {
    const auto begin = rows_.terms.begin();
    return std::any_of(begin + rows_.term_starts[group], begin + rows_.term_starts[group + 1],
                       [&](const SlotTerm& term) { return routers_.ScalesDown(term.slot); });
  }

  void NumberExperts() {
    for (int64_t group = 0; group < rows_.groups(); ++group) {
      const int32_t term = RoutedTerm(group);
      if (term < 0 || Find(rows_.terms[term].slot) != nullptr) continue;
      const int32_t slot = rows_.terms[term].slot;
      const LayerRouters::Router router = routers_.Of(slot);
      adapters_.push_back({slot, router, experts_});
      experts_ += router.experts;
      choices_ = std::max(choices_, router.rule->Choices(router.experts));
    }
  }
  const RoutedAdapter* Find(int32_t slot) const {
    const auto found =
        std::find_if(adapters_.begin(), adapters_.end(), [&](const RoutedAdapter& a) { return a.slot == slot; });
    return found == adapters_.end() ? nullptr : &*found;
  }

  void AddOthers(int64_t group, bool routed, RoutedRows* out) const {
    RowSegments& others = out->others;
    if (!routed) {
      others.terms.insert(others.terms.end(), rows_.terms.begin() + rows_.term_starts[group],
                          rows_.terms.begin() + rows_.term_starts[group + 1]);
    }
    others.starts.push_back(rows_.starts[group + 1]);
    others.term_starts.push_back(static_cast<int32_t>(others.terms.size()));
  }

  // Experts and weights of a segment's rows, behind those of the segments before it.
  void ChooseFor(int64_t group, const RoutedAdapter& adapter, RoutedRows* out) {
    const int64_t first = rows_.starts[group], count = rows_.starts[group + 1] - first;
    const RoutingRule& rule = *adapter.router.rule;
    const int32_t experts = adapter.router.experts, choices = rule.Choices(experts);
    const at::Tensor logits = routers_.Logits(adapter.slot, first, count);
    LORAD_CHECK(logits.scalar_type() == at::kFloat && logits.is_contiguous());
    std::vector<int32_t> chosen(static_cast<size_t>(choices_), -1);
    std::vector<float> weights(static_cast<size_t>(choices_), 0.0f);
    ExpertTally tally(experts);
    for (int64_t i = 0; i < count; ++i) {
      ChooseExperts(rule,
                    absl::MakeConstSpan(logits.const_data_ptr<float>() + i * experts, static_cast<size_t>(experts)),
                    absl::MakeSpan(chosen).first(static_cast<size_t>(choices)),
                    absl::MakeSpan(weights).first(static_cast<size_t>(choices)));
      for (size_t j = 0; j < chosen.size(); ++j) {
        if (chosen[j] < 0 || routers_.Takes(adapter.slot, first + i, chosen[j])) continue;
        chosen[j] = -1;
        weights[j] = 0.0f;
      }
      for (const int32_t expert : chosen) chosen_.push_back(expert < 0 ? -1 : adapter.first_expert + expert);
      weights_.insert(weights_.end(), weights.begin(), weights.end());
      tally.Count(chosen);
      out->rows.push_back(static_cast<int32_t>(first + i));
      group_of_.push_back(group);
    }
    tally.AddTo(adapter.router.expert_rows);
  }

  // One segment for the pairs of an expert that lie together and come of one segment of the step.
  void AddPairsOf(const RoutedAdapter& adapter, const ExpertRows& pairs, RoutedRows* out) const {
    RowSegments& segments = out->pairs;
    const int32_t first_pair = segments.starts.back();
    for (int32_t e = 0; e < adapter.router.experts; ++e) {
      const auto expert = static_cast<size_t>(adapter.first_expert + e);
      for (int32_t pair = pairs.starts[expert]; pair < pairs.starts[expert + 1];) {
        const int64_t group = group_of_[static_cast<size_t>(pairs.rows[pair])];
        for (; pair < pairs.starts[expert + 1] && group_of_[static_cast<size_t>(pairs.rows[pair])] == group; ++pair) {
          segments.input_rows.push_back(out->rows[static_cast<size_t>(pairs.rows[pair])]);
        }
        for (int32_t t = rows_.term_starts[group]; t < rows_.term_starts[group + 1]; ++t) {
          segments.terms.push_back(rows_.terms[t]);
          if (rows_.terms[t].slot == adapter.slot) segments.terms.back().expert = e;
        }
        segments.starts.push_back(pair);
        segments.term_starts.push_back(static_cast<int32_t>(segments.terms.size()));
      }
    }
    if (adapter.router.rule->activation.has_value() && segments.starts.back() > first_pair) {
      out->activations.push_back({first_pair, segments.starts.back(), *adapter.router.rule->activation});
    }
  }

  const RowSegments& rows_;
  LayerRouters& routers_;
  std::vector<RoutedAdapter> adapters_;  // in the order of their experts
  int32_t experts_ = 0;                  // of all of them
  int32_t choices_ = 0;                  // most of a row
  std::vector<int32_t> chosen_;          // [Q, choices]
  std::vector<float> weights_;           // [Q, choices]
  std::vector<int64_t> group_of_;        // [Q]
};

}  // namespace

std::shared_ptr<RoutedRows> DealRows(const RowSegments& rows, LayerRouters& routers) {
  return Dealer(rows, routers).Deal();
}

}  // namespace lorad
