#include "bench/device_llama.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>

#include "model/base/check.h"
#include "model/device_step.h"
#include "scheduler/clock.h"

namespace lorad::bench {
namespace {

const at::Device kDevice(at::kCUDA, 0);

// Seconds of one call, of `times` behind one that is not counted.
template <typename Fn>
double SecondsOf(int times, const Fn& fn) {
  SteadyClock clock;
  fn();
  AwaitDevice(kDevice);
  const int64_t begin_us = clock.NowUs();
  for (int i = 0; i < times; ++i) fn();
  AwaitDevice(kDevice);
  return 1e-6 * static_cast<double>(std::max<int64_t>(1, clock.NowUs() - begin_us)) / times;
}

}  // namespace

DeviceLlama::DeviceLlama(const ModelShape& shape) : shape_(shape), folder_(shape, LlamaFolder::Weights::kNormsAlone) {
  absl::StatusOr<std::unique_ptr<CausalLm>> model =
      CausalLm::Load(folder(), {.dtype = DType::kBF16, .device = kDevice});
  if (!model.ok()) {
    std::fprintf(stderr, "%s: %s\n", shape.name, model.status().ToString().c_str());
    std::exit(1);
  }
  model_ = *std::move(model);
  constexpr double kDeviation = 0.02;  // as bases are before they are trained
  const auto draw = [&](Site site, int layer) {
    const WeightRows weight = model_->WeightOf(site, layer);
    LORAD_CHECK(weight.defined());
    weight.Rows(0, model_->base_shape().Find(site)->out_features).normal_(0.0, kDeviation);  // where it lies
  };
  draw(Site::kEmbedTokens, -1);
  if (!shape.tied) draw(Site::kLmHead, -1);
  for (int layer = 0; layer < shape.layers; ++layer) {
    for (const Site site :
         {Site::kQProj, Site::kKProj, Site::kVProj, Site::kOProj, Site::kGateProj, Site::kUpProj, Site::kDownProj}) {
      draw(site, layer);
    }
  }
  model_->AwaitDevice();
}

int64_t DeviceLlama::step_weight_bytes() const {
  constexpr int64_t kBytes = 2;
  return model_->weight_bytes() - (shape_.tied ? 0 : shape_.vocab * shape_.hidden * kBytes);
}

int64_t DeviceLlama::kv_token_bytes() const { return model_->kv_layout().block_bytes() / kKvBlockTokens; }

double DeviceLlama::PrefillFlops(int64_t prompt_tokens) const {
  const double tokens = static_cast<double>(prompt_tokens), hidden = static_cast<double>(shape_.hidden);
  const double kv = hidden / static_cast<double>(shape_.heads) * static_cast<double>(shape_.kv_heads);
  const double of_layer = hidden * (2 * hidden + 2 * kv + 3 * static_cast<double>(shape_.inner));
  // A token's scores and values, over half of the prompt on average.
  const double attention = 2 * hidden * tokens / 2;
  return 2 * (static_cast<double>(shape_.layers) * tokens * (of_layer + attention) +
              hidden * static_cast<double>(shape_.vocab));
}

DeviceSpeed MeasureDevice(int64_t bytes, int64_t side) {
  constexpr int kTimes = 10;
  const at::TensorOptions options = at::TensorOptions().device(kDevice);
  DeviceSpeed speed = {};
  {
    at::Tensor from = at::empty({bytes / 4}, options.dtype(at::kFloat)), to = at::empty_like(from);
    from.fill_(1.0);
    const double copied = static_cast<double>(2 * bytes) / SecondsOf(kTimes, [&] { to.copy_(from); });
    const double read = static_cast<double>(bytes) / SecondsOf(kTimes, [&] { from.sum(); });
    std::printf("memory: copied at %.0f GB/s (both sides counted), read at %.0f GB/s\n", copied / 1e9, read / 1e9);
    speed.bytes_per_second = std::max(copied, read);
  }
  at::Tensor x = at::empty({side, side}, options.dtype(at::kBFloat16)), w = at::empty_like(x), y = at::empty_like(x);
  x.normal_(0.0, 1.0);
  w.normal_(0.0, 1.0);
  const double flops = 2.0 * static_cast<double>(side) * static_cast<double>(side) * static_cast<double>(side);
  speed.bf16_flops = flops / SecondsOf(kTimes, [&] { at::mm_out(y, x, w.t()); });
  std::printf("bf16 product of %lld: %.1f TFLOP/s\n", static_cast<long long>(side), speed.bf16_flops / 1e12);
  return speed;
}

}  // namespace lorad::bench
