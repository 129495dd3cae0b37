#include "adapters/kinds/tensor_reader.h"

#include <algorithm>
#include <utility>

#include "model/base/status_macros.h"

namespace lorad {

absl::Status TensorReader::Read() {
  std::sort(wanted_.begin(), wanted_.end(),
            [](const SafetensorsEntry* x, const SafetensorsEntry* y) { return x->offset_bytes < y->offset_bytes; });
  int64_t total = 0;
  for (const SafetensorsEntry* entry : wanted_) {
    places_[entry] = total;
    total += entry->size_bytes;
  }
  auto buffer = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(total));
  for (size_t i = 0; i < wanted_.size();) {
    if (!wanted_[i]->strides.empty()) {
      RETURN_IF_ERROR(ReadTensor(files_, path_, *wanted_[i], buffer->data() + places_[wanted_[i]]));
      ++i;
      continue;
    }
    const int64_t begin = wanted_[i]->offset_bytes;
    std::byte* const destination = buffer->data() + places_[wanted_[i]];
    int64_t end = begin;
    for (; i < wanted_.size() && wanted_[i]->offset_bytes == end && wanted_[i]->strides.empty(); ++i) {
      end += wanted_[i]->size_bytes;
    }
    RETURN_IF_ERROR(files_.ReadAt(path_, begin, end - begin, destination));
  }
  buffer_ = std::move(buffer);
  return absl::OkStatus();
}

HostTensor TensorReader::Get(const SafetensorsEntry& entry) const {
  return {.dtype = entry.dtype, .shape = entry.shape, .bytes = buffer_, .offset_bytes = places_.at(&entry)};
}

}  // namespace lorad
