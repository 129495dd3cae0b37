#include "adapters/kinds/initial_pair.h"

#include <Eigen/Eigenvalues>
#include <Eigen/QR>
#include <Spectra/contrib/PartialSVDSolver.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/float_convert.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// P = left right.
struct Removed {
  Matrix left;   // [out, rank]
  Matrix right;  // [rank, in]
};

Matrix AsMatrix(DType dtype, const std::byte* data, int64_t rows, int64_t columns) {
  std::vector<float> values(static_cast<size_t>(rows * columns));
  ToF32(dtype, data, rows * columns, values.data());
  using F32 = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  return Eigen::Map<const F32>(values.data(), rows, columns).cast<double>();
}

HostTensor AsTensor(const Matrix& matrix) {
  auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(matrix.size()) * sizeof(float));
  const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> values = matrix.cast<float>();
  std::memcpy(bytes->data(), values.data(), bytes->size());
  return {.dtype = DType::kF32, .shape = {matrix.rows(), matrix.cols()}, .bytes = std::move(bytes)};
}

absl::StatusOr<Removed> LargestSingularValues(const Matrix& weight, int64_t rank) {
  // Lanczos vectors beyond those wanted make it converge; a weight without room for them is decomposed whole.
  const int64_t vectors = 2 * rank + 20;
  if (vectors <= std::min(weight.rows(), weight.cols())) {
    constexpr int64_t kMaxRestarts = 2000;
    constexpr double kTolerance = 1e-10;
    Spectra::PartialSVDSolver<Matrix> solver(weight, rank, vectors);
    if (solver.compute(kMaxRestarts, kTolerance) == rank) {
      const Matrix left = solver.matrix_U(rank) * solver.singular_values().asDiagonal();
      return Removed{left, solver.matrix_V(rank).transpose()};
    }
  }
  // The singular vectors of the shorter side; W times their projection is the same approximation.
  const bool of_rows = weight.rows() <= weight.cols();
  const Matrix products = of_rows ? Matrix(weight * weight.transpose()) : Matrix(weight.transpose() * weight);
  const Eigen::SelfAdjointEigenSolver<Matrix> solver(products);
  if (solver.info() != Eigen::Success) {
    return absl::InternalError("singular values of the base's weight: no convergence");
  }
  const Matrix largest = solver.eigenvectors().rightCols(rank);  // they ascend
  if (of_rows) return Removed{largest, largest.transpose() * weight};
  return Removed{weight * largest, largest.transpose()};
}

Removed FirstColumns(const Matrix& weight, int64_t rank, double scale) {
  const Eigen::HouseholderQR<Matrix> qr(weight.leftCols(rank));
  const Matrix q = qr.householderQ() * Matrix::Identity(weight.rows(), rank);
  return {scale * q, q.transpose() * weight};
}

}  // namespace

absl::Status TakeInitialPairOff(const BaseTable& weight, PeftInit init, ImageSlot* slot) {
  const int64_t rank = slot->rank;
  const double scale = slot->scale;
  if (rank > std::min(weight.rows, weight.columns) || !(scale > 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "adapter_config.json: init_lora_weights: rank: ", rank, "; scale: ", scale,
        "; a pair made of the base's weight has a rank of at most: ", std::min(weight.rows, weight.columns),
        ", and a scale above 0"));
  }
  const Matrix w = AsMatrix(weight.dtype, weight.data, weight.rows, weight.columns);
  Removed removed;
  if (init == PeftInit::kPissa) {
    ASSIGN_OR_RETURN(removed, LargestSingularValues(w, rank));
  } else {
    removed = FirstColumns(w, rank, scale);
  }
  Matrix a(2 * rank, weight.columns);
  a << AsMatrix(slot->a.dtype, slot->a.data(), rank, weight.columns), removed.right;
  Matrix b(weight.rows, 2 * rank);
  b << AsMatrix(slot->b.dtype, slot->b.data(), weight.rows, rank), -removed.left / scale;
  slot->a = AsTensor(a);
  slot->b = AsTensor(b);
  slot->rank = static_cast<int32_t>(2 * rank);
  return absl::OkStatus();
}

}  // namespace lorad
