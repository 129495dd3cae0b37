#include "model/ops/autograd/log_probability.h"

#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include <ATen/ops/empty.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/log_softmax.h>

#include "model/base/check.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu/row_kernels.h"

namespace lorad {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct LogProbabilityFunction : torch::autograd::Function<LogProbabilityFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& logits, const at::Tensor& targets) {
    const int64_t rows = logits.size(0), n = logits.size(1);
    at::Tensor logprobs = at::empty({rows}, logits.options()), shifts = at::empty({rows}, logits.options());
    const float* const from = logits.const_data_ptr<float>();
    const int64_t* const target_of = targets.const_data_ptr<int64_t>();
    float* const to = logprobs.mutable_data_ptr<float>();
    float* const shift_of = shifts.mutable_data_ptr<float>();  // log of the sum of exponentials
    cpu::ParallelFor(rows, 1, [&](int64_t r, int64_t end) {
      for (; r < end; ++r) {
        const float* const row = from + r * n;
        const float max = cpu::MaxOf(row, n);
        shift_of[r] = max + static_cast<float>(std::log(cpu::ExpRow(row, n, max, /*factor=*/1.0f, nullptr)));
        to[r] = row[target_of[r]] - shift_of[r];
      }
    });
    context->save_for_backward({logits, shifts, targets});
    return logprobs;
  }

  // g (one-hot - softmax)
  static variable_list backward(AutogradContext* context, const variable_list& g) {
    const variable_list saved = context->get_saved_variables();
    at::Tensor gradient = saved[0].detach();
    const at::Tensor of_rows = g[0].contiguous();
    const int64_t rows = gradient.size(0), n = gradient.size(1);
    float* const values = gradient.mutable_data_ptr<float>();
    const float* const shift_of = saved[1].const_data_ptr<float>();
    const int64_t* const target_of = saved[2].const_data_ptr<int64_t>();
    const float* const factors = of_rows.const_data_ptr<float>();
    cpu::ParallelFor(rows, 1, [&](int64_t r, int64_t end) {
      for (; r < end; ++r) {
        float* const row = values + r * n;
        cpu::ExpRow(row, n, shift_of[r], /*factor=*/1.0f, row);
        for (int64_t i = 0; i < n; ++i) row[i] *= -factors[r];
        row[target_of[r]] += factors[r];
      }
    });
    return {gradient, at::Tensor()};
  }
};

}  // namespace

at::Tensor LogProbabilities(const at::Tensor& logits, const at::Tensor& targets) {
  LORAD_CHECK_EQ(logits.size(0), targets.numel());
  if (logits.is_cpu() && logits.is_contiguous()) return LogProbabilityFunction::apply(logits, targets.contiguous());
  return at::gather(at::log_softmax(logits, 1), 1, targets.unsqueeze(1)).squeeze(1).contiguous();
}

}  // namespace lorad
