#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "model/adapter_seam.h"
#include "model/row_segments.h"

namespace lorad {

// A step as a captured forward sees its adapters.
struct GraphStep {
  std::string_view eager = {};  // why it must not be captured; empty: it may be
  // What its launches are prepared for, which may be more than it needs: steps with the same can share a graph.
  std::vector<int64_t> features = {};
  std::vector<std::byte> tables = {};  // what they read of the step; as long for the same features and rows
};

// A seam whose launches can be captured and replayed for other steps (model/step_graphs.h): it bakes in sizes alone,
// and reads which adapters the rows have out of tables on the device.
//
// Threads  as AdapterSeam; adapters must not move between Plan and the end of the step.
class GraphSeam : public AdapterSeam {
 public:
  // Of a step with a row for each sequence, padded to `padded_rows`; what kernels read beside the step's tables is
  // brought up to date, by copies on the current stream. Throws as AdapterSeam does.
  virtual GraphStep Plan(const RowSegments& rows, int64_t padded_rows) = 0;
  // From here on launches are those of the last plan and read its tables at `on_device`, on a border of 16 bytes.
  virtual void ReadTablesAt(const std::byte* on_device) = 0;
  // Raised when something that captured launches read has moved: they must not be replayed.
  virtual int64_t generation() const = 0;
};

}  // namespace lorad
