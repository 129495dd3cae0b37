#include "adapters/train/routed_leaves.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "absl/strings/str_cat.h"
#include "adapters/float_convert.h"
#include "adapters/kinds/tensor_writer.h"
#include "adapters/train/fresh_leaves.h"
#include "adapters/train/in_device_turn.h"
#include "adapters/train/random_order.h"
#include "adapters/train/routed_places.h"
#include "model/base/guarded.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

const at::TensorOptions kLeafOptions = at::TensorOptions().dtype(at::kFloat);

at::Tensor Normal(int64_t rows, int64_t columns, double deviation, uint64_t seed) {
  return at::empty({rows, columns}, kLeafOptions).normal_(0.0, deviation, at::detail::createCPUGenerator(seed));
}

// torch.nn.init.kaiming_uniform_ with a * a = `slope`.
at::Tensor KaimingUniform(int64_t rows, int64_t columns, double slope, uint64_t seed) {
  const double bound = std::sqrt(6.0 / ((1.0 + slope) * static_cast<double>(columns)));
  return at::empty({rows, columns}, kLeafOptions).uniform_(-bound, bound, at::detail::createCPUGenerator(seed));
}

at::Tensor FreshRouter(const RoutedTraining& routed, int64_t in, uint64_t seed) {
  const int64_t experts = routed.moe.experts;
  if (routed.moe.kind == MoeKind::kMixLora) return Normal(experts, in, routed.router_init_range, seed);
  return KaimingUniform(experts, in, routed.router_init_range, seed);
}

LeafModule ModuleAt(const RoutedPlace& place) {
  LeafModule module;
  module.path = module.saved_path = place.path;
  module.site = place.site;
  module.layer = place.layer;
  return module;
}

absl::Status Copy(const std::string& path, const HostTensor& from, at::Tensor to) {
  if (!from.present() || from.shape != std::vector<int64_t>(to.sizes().begin(), to.sizes().end())) {
    return absl::InvalidArgumentError(absl::StrCat("init_adapter: ", path, ": not of the shape that the spec says"));
  }
  const at::Tensor wide = at::empty(to.sizes(), kLeafOptions);
  ToF32(from.dtype, from.data(), from.elements(), wide.mutable_data_ptr<float>());
  to.copy_(wide);
  return absl::OkStatus();
}

absl::Status CopyModule(const ImageSlot& slot, const LeafModule& module) {
  if (module.router.defined()) RETURN_IF_ERROR(Copy(module.path, slot.router, module.router));
  if (!module.a.defined()) return absl::OkStatus();
  const int64_t expert = std::max(0, module.expert);
  const bool has_magnitude = module.magnitude.defined();
  if (slot.rank != module.a.size(0) || slot.magnitude.present() != has_magnitude || expert >= slot.experts) {
    return absl::InvalidArgumentError(absl::StrCat("init_adapter: ", module.path, ": rank: ", slot.rank,
                                                   "; limit: ", module.a.size(0),
                                                   has_magnitude ? ", with" : ", without", " magnitudes"));
  }
  if (has_magnitude) {
    HostTensor magnitude = RowsOf(slot.magnitude, expert, 1);
    magnitude.shape = {magnitude.elements()};
    RETURN_IF_ERROR(Copy(module.path, magnitude, module.magnitude));
  }
  RETURN_IF_ERROR(Copy(module.path, RowsOf(slot.a, expert * slot.rank, slot.rank), module.a));
  return Copy(module.path, ColumnsOf(slot.b, expert * slot.rank, slot.rank), module.b);
}

}  // namespace

absl::StatusOr<std::vector<LeafModule>> MakeRoutedLeaves(const TrainConfig& config, const BaseShape& base,
                                                         const BaseTables& base_tables) {
  ASSIGN_OR_RETURN(const std::vector<RoutedPlace> places, SelectRoutedPlaces(config.routed->moe, base));
  return Guarded([&]() -> absl::StatusOr<std::vector<LeafModule>> {
    std::vector<LeafModule> modules;
    const auto seed = [&] { return MixSeed(config.seed, modules.size()); };
    for (const RoutedPlace& place : places) {
      if (place.routes) {
        LeafModule module = ModuleAt(place);
        module.router = FreshRouter(*config.routed, place.in_features, seed()).set_requires_grad(true);
        modules.push_back(std::move(module));
      }
      for (int32_t pair = 0; pair < place.pairs; ++pair) {
        LeafModule module = ModuleAt(place);
        const int64_t rank = place.rank.rank;
        const bool gaussian = config.init == LeafInit::kGaussian;
        module.scale = place.rank.scale;
        module.a = gaussian ? Normal(rank, place.in_features, 1.0 / static_cast<double>(rank), seed())
                            : KaimingUniform(rank, place.in_features, /*slope=*/5.0, seed());
        module.b = at::zeros({place.out_features, rank}, kLeafOptions);
        module.a.set_requires_grad(true);
        module.b.set_requires_grad(true);
        if (place.rank.dora) RETURN_IF_ERROR(AddMagnitude(base_tables, &module));
        if (place.of_experts) {
          module.expert = pair;
          absl::StrAppend(&module.saved_path, ".experts.", pair);
        }
        modules.push_back(std::move(module));
      }
    }
    return modules;
  });
}

absl::Status CopyRoutedLeaves(const AdapterImage& image, std::vector<LeafModule>* modules) {
  const at::NoGradGuard frozen;
  for (const ImageSlot& slot : image.slots) {
    const auto trained = std::find_if(modules->begin(), modules->end(), [&](const LeafModule& module) {
      return module.site == slot.site && module.layer == slot.layer;
    });
    if (trained != modules->end()) continue;
    return absl::InvalidArgumentError(absl::StrCat("init_adapter: has weights for ", std::string(Name(slot.site)),
                                                   " of layer ", slot.layer, ", which adapter.targets does not name"));
  }
  for (const LeafModule& module : *modules) {
    const auto slot = std::find_if(image.slots.begin(), image.slots.end(), [&](const ImageSlot& s) {
      return s.site == module.site && s.layer == module.layer;
    });
    if (slot == image.slots.end()) {
      return absl::InvalidArgumentError(absl::StrCat("init_adapter: has no weights for ", module.path));
    }
    RETURN_IF_ERROR(InDeviceTurn(DeviceOf(module), [&] { return CopyModule(*slot, module); }));
  }
  return absl::OkStatus();
}

}  // namespace lorad
