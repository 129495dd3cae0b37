#include "adapters/train/pair_delta.h"

#include <cstdint>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "adapters/train/random_order.h"
#include "model/device_step.h"
#include "model/ops/pieces.h"

namespace lorad {
namespace {

// What drawing an element and sending it takes, in products of a matmul.
constexpr int64_t kProductsOfDraw = 32;

uint64_t MaskSeed(const MicroBatchPart& own, const LeafModule& module) {
  const uint64_t seed = MixSeed(
      own.dropout_seed, static_cast<uint64_t>(module.layer + 1) * kNumSites + static_cast<uint64_t>(module.site));
  return module.expert < 0 ? seed : MixSeed(seed, static_cast<uint64_t>(module.expert));
}

}  // namespace

double DropoutOf(const MicroBatchPart& own, const LeafModule& module) {
  return module.expert < 0 ? own.dropout : own.expert_dropout;
}

at::Tensor Dropped(const at::Tensor& x, const MicroBatchPart& own, const LeafModule& module) {
  const double dropout = DropoutOf(own, module);
  if (dropout == 0.0) return x;
  // Drawn on the host, so that an adapter drops the same elements on every device: a draw does not depend on the type
  // that keeps it.
  const auto drawn = [&](at::ScalarType dtype) {
    at::Tensor mask = at::empty(x.sizes(), at::TensorOptions().dtype(dtype));
    return mask.bernoulli_(1.0 - dropout, at::detail::createCPUGenerator(MaskSeed(own, module)));
  };
  if (x.is_cpu()) return at::mul(x, drawn(x.scalar_type()).div_(1.0 - dropout));
  BeginPiece(kProductsOfDraw * x.numel());
  const at::Tensor kept = OnDevice(x.device(), drawn(at::kBool));
  const at::Tensor dropped = at::zeros({}, x.options());
  return at::where(kept, at::mul(x, 1.0f / static_cast<float>(1.0 - dropout)), dropped);
}

at::Tensor PairDelta(const at::Tensor& dropped, const LeafModule& module) {
  return at::mul(at::linear(at::linear(dropped, module.a), module.b), module.scale);
}

}  // namespace lorad
