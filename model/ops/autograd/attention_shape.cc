#include "model/ops/autograd/attention_shape.h"

#include <torch/csrc/autograd/custom_function.h>

namespace lorad {

AttentionShape AttentionShape::Of(const SequenceAttentionArgs& args) {
  return {.heads = args.q.size(1),
          .kv_heads = args.k.size(1),
          .dim = args.q.size(2),
          .window_tokens = args.window_tokens,
          .scale = static_cast<float>(args.scale),
          .softcap = static_cast<float>(args.softcap),
          .starts = {args.starts.begin(), args.starts.end()}};
}

void AttentionShape::Save(torch::autograd::AutogradContext* context) const {
  context->saved_data["heads"] = heads;
  context->saved_data["kv_heads"] = kv_heads;
  context->saved_data["dim"] = dim;
  context->saved_data["window_tokens"] = window_tokens;
  context->saved_data["scale"] = static_cast<double>(scale);
  context->saved_data["softcap"] = static_cast<double>(softcap);
  context->saved_data["starts"] = starts;
}

AttentionShape AttentionShape::Saved(torch::autograd::AutogradContext* context) {
  auto& saved = context->saved_data;
  return {.heads = saved["heads"].toInt(),
          .kv_heads = saved["kv_heads"].toInt(),
          .dim = saved["dim"].toInt(),
          .window_tokens = saved["window_tokens"].toInt(),
          .scale = static_cast<float>(saved["scale"].toDouble()),
          .softcap = static_cast<float>(saved["softcap"].toDouble()),
          .starts = saved["starts"].toIntVector()};
}

}  // namespace lorad
