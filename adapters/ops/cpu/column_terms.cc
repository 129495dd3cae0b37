#include "adapters/ops/cpu/column_terms.h"

#include "adapters/dora.h"
#include "model/ops/cpu/parallel.h"

namespace lorad::cpu {

ExpandColumnTerms ColumnTerms(const SlotWeights& weights, const float* bias, int64_t out, const SlotTerm& term,
                              int64_t first_column, int64_t columns) {
  ExpandColumnTerms terms;
  if (weights.delta_bias != nullptr) terms.delta_bias = weights.delta_bias + first_column;
  if (bias != nullptr) terms.bias = bias + first_column;
  if (weights.dora == nullptr) return terms;
  const float* const dora = weights.dora + term.expert * 3 * out;
  terms.factor = dora + first_column;
  if (term.scale != 1.0f) {
    float* const factors = ThreadScratch(Scratch::kColumns, columns);
    DoraFactors(dora, out, term.scale, first_column, columns, factors);
    terms.factor = factors;
  }
  return terms;
}

}  // namespace lorad::cpu
