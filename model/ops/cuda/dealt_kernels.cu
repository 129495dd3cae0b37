#include "model/ops/cuda/dealt_kernels.cuh"

#include "model/base/round_up.h"
#include "model/ops/cuda/launch.h"

namespace lorad::cuda {
namespace {

int64_t ChunksOf(const DealtChoices& choices) { return CeilDiv(choices.rows * choices.k, kDealChunk); }

// (blocks of so many columns, experts that can have rows)
template <typename T>
dim3 GridOf(const DealtProducts<T>& products, int64_t columns_of_block) {
  int64_t blocks = 0;
  for (int p = 0; p < products.num_parts; ++p) blocks += CeilDiv(products.parts[p].columns, columns_of_block);
  return Grid(blocks, std::min(products.experts, products.pairs));
}

template <int R, typename T>
cudaError_t LaunchProducts(const DealtProducts<T>& products, cudaStream_t stream) {
  return Launch(&DealtProductsKernel<T, R>, GridOf(products, kProductWarps), kProductWarps * kWarp, stream, products);
}

template <typename Quad, int R, typename T>
cudaError_t LaunchQuantized(const DealtProducts<T>& products, cudaStream_t stream) {
  return Launch(&DealtQuantizedKernel<Quad, T, R>, GridOf(products, kPanelColumns), kDotWarps * kWarp, stream,
                products);
}

template <typename Quad, typename T>
cudaError_t LaunchQuantizedAs(const DealtProducts<T>& products, cudaStream_t stream) {
  if (products.most_rows > 4) return LaunchQuantized<Quad, 8>(products, stream);
  if (products.most_rows > 1) return LaunchQuantized<Quad, 4>(products, stream);
  return LaunchQuantized<Quad, 1>(products, stream);
}

}  // namespace

int64_t DealScratch(const DealtChoices& choices) {
  return ChunksOf(choices) == 1 ? 0 : ChunksOf(choices) * (choices.experts + 1);
}

cudaError_t LaunchDeal(const DealtChoices& choices, int32_t* scratch, cudaStream_t stream) {
  const int64_t chunks = ChunksOf(choices);
  if (chunks == 1) return Launch(&DealFewKernel, Grid(1), kDealChunk, stream, choices);
  cudaError_t error = Launch(&CountChoicesKernel, Grid(chunks), kDealChunk, stream, choices, scratch);
  if (error == cudaSuccess) error = Launch(&StartExpertsKernel, Grid(1), kDealChunk, stream, choices, chunks, scratch);
  if (error != cudaSuccess) return error;
  return Launch(&PlaceChoicesKernel, Grid(chunks), kDealChunk, stream, choices, scratch);
}

template <typename T>
cudaError_t LaunchDealtProducts(const DealtProducts<T>& products, cudaStream_t stream) {
  if (products.most_rows > 4) return LaunchProducts<8>(products, stream);
  return products.most_rows > 1 ? LaunchProducts<4>(products, stream) : LaunchProducts<1>(products, stream);
}

template <typename T>
cudaError_t LaunchDealtQuantized(const DealtProducts<T>& products, Quantization quantization, cudaStream_t stream) {
  if (quantization == Quantization::kInt8) return LaunchQuantizedAs<Int8Quad>(products, stream);
  if (quantization == Quantization::kInt4) return LaunchQuantizedAs<Int4Quad>(products, stream);
  return LaunchQuantizedAs<Fp8Quad>(products, stream);
}

template cudaError_t LaunchDealtProducts(const DealtProducts<float>&, cudaStream_t);
template cudaError_t LaunchDealtProducts(const DealtProducts<Bf16>&, cudaStream_t);
template cudaError_t LaunchDealtQuantized(const DealtProducts<float>&, Quantization, cudaStream_t);
template cudaError_t LaunchDealtQuantized(const DealtProducts<Bf16>&, Quantization, cudaStream_t);

}  // namespace lorad::cuda
