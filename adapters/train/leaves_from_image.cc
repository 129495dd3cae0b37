#include <algorithm>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include "absl/strings/str_cat.h"
#include "adapters/float_convert.h"
#include "adapters/train/in_device_turn.h"
#include "adapters/train/leaves.h"
#include "adapters/train/routed_leaves.h"
#include "model/base/guarded.h"
#include "model/base/status_macros.h"
#include "model/device_step.h"

// Leaves that begin from an adapter's weights.
namespace lorad {
namespace {

at::Tensor InF32(const HostTensor& from) {
  at::Tensor wide = at::empty(from.shape, at::TensorOptions().dtype(at::kFloat));
  ToF32(from.dtype, from.data(), from.elements(), wide.mutable_data_ptr<float>());
  return wide;
}

absl::Status OtherParts(const std::string& path, const char* which) {
  return absl::UnimplementedError(
      absl::StrCat("init_adapter: ", path, ": has other parts than adapter.kind trains: ", which));
}

absl::Status CopyInto(const std::string& path, const HostTensor& from, at::Tensor to) {
  if (from.present() != to.defined()) return OtherParts(path, "pair, magnitude or bias");
  if (!to.defined()) return absl::OkStatus();
  if (from.elements() != to.numel()) {
    return absl::InvalidArgumentError(absl::StrCat("init_adapter: ", path, ": elements: ", from.elements(),
                                                   "; limit: ", to.numel(), ", as the spec's rank says"));
  }
  Send(InF32(from).view(to.sizes()), to);
  return absl::OkStatus();
}

absl::Status CopyNorm(const ImageSlot& slot, LeafModule* module) {
  const at::Tensor rows = InF32(slot.rows);
  at::Tensor weight = module->weight, bias = module->bias;
  if (weight.defined()) weight.copy_(rows[0]);
  if (bias.defined() && rows.size(0) > 1) bias.copy_(rows[1]);
  return absl::OkStatus();
}

absl::Status CopyRows(const ImageSlot& slot, LeafModule* module) {
  const std::vector<int64_t> ids(slot.row_ids.begin(), slot.row_ids.end());
  if (module->weight.defined()) {
    at::Tensor weight = module->weight;
    if (ids.empty() ? slot.rows.shape[0] != weight.size(0) : ids.back() >= weight.size(0)) {
      return OtherParts(module->path, "tokens of its own");
    }
    if (ids.empty()) {
      Send(InF32(slot.rows), weight);
    } else {
      const at::Device device = weight.device();
      weight.index_copy_(0, OnDevice(device, at::tensor(ids)), OnDevice(device, InF32(slot.rows)));
    }
    return absl::OkStatus();
  }
  if (!module->token_rows.defined() || !module->token_ids.cpu().equal(at::tensor(ids))) {
    return OtherParts(module->path, "rows of other tokens");
  }
  Send(InF32(slot.rows), module->token_rows);
  return absl::OkStatus();
}

absl::Status CopySlot(const ImageSlot& slot, LeafModule* module) {
  if (slot.delta_bias.present() || slot.router.present() || slot.experts > 1) {
    return OtherParts(module->path, "lora_bias or experts");
  }
  RETURN_IF_ERROR(CopyInto(module->path, slot.a, module->a));
  RETURN_IF_ERROR(CopyInto(module->path, slot.b, module->b));
  RETURN_IF_ERROR(CopyInto(module->path, slot.magnitude, module->magnitude));
  if (slot.rows.present() && IsNorm(slot.site)) return CopyNorm(slot, module);
  if (slot.bias.present()) RETURN_IF_ERROR(CopyInto(module->path, slot.bias, module->bias));
  return slot.rows.present() ? CopyRows(slot, module) : absl::OkStatus();
}

}  // namespace

absl::Status AdapterLeaves::CopyFrom(const AdapterImage& image) {
  if (routed_.has_value()) {
    RETURN_IF_ERROR(CopyRoutedLeaves(image, &modules_));
    return UpdateNormsInTurns();
  }
  const at::NoGradGuard frozen;
  if (!image.invocation_tokens.empty()) {
    return absl::UnimplementedError("init_adapter: an aLoRA, active from its invocation on; training knows no such");
  }
  size_t used = 0;
  for (LeafModule& module : modules_) {
    const auto slot = std::find_if(image.slots.begin(), image.slots.end(), [&](const ImageSlot& s) {
      return s.site == module.site && s.layer == module.layer;
    });
    if (slot != image.slots.end()) {
      RETURN_IF_ERROR(InDeviceTurn(DeviceOf(module), [&] { return CopySlot(*slot, &module); }));
      ++used;
    } else if (module.a.defined()) {
      return absl::InvalidArgumentError(
          absl::StrCat("init_adapter: has no weights for ", module.path, ", which adapter.targets names"));
    }
  }
  if (used != image.slots.size()) {
    return absl::InvalidArgumentError(absl::StrCat("init_adapter: modules: ", image.slots.size(), "; limit: ", used,
                                                   ", those that adapter.targets names"));
  }
  return UpdateNormsInTurns();
}

}  // namespace lorad
