#include "model/ops/check_args.h"
#include "model/ops/cuda/row_kernels.h"
#include "model/ops/cuda/tensor_rows.h"
#include "model/ops/cuda_ops.h"

// The operators that make each row of itself.
namespace lorad::cuda {
namespace {

template <typename T, typename Args>
NormedRows<T> NormedRowsOf(const Args& args) {
  NormedRows<T> rows = {args.x.size(0), args.x.size(1), RowsOf<T>(args.x), {}, MutableRowsOf<T>(args.y)};
  if (args.residual != nullptr) rows.residual = MutableRowsOf<T>(*args.residual);
  return rows;
}

}  // namespace

absl::Status RmsNorm(const RmsNormArgs& args) {
  if (args.x.numel() == 0) return absl::OkStatus();
  if (args.x.size(1) > kMostNormWidth) {
    return ArgCheck("RmsNorm").Error("x", absl::StrCat(args.x.size(1), " columns"),
                                     absl::StrCat(kMostNormWidth, " on CUDA"));
  }
  const auto eps = static_cast<float>(args.eps);
  const cudaStream_t stream = StreamOf(args.x);
  return StatusOf("RmsNorm", ForTypeOf(args.x, [&](auto of_rows) {
                    return ForTypeOf(args.weight, [&](auto of_weight) {
                      using T = decltype(of_rows);
                      using W = decltype(of_weight);
                      // Weights are as the rows, or f32.
                      using Weight = std::conditional_t<std::is_same_v<T, float>, float, W>;
                      return LaunchRmsNorm(NormedRowsOf<T>(args), DataOf<Weight>(args.weight), eps, stream);
                    });
                  }));
}

absl::Status LayerNorm(const LayerNormArgs& args) {
  if (args.x.numel() == 0) return absl::OkStatus();
  return StatusOf("LayerNorm", ForTypeOf(args.x, [&](auto of_rows) {
                    using T = decltype(of_rows);
                    return LaunchLayerNorm(NormedRowsOf<T>(args), DataOf<T>(args.weight), DataOf<T>(args.bias),
                                           static_cast<float>(args.eps), StreamOf(args.x));
                  }));
}

absl::Status Activate(const ActivateArgs& args) {
  if (args.y.numel() == 0) return absl::OkStatus();
  return StatusOf(
      "Activate", ForTypeOf(args.x, [&](auto of_rows) {
        using T = decltype(of_rows);
        const ActivatedRows<T> rows = {args.y.size(0), args.y.size(1), RowsOf<T>(args.x), {}, MutableRowsOf<T>(args.y)};
        return LaunchActivate(rows, args.activation, StreamOf(args.x));
      }));
}

absl::Status GatedActivation(const GatedActivationArgs& args) {
  if (args.y.numel() == 0) return absl::OkStatus();
  return StatusOf("GatedActivation", ForTypeOf(args.y, [&](auto of_rows) {
                    using T = decltype(of_rows);
                    const Rows<const T> gate = RowsOf<T>(args.gate_up);
                    const Rows<const T> up = {gate.data + args.y.size(1), gate.stride};
                    const ActivatedRows<T> rows = {args.y.size(0), args.y.size(1), gate, up, MutableRowsOf<T>(args.y)};
                    return LaunchActivate(rows, args.activation, StreamOf(args.y));
                  }));
}

namespace {

// y[r] (+)= table[index[r] + offset]
cudaError_t Gather(const at::Tensor& index, int64_t offset, const at::Tensor& table, bool add, at::Tensor& y) {
  return ForTypeOf(table, [&](auto of_rows) {
    using T = decltype(of_rows);
    const GatheredRows<T> rows = {
        y.size(0),        y.size(1),          index.const_data_ptr<int32_t>(), offset, table.size(0),
        RowsOf<T>(table), MutableRowsOf<T>(y)};
    return LaunchGatherRows(rows, add, StreamOf(y));
  });
}

}  // namespace

absl::Status Embedding(const EmbeddingArgs& args) {
  if (args.y.numel() == 0) return absl::OkStatus();
  return StatusOf("Embedding", Gather(args.ids, 0, args.table.weight(), /*add=*/false, args.y));
}

absl::Status AddPositions(const AddPositionsArgs& args) {
  if (args.y.numel() == 0) return absl::OkStatus();
  return StatusOf("AddPositions", Gather(args.positions, args.offset, args.table, /*add=*/true, args.y));
}

}  // namespace lorad::cuda
