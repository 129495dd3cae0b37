#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/train/example.h"

namespace lorad {

// The endless sequence of epochs over some examples, each epoch in an order of its own. An entry is an example, or
// several that are packed.
class ExampleEntries final {
 public:
  // In the file's order where it is not to be shuffled.
  ExampleEntries(ExampleSource examples, bool shuffle, uint64_t seed);

  // The entry at a place of the sequence, from 0 on. Errors: the source's.
  absl::StatusOr<std::vector<Example>> At(int64_t index) const;

 private:
  const ExampleSource examples_;
  const bool shuffle_;
  const uint64_t seed_;
};

}  // namespace lorad
