#pragma once

#include <cstdint>

namespace lorad {

// One step of AdamW over `count` numbers, in f32 and in the order of torch's single-tensor form (torch.optim.AdamW).
// Shares the numbers among the compute team.
struct AdamWStep {
  float gradient_factor;  // clipping
  float decayed;          // 1 - learning rate * weight decay
  float new_of_first;     // 1 - beta1
  float beta2;
  float new_of_second;  // 1 - beta2, not of the rounded beta2
  float root;           // sqrt(1 - beta2^step)
  float epsilon;
  float step_size;  // learning rate / (1 - beta1^step)
};
void UpdateAdamW(const AdamWStep& step, const float* gradient, int64_t count, float* weight, float* first,
                 float* second);

// Of f32 numbers, summed in f64.
double SumOfSquares(const float* values, int64_t count);

}  // namespace lorad
