#pragma once

#include "absl/status/statusor.h"
#include "adapters/image.h"
#include "adapters/kinds/peft_config.h"
#include "model/sites.h"

namespace lorad {

// What PEFT makes of targets that mean router and experts as transformers 4 had them, one Linear each: transformers 5
// keeps the experts of Mixtral and Qwen3-MoE in two parameters and the router in one, so that these targets (and
// "all-linear", which always meant them) become target_parameters in every layer. gate and up, now one parameter, get
// twice the rank and twice alpha. Other bases are left as they are.
// Errors: InvalidArgument when only one of gate and up is named.
// Source: peft 0.21.2, _convert_peft_config_moe of utils/transformers_weight_conversion.py.
absl::StatusOr<PeftLoraConfig> ConvertExpertTargets(const PeftLoraConfig& config, const BaseShape& base);

// B [out, rank * experts] of a stack of experts as PEFT has it, the experts' columns taking turns, in the image's
// order. Source: peft 0.21.2, get_delta_weight of lora.layer.ParamWrapper.
HostTensor ExpertsOneAfterTheOther(const HostTensor& b, int64_t experts);

}  // namespace lorad
