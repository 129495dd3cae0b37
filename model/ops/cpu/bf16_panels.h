#pragma once

#include <cstdint>

#include "model/ops/cpu/panel_kernels.h"

namespace lorad::cpu {

// Products with panels of bf16 by the processor's own instruction (where HasBf16Products).

void PanelDotBf16Products(const PanelDotArgs& args, uint16_t* y);
void AddPanelDotBf16Products(const PanelDotArgs& args, float* y);

// Scores of queries against the keys of one KV block, which are a panel (key_panels.h): 16 tokens in place of the
// columns.
//
//   scores[i, t] = sum over w of the two products of word w of query i and of key t
//
// q [queries, words], keys [words, 16], words of two bf16. Each score is summed in one order that depends on `words`
// alone.
struct Bf16ScoreArgs {
  const uint16_t* q;
  int64_t queries;
  int64_t words;
  const uint16_t* keys;
  int64_t score_stride;
};
void ScoreBf16Products(const Bf16ScoreArgs& args, float* scores);

}  // namespace lorad::cpu
