#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "lorad/v1/finetuning.pb.h"

namespace lorad::adapterctl {

// The flags that say what is trained on: for submit and preview.
struct DataFlags {
  std::string file;  // --inline: read here
};
std::shared_ptr<DataFlags> AddDataFlags(CLI::App* command, v1::DatasetSpec* dataset);
// Reads what --inline names into the spec. False: it cannot be read.
bool ReadInline(const DataFlags& flags, v1::DatasetSpec* dataset);

}  // namespace lorad::adapterctl
