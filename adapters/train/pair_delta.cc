#include "adapters/train/pair_delta.h"

#include <cstdint>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mul.h>

#include "adapters/train/random_order.h"
#include "model/device_step.h"

namespace lorad {
namespace {

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
  // Drawn on the host, so that an adapter drops the same elements on every device.
  at::Tensor mask = at::empty(x.sizes(), at::TensorOptions().dtype(x.scalar_type()));
  mask.bernoulli_(1.0 - dropout, at::detail::createCPUGenerator(MaskSeed(own, module)));
  return at::mul(x, OnDevice(x.device(), mask.div_(1.0 - dropout)));
}

at::Tensor PairDelta(const at::Tensor& dropped, const LeafModule& module) {
  return at::mul(at::linear(at::linear(dropped, module.a), module.b), module.scale);
}

}  // namespace lorad
