#include "model/ops/cuda/quantized_tiles.cuh"

#include "model/ops/cuda/launch.h"

namespace lorad::cuda {
namespace {

int64_t WidthOf(const QuantizedColumns& weight) {
  return (weight.columns + kPanelColumns - 1) / kPanelColumns * kPanelColumns;
}

template <typename Tile, int kRows>
cudaError_t LaunchTiles(const QuantizedColumns& weight, int64_t rows, const Rows<const Bf16>& x, const TileResults& to,
                        cudaStream_t stream) {
  const int64_t tiles = (rows + kRows - 1) / kRows * ((weight.columns + kTileColumns - 1) / kTileColumns);
  return Launch(&QuantizedTilesKernel<Tile, kRows>, Grid(tiles, SlicesOfInputs(weight.in, weight.columns)),
                kTileThreads, stream, weight, rows, x, to);
}

template <typename Tile>
cudaError_t LaunchRows(const QuantizedColumns& weight, int64_t rows, const Rows<const Bf16>& x, const TileResults& to,
                       cudaStream_t stream) {
  if (rows > 16) return LaunchTiles<Tile, 32>(weight, rows, x, to, stream);
  if (rows > 8) return LaunchTiles<Tile, 16>(weight, rows, x, to, stream);
  return LaunchTiles<Tile, 8>(weight, rows, x, to, stream);
}

}  // namespace

int64_t QuantizedTilesScratch(const QuantizedColumns& weight, int64_t rows) {
  const int64_t slices = SlicesOfInputs(weight.in, weight.columns);
  return slices == 1 ? 0 : slices * rows * WidthOf(weight);
}

cudaError_t LaunchQuantizedTiles(const QuantizedColumns& weight, int64_t rows, const Rows<const Bf16>& x,
                                 const Rows<Bf16>& y, float* scratch, cudaStream_t stream) {
  if (rows > kMostTiledRows) return cudaErrorInvalidValue;
  const int64_t slices = SlicesOfInputs(weight.in, weight.columns);
  const TileResults to = {y, slices == 1 ? nullptr : scratch, WidthOf(weight)};
  cudaError_t error = cudaSuccess;
  if (weight.quantization == Quantization::kInt8) {
    error = LaunchRows<Int8Tile>(weight, rows, x, to, stream);
  } else if (weight.quantization == Quantization::kInt4) {
    error = LaunchRows<Int4Tile>(weight, rows, x, to, stream);
  } else {
    error = LaunchRows<Fp8Tile>(weight, rows, x, to, stream);
  }
  if (error != cudaSuccess || slices == 1) return error;
  const dim3 grid = Grid((weight.columns + kAddPartsThreads - 1) / kAddPartsThreads, rows);
  return Launch(&AddPartsKernel, grid, kAddPartsThreads, stream, to, rows, weight.columns, static_cast<int>(slices));
}

}  // namespace lorad::cuda
