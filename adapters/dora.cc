#include "adapters/dora.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "adapters/float_convert.h"
#include "adapters/ops/cpu/expand_kernels.h"
#include "model/base/check.h"
#include "model/ops/cpu/dot_kernels.h"

namespace lorad {
namespace {

constexpr int64_t kBlockRows = 64;  // of the base weight, as f32 in cache

std::vector<float> Floats(const HostTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  ToF32(tensor.dtype, tensor.data(), tensor.elements(), values.data());
  return values;
}

// What needs the base weight, per output row.
struct WithWeight {
  std::vector<double> squares;  // [out], c0
  std::vector<float> shrunk;    // [out, rank], W A^T
};

// Visits `weight` some rows at a time: fn(first row, rows, values [rows, columns]).
template <typename Fn>
void ForEachBlock(const BaseTable& weight, const Fn& fn) {
  std::vector<float> block(static_cast<size_t>(kBlockRows * weight.columns));
  for (int64_t row = 0; row < weight.rows; row += kBlockRows) {
    const int64_t rows = std::min(kBlockRows, weight.rows - row);
    ToF32(weight.dtype, weight.data + row * weight.columns * SizeBytes(weight.dtype), rows * weight.columns,
          block.data());
    fn(row, rows, block.data());
  }
}

WithWeight OfLinear(const BaseTable& weight, const std::vector<float>& a, int64_t rank) {
  const int64_t in = weight.columns;
  WithWeight result{std::vector<double>(static_cast<size_t>(weight.rows)),
                    std::vector<float>(static_cast<size_t>(weight.rows * rank))};
  const int64_t stride = cpu::PackedFloats(in);
  std::vector<float> packed(static_cast<size_t>(kBlockRows * stride));
  ForEachBlock(weight, [&](int64_t first, int64_t rows, const float* w) {
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0.0;
      for (int64_t k = 0; k < in; ++k) sum += static_cast<double>(w[r * in + k]) * w[r * in + k];
      result.squares[static_cast<size_t>(first + r)] = sum;
    }
    cpu::PackTiles(w, in, rows, in, 0, cpu::RowTiles(rows), packed.data(), stride);
    cpu::Dot({.x = packed.data(),
              .x_stride = stride,
              .rows = rows,
              .w_stride = in,
              .columns = rank,
              .in = in,
              .y_stride = rank},
             a.data(), result.shrunk.data() + first * rank);
  });
  return result;
}

// The same of weight^T: weight [V, out], a [rank, V].
WithWeight OfEmbedding(const BaseTable& weight, const std::vector<float>& a, int64_t rank) {
  const int64_t out = weight.columns;
  WithWeight result{std::vector<double>(static_cast<size_t>(out)), std::vector<float>(static_cast<size_t>(out * rank))};
  std::vector<float> sums(static_cast<size_t>(rank * out));
  ForEachBlock(weight, [&](int64_t first, int64_t rows, const float* w) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < out; ++j) {
        result.squares[static_cast<size_t>(j)] += static_cast<double>(w[r * out + j]) * w[r * out + j];
      }
    }
    cpu::Expand({.h = a.data() + first,
                 .h_stride = weight.rows,
                 .rows = rank,
                 .rank = rows,
                 .b_stride = out,
                 .columns = out,
                 .y_stride = out,
                 .scale = 1.0f},
                w, sums.data());
  });
  for (int64_t j = 0; j < out; ++j) {
    for (int64_t r = 0; r < rank; ++r) result.shrunk[static_cast<size_t>(j * rank + r)] = sums[r * out + j];
  }
  return result;
}

// A A^T [rank, rank].
std::vector<double> Gram(const std::vector<float>& a, int64_t rank, int64_t in) {
  std::vector<double> gram(static_cast<size_t>(rank * rank));
  for (int64_t i = 0; i < rank; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double sum = 0.0;
      for (int64_t k = 0; k < in; ++k) sum += static_cast<double>(a[i * in + k]) * a[j * in + k];
      gram[static_cast<size_t>(i * rank + j)] = gram[static_cast<size_t>(j * rank + i)] = sum;
    }
  }
  return gram;
}

}  // namespace

absl::StatusOr<DoraTerms> ComputeDoraTerms(const BaseTable& weight, bool embedding, const HostTensor& a,
                                           const HostTensor& b, const HostTensor& magnitude, float scale) {
  const int64_t rank = a.shape[0];
  const int64_t out = embedding ? weight.columns : weight.rows;
  LORAD_CHECK_EQ(a.shape[1], embedding ? weight.rows : weight.columns);
  LORAD_CHECK_EQ(b.shape[0], out);
  LORAD_CHECK_EQ(magnitude.elements(), out);
  const std::vector<float> a_values = Floats(a), b_values = Floats(b), m = Floats(magnitude);
  const WithWeight with = embedding ? OfEmbedding(weight, a_values, rank) : OfLinear(weight, a_values, rank);
  const std::vector<double> gram = Gram(a_values, rank, a.shape[1]);
  const double s = scale;
  DoraTerms terms;
  terms.values.resize(static_cast<size_t>(3 * out));
  for (int64_t j = 0; j < out; ++j) {
    const float* b_row = b_values.data() + j * rank;
    double c1 = 0.0, c2 = 0.0;
    for (int64_t r = 0; r < rank; ++r) {
      c1 += static_cast<double>(b_row[r]) * with.shrunk[static_cast<size_t>(j * rank + r)];
      double row = 0.0;
      for (int64_t q = 0; q < rank; ++q) row += gram[static_cast<size_t>(r * rank + q)] * b_row[q];
      c2 += b_row[r] * row;
    }
    const double square = with.squares[static_cast<size_t>(j)] + 2.0 * s * c1 + s * s * c2;
    const double factor = m[static_cast<size_t>(j)] / std::sqrt(square);
    if (!(square > 0.0) || !std::isfinite(static_cast<float>(factor))) {
      return absl::DataLossError(absl::StrCat("the norm of the adapted weight's row ", j, " is zero, its magnitude ",
                                              m[static_cast<size_t>(j)], "; DoRA's factor is not a number"));
    }
    terms.values[static_cast<size_t>(j)] = static_cast<float>(factor);
    terms.values[static_cast<size_t>(out + j)] = static_cast<float>(2.0 * s * c1 / square);
    terms.values[static_cast<size_t>(2 * out + j)] = static_cast<float>(s * s * c2 / square);
  }
  return terms;
}

void DoraFactors(const float* terms, int64_t out, float w, int64_t first_column, int64_t columns, float* factors) {
  const float* f = terms + first_column;
  const float* u = terms + out + first_column;
  const float* v = terms + 2 * out + first_column;
  for (int64_t c = 0; c < columns; ++c) {
    const float square = 1.0f + (w - 1.0f) * u[c] + (w * w - 1.0f) * v[c];
    factors[c] = f[c] / std::sqrt(std::max(square, 1e-12f));  // a scale may bring a norm to zero
  }
}

}  // namespace lorad
