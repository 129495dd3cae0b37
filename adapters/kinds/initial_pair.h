#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "adapters/base_tables.h"
#include "adapters/image.h"
#include "adapters/kinds/peft_config.h"

namespace lorad {

// PiSSA and OLoRA begin with a pair made of the base's weight W, and take it off W:  y = (W - P) x + s B A x. The base
// here keeps W, so the pair becomes one of twice the rank: s B' A' = s B A - P.
//   PiSSA  P = the best approximation of W of that rank: its largest singular values
//   OLoRA  P = s times the projection of W's columns onto the first `rank` of them (Q and R of W, cut)
// slot: rank, scale and the pair as stored; gets A' and B' in f32 and twice the rank. Takes seconds for a large weight.
// Errors: InvalidArgument for a rank above W's sides or a scale of zero or less.
// Source: peft 0.21.2 tuners/lora/layer.py, pissa_init and olora_init. PEFT rounds W - P to the base's type, which is
// not repeated here.
absl::Status TakeInitialPairOff(const BaseTable& weight, PeftInit init, ImageSlot* slot);

}  // namespace lorad
