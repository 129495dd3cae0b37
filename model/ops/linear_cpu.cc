#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>

#include <ATen/ops/linear.h>

#include "model/ops/cpu/dot_kernels.h"
#include "model/ops/cpu/panels.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu_ops.h"

namespace lorad::cpu {
namespace {

constexpr int64_t kProductsPerRange = 1 << 17;  // about 10 us of one thread
constexpr int64_t kElementsPerRange = 1 << 14;  // copied and packed by one thread
constexpr int64_t kOneDnnRows = 32;

// Tiles of bf16 products: 16 rows by 16 columns with one instruction, beyond what our kernels reach.
bool HasAmxBf16() {
#if defined(__x86_64__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx >> 22 & 1) != 0;
#else
  return false;
#endif
}

template <typename T>
void Run(const LinearArgs& args, const T* x, const T* w, T* y) {
  const int64_t rows = args.x.size(0), in = args.weight.in_features(), out = args.weight.out_features();
  const int64_t packed_stride = PackedFloats(in);
  const float* packed = nullptr;
  int64_t x_stride = args.x.stride(0);
  if constexpr (sizeof(T) == sizeof(float)) {
    if (in == packed_stride) packed = x;
  }
  if (packed == nullptr) {
    float* scratch = ThreadScratch(Scratch::kRows, rows * packed_stride);
    ParallelFor(RowTiles(rows), kElementsPerRange / packed_stride + 1, [&](int64_t begin, int64_t end) {
      PackTiles(x, x_stride, rows, in, begin, end, scratch, packed_stride);
    });
    packed = scratch;
    x_stride = packed_stride;
  }
  const int64_t y_stride = args.y.stride(0);
  // In units of 8 columns, so that ranges cut no tile of a single row.
  const int64_t units = (out + 7) / 8;
  const int64_t grain = std::max<int64_t>(1, kProductsPerRange / std::max<int64_t>(1, rows * in * 8));
  ParallelFor(units, grain, [&](int64_t begin, int64_t end) {
    const int64_t c = begin * 8;
    const DotArgs dot = {packed, x_stride, rows, in, std::min(end * 8, out) - c, in, y_stride};
    Dot(dot, w + c * in, y + c);
  });
}

template <typename T>
void RunPanels(const LinearArgs& args, const T* x, T* y) {
  constexpr int64_t kColumnsOfUnit = 2 * kPanelColumns;
  const int64_t rows = args.x.size(0), in = args.weight.in_features(), out = args.weight.out_features();
  const PanelWeight weight = {args.weight.quantization(), in, args.weight.weight().const_data_ptr()};
  const int64_t x_stride = args.x.stride(0), y_stride = args.y.stride(0), packed_stride = RowFloats(weight);
  float* const packed = ThreadScratch(Scratch::kRows, rows * packed_stride);
  ParallelFor(rows, kElementsPerRange / in + 1, [&](int64_t begin, int64_t end) {
    PackRows(weight, x + begin * x_stride, x_stride, end - begin, packed + begin * packed_stride);
  });
  const int64_t units = (out + kColumnsOfUnit - 1) / kColumnsOfUnit;
  const int64_t grain = kProductsPerRange / (rows * in * kColumnsOfUnit) + 1;
  ParallelFor(units, grain, [&](int64_t begin, int64_t end) {
    const int64_t c = begin * kColumnsOfUnit;
    DotColumns(weight, packed, rows, c, std::min(end * kColumnsOfUnit, out) - c, y_stride, y + c);
  });
}

template <typename T>
void RunEither(const LinearArgs& args) {
  const T* const x = static_cast<const T*>(args.x.const_data_ptr());
  T* const y = static_cast<T*>(args.y.mutable_data_ptr());
  if (args.weight.packed()) return RunPanels(args, x, y);
  Run(args, x, static_cast<const T*>(args.weight.weight().const_data_ptr()), y);
}

}  // namespace

bool HasOneDnnKernels() {
  static const bool has_amx = HasAmxBf16();
  return has_amx;
}

bool LinearGoesToOneDnn(at::ScalarType dtype, int64_t rows) {
  return HasOneDnnKernels() && dtype == at::kBFloat16 && rows >= kOneDnnRows;
}

absl::Status Linear(const LinearArgs& args) {
  if (args.x.size(0) == 0 || args.weight.out_features() == 0) return absl::OkStatus();
  if (!args.weight.quantized() && LinearGoesToOneDnn(args.x.scalar_type(), args.x.size(0))) {
    args.y.copy_(at::linear(args.x, args.weight.weight()));
    return absl::OkStatus();
  }
  if (args.x.scalar_type() == at::kFloat) {
    RunEither<float>(args);
  } else {
    RunEither<uint16_t>(args);
  }
  return absl::OkStatus();
}

}  // namespace lorad::cpu
