#include "model/layers/head.h"

#include <utility>

#include <ATen/ops/add.h>
#include <ATen/ops/div.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/tanh.h>

#include "model/ops/autograd/row_ops.h"

namespace lorad {

HeadLayer::HeadLayer(const ModelConfig& config, const LinearWeight& embed_table, WeightLoader& weights)
    : lm_head_(config.tied_embeddings ? embed_table : weights.LoadWhole(WeightName::kLmHead),
               weights.LoadIfAny(WeightName::kLmHeadBias), {-1, -1, {{Site::kLmHead, 0, config.vocab_size}}}),
      vocab_size_(config.vocab_size),
      softcap_(config.logit_softcap) {
  if (config.final_norm) {
    norm_ = NormLayer::Load(config, Site::kFinalNorm, WeightName::kFinalNorm, WeightName::kFinalNormBias, /*layer=*/-1,
                            weights);
  }
  if (!weights.Has(WeightName::kProjectOut)) return;
  project_out_.emplace(weights.Load(WeightName::kProjectOut), at::Tensor(),
                       SiteGroup{-1, -1, {{Site::kProjectOut, 0, config.embedding_size}}});
}

at::Tensor HeadLayer::Forward(at::Tensor residual, at::Tensor pending, const StepContext& step) const {
  const ForwardBatch& batch = step.batch;
  const int64_t wanted = batch.logit_rows.numel();
  if (wanted == 0) return at::empty({0, vocab_size_}, residual.options().dtype(at::kFloat));
  if (wanted < residual.size(0)) {  // ascending, so as many as rows are all of them
    residual = at::index_select(residual, 0, batch.logit_rows);
    if (pending.defined()) pending = at::index_select(pending, 0, batch.logit_rows);
  }
  at::Tensor x;
  if (!norm_.has_value()) {
    x = pending.defined() ? at::add(residual, pending) : residual;
  } else {
    x = pending.defined() ? norm_->AddAndForward(pending, residual, step.seam, batch.head_rows)
                          : norm_->Forward(residual, step.seam, batch.head_rows);
  }
  if (project_out_.has_value()) x = project_out_->Forward(x, step.seam, batch.head_rows);
  at::Tensor logits = lm_head_.Forward(x, step.seam, batch.head_rows).to(at::kFloat);
  if (softcap_ > 0) {
    logits = NeedsGradient(logits) ? at::mul(at::tanh(at::div(logits, softcap_)), softcap_)
                                   : logits.div_(softcap_).tanh_().mul_(softcap_);
  }
  return logits;
}

WeightRows HeadLayer::WeightOf(Site site) const {
  const WeightRows of_head = lm_head_.WeightOf(site);
  return of_head.defined() || !project_out_.has_value() ? of_head : project_out_->WeightOf(site);
}

}  // namespace lorad
