#pragma once

#include <cstdint>

namespace lorad {

// What goes to a device and comes back where it draws tokens (draw_rows.h). Torch-free, read by kernels.

// What bias, bans and penalties make of one logit, in this order; a ban is a bias of -infinity:
//   l += bias;   l = l > 0 ? l / repetition : l * repetition;   l -= penalty
struct LogitEdit {
  int32_t id = 0;
  float bias = 0.0f;
  float repetition = 1.0f;
  float penalty = 0.0f;
};

struct DrawRow {
  int64_t logit_row = 0;
  double uniform = 0.0;              // [0, 1)
  int32_t vocab_size = 0;            // the first logits, to choose from
  float inverse_temperature = 0.0f;  // 0: the largest, of equals the lowest id
  int32_t top_k = 0;                 // 0: all
  float top_p = 1.0f;                // 1: all
  float min_p = 0.0f;
  int32_t top = -1;  // alternatives by log-probability; -1: nor the token's own
  int32_t first_edit = 0, edits = 0;
};

struct DrawnRow {
  int32_t token;     // -1: one of the largest is not finite
  float model_max;   // the largest logit; NaN if any is
  float edited_max;  // the largest after the edits
  float logprob;     // of the token, by the logits as they were; where top >= 0
};

struct DrawnLogprob {
  int32_t token;
  float logprob;
};

// Stands for the token of the n-th draw of a step in that step's successor, among its ids (put_drawn_tokens.h).
inline constexpr int32_t kTokenOfFirstDraw = -2;
constexpr int32_t TokenOfDraw(int64_t n) { return static_cast<int32_t>(kTokenOfFirstDraw - n); }

// Weights are summed as integers of 44 bits; as many of them stay below 2^63.
inline constexpr int64_t kMostDrawnLogits = int64_t{1} << 19;

constexpr int64_t DrawnBytes(int64_t rows, int64_t most) {
  return rows * static_cast<int64_t>(sizeof(DrawnRow)) + rows * most * static_cast<int64_t>(sizeof(DrawnLogprob));
}

}  // namespace lorad
