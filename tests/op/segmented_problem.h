#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "adapters/ops/segmented_gemm.h"
#include "tests/op/op_testing.h"

namespace lorad {

struct PartShape {
  int64_t first_column;
  int64_t columns;
};
struct Segment {
  int32_t rows;
  std::vector<SlotTerm> terms;
};
struct Shape {
  int64_t in;
  std::vector<PartShape> parts;
  std::vector<int32_t> ranks;  // by slot, the same for all parts unless `part_ranks` says otherwise
  std::vector<Segment> segments;
  std::vector<std::vector<int32_t>> part_ranks = {};  // [part][slot]
};

inline RowSegments SegmentsOf(const std::vector<Segment>& segments) {
  RowSegments rows;
  for (const Segment& s : segments) {
    rows.starts.push_back(rows.starts.back() + s.rows);
    rows.terms.insert(rows.terms.end(), s.terms.begin(), s.terms.end());
    rows.term_starts.push_back(static_cast<int32_t>(rows.terms.size()));
  }
  return rows;
}

// As adapters/dora.h defines the three vectors.
inline double FactorOf(const float* dora, int64_t columns, int64_t c, double w) {
  return dora[c] / std::sqrt(1.0 + (w - 1.0) * dora[columns + c] + (w * w - 1.0) * dora[2 * columns + c]);
}

// A call of SegmentedGemm with random numbers, and what it is to give. Owns what the call needs.
struct Problem {
  at::ScalarType dtype;
  Shape shape;
  RowSegments rows;
  at::Tensor x, y;
  std::vector<std::vector<at::Tensor>> a, b_t;  // [part][slot]
  std::vector<std::vector<SlotWeights>> slots;  // [part][slot]
  std::deque<std::vector<float>> vectors;       // what slots point to beside the pairs

  Problem(at::ScalarType dtype, Shape s, uint64_t seed)
      : dtype(dtype), shape(std::move(s)), rows(SegmentsOf(shape.segments)) {
    Numbers numbers(seed);
    int64_t columns = 0;
    for (const PartShape& part : shape.parts) columns = std::max(columns, part.first_column + part.columns);
    x = Random(dtype, {rows.rows(), shape.in}, numbers);
    y = Random(dtype, {rows.rows(), columns}, numbers);
    for (size_t p = 0; p < shape.parts.size(); ++p) {
      a.emplace_back();
      b_t.emplace_back();
      slots.emplace_back();
      for (size_t s = 0; s < shape.ranks.size(); ++s) {
        const int32_t rank = shape.part_ranks.empty() ? shape.ranks[s] : shape.part_ranks[p][s];
        const float size = 1.0f / std::sqrt(static_cast<float>(std::max(1, rank)));
        a[p].push_back(Random(dtype, {rank, shape.in}, numbers, 1.0f / std::sqrt(static_cast<float>(shape.in))));
        b_t[p].push_back(Random(dtype, {rank, shape.parts[p].columns}, numbers, size));
        slots[p].push_back({static_cast<const std::byte*>(a[p][s].const_data_ptr()),
                            static_cast<const std::byte*>(b_t[p][s].const_data_ptr()), rank,
                            numbers.Uniform(0.5f, 2.0f)});
      }
    }
  }

  // Gives the slot DoRA's terms and the biases that are asked for.
  void AddVectors(size_t slot, bool dora, bool delta_bias, bool bias) {
    Numbers numbers(slot + 77);
    for (size_t p = 0; p < shape.parts.size(); ++p) {
      const auto columns = static_cast<size_t>(shape.parts[p].columns);
      const auto draw = [&](size_t count, float low, float high) {
        vectors.emplace_back(count);
        for (float& value : vectors.back()) value = numbers.Uniform(low, high);
        return vectors.back().data();
      };
      if (dora) slots[p][slot].dora = draw(3 * columns, 0.1f, 0.4f);
      if (delta_bias) slots[p][slot].delta_bias = draw(columns, -1.0f, 1.0f);
      if (bias) slots[p][slot].bias = draw(columns, -1.0f, 1.0f);
    }
  }

  absl::Status Run() { return Run(x, y, rows); }
  absl::Status Run(const at::Tensor& on_x, at::Tensor& on_y, const RowSegments& on_rows) {
    std::vector<SegmentedGemmPart> parts;
    for (size_t p = 0; p < shape.parts.size(); ++p) {
      parts.push_back({slots[p].data(), shape.parts[p].first_column, shape.parts[p].columns});
    }
    return SegmentedGemm({on_x, on_y, parts, static_cast<int32_t>(shape.ranks.size()), on_rows});
  }

  // The bias that is added with term t: the group's last one, with the last term that touches the part.
  const float* BiasAfter(int64_t g, int32_t t, size_t p) const {
    const float* bias = nullptr;
    for (int32_t i = rows.term_starts[g]; i < rows.term_starts[g + 1]; ++i) {
      const SlotWeights& w = slots[p][rows.terms[i].slot];
      if (i > t && w.adds()) return nullptr;
      if (w.bias != nullptr) bias = w.bias;
    }
    return bias;
  }

  // What the contract says, one row and one column at a time.
  std::vector<double> Expected() const {
    const int64_t columns = y.size(1);
    std::vector<double> out(static_cast<size_t>(y.numel()));
    for (int64_t i = 0; i < y.numel(); ++i) out[i] = At(y, i);
    for (int64_t g = 0; g < rows.groups(); ++g) {
      for (int64_t r = rows.starts[g]; r < rows.starts[g + 1]; ++r) {
        for (int32_t t = rows.term_starts[g]; t < rows.term_starts[g + 1]; ++t) {
          const SlotTerm& term = rows.terms[t];
          for (size_t p = 0; p < shape.parts.size(); ++p) {
            const SlotWeights& w = slots[p][term.slot];
            std::vector<float> h(w.rank);
            for (int32_t j = 0; j < w.rank; ++j)
              for (int64_t k = 0; k < shape.in; ++k)
                h[j] += At(x, r * shape.in + k) * At(a[p][term.slot], j * shape.in + k);
            const float* bias = BiasAfter(g, t, p);
            for (int64_t c = 0; w.adds() && c < shape.parts[p].columns; ++c) {
              float sum = w.delta_bias == nullptr ? 0.0f : w.delta_bias[c];
              for (int32_t j = 0; j < w.rank; ++j) sum += h[j] * At(b_t[p][term.slot], j * shape.parts[p].columns + c);
              double& v = out[r * columns + shape.parts[p].first_column + c];
              const double factor = w.dora == nullptr ? 1.0 : FactorOf(w.dora, shape.parts[p].columns, c, term.scale);
              v = RoundTo(dtype, static_cast<float>(factor * (v + term.scale * w.scale * sum) +
                                                    (bias == nullptr ? 0.0f : bias[c])));
            }
          }
        }
      }
    }
    return out;
  }
};

}  // namespace lorad
