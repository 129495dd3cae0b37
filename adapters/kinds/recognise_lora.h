#pragma once

#include "adapters/kinds/kind.h"

namespace lorad {

bool IsLoraConfig(const AdapterConfigJson& config);           // of one or the other:
bool RecognisesLora(const AdapterConfigJson& config);         // PEFT's
bool RecognisesMoePeftLora(const AdapterConfigJson& config);  // nothing that MoE-PEFT's could not say

}  // namespace lorad
