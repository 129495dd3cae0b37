#pragma once

#include <cstdint>
#include <vector>

namespace lorad {

struct SlotTerm {
  int32_t slot;        // index of a resident adapter in the pool's slot table
  float scale;         // on top of the adapter's own; 1 unless a request asks otherwise
  int32_t expert = 0;  // where the slot holds a pair for each expert
};

// Which rows of a matmul use which adapters: rows starts[g]..starts[g+1] use terms[term_starts[g]..term_starts[g+1]];
// no terms = base only. A slot may appear in several segments. Host side, plain data.
struct RowSegments {
  std::vector<int32_t> starts = {0};       // [G+1], starts[0] == 0, never decreasing
  std::vector<int32_t> term_starts = {0};  // [G+1]
  std::vector<SlotTerm> terms;
  std::vector<int32_t> input_rows = {};  // [rows]; which row of x each one reads; empty = its own

  int64_t groups() const { return static_cast<int64_t>(starts.size()) - 1; }
  int64_t rows() const { return starts.back(); }
  bool base_only() const { return terms.empty(); }
};

}  // namespace lorad
