#pragma once

#include <string>

#include "lorad/v1/finetuning.pb.h"

namespace lorad::adapterctl {

// Reads a FineTuneSpec written as YAML, of which JSON is a part: keys are the proto's. "" or what is wrong with it.
std::string ReadSpecFile(const std::string& path, v1::FineTuneSpec* spec);

}  // namespace lorad::adapterctl
