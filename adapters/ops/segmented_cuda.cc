#include <type_traits>

#include "adapters/ops/cuda/long_segment_kernels.h"
#include "adapters/ops/cuda/segmented_plan.h"
#include "adapters/ops/cuda_ops.h"
#include "adapters/ops/long_segments_cuda.h"
#include "model/ops/check_args.h"
#include "model/ops/cuda/tensor_rows.h"
#include "model/ops/cuda/upload.h"
#include "model/ops/cuda_ops.h"

namespace lorad::cuda {
namespace {

bool HasLongForm(const at::Tensor& y) { return y.scalar_type() == at::kBFloat16 && UsesLongSegments(); }

// A plan on the device, with its scratch. h_slices: of long segments, whose rows are bf16.
class Step final {
 public:
  Step(absl::Span<const SegmentedPart> parts, int32_t num_slots, const RowSegments& rows, bool with_bias,
       int32_t h_slices, const at::Tensor& y)
      : plan_(PlanSegments(parts, num_slots, rows, with_bias, HasLongForm(y) ? h_slices : 0)) {
    if (plan_.tiles.empty()) return;
    const int64_t short_tiles = std::ssize(plan_.tiles) - plan_.num_long_tiles;
    const auto f32 = at::TensorOptions().dtype(at::kFloat).device(y.device());
    h_ = at::empty({plan_.h_floats}, f32);
    logits_ = at::empty({short_tiles * kRowsPerTile * plan_.sizes.experts}, f32);
    const int64_t slots = upload_.Add(plan_.slots), tiles = upload_.Add(plan_.tiles), terms = upload_.Add(plan_.terms);
    input_rows_ = rows.input_rows.empty() ? -1 : upload_.Add(rows.input_rows);
    upload_.Send(y);
    work_ = {.tiles = upload_.At<RowTile>(tiles),
             .num_tiles = short_tiles,
             .num_long_tiles = plan_.num_long_tiles,
             .parts = {},
             .num_parts = static_cast<int32_t>(plan_.parts.size()),
             .terms = upload_.At<SlotTerm>(terms),
             .with_bias = with_bias,
             .h = h_.mutable_data_ptr<float>(),
             .h_slices = h_slices};
    for (size_t p = 0; p < plan_.parts.size(); ++p) {
      work_.parts[p] = plan_.parts[p];
      work_.parts[p].slots = upload_.At<SlotWeights>(slots) + static_cast<int64_t>(p) * plan_.used_slots;
    }
  }
  bool empty() const { return plan_.tiles.empty(); }
  const SegmentedWork& work() const { return work_; }
  const SegmentedSizes& sizes() const { return plan_.sizes; }
  const int32_t* input_rows() const { return input_rows_ < 0 ? nullptr : upload_.At<int32_t>(input_rows_); }
  float* logits() { return logits_.mutable_data_ptr<float>(); }

 private:
  SegmentedPlan plan_;
  Upload upload_;
  at::Tensor h_, logits_;
  int64_t input_rows_ = -1;
  SegmentedWork work_ = {};
};

template <typename T>
cudaError_t Shrink(Step& step, const ShrinkInput<T>& input, cudaStream_t stream) {
  const SegmentedWork& work = step.work();
  const SegmentedSizes& sizes = step.sizes();
  cudaError_t error = cudaSuccess;
  if (sizes.rank_blocks > 0) error = LaunchShrink(work, sizes, input, stream);
  if (error == cudaSuccess && sizes.experts > 0) error = LaunchWeighExperts(work, sizes, input, step.logits(), stream);
  if constexpr (std::is_same_v<T, Bf16>) {
    if (error == cudaSuccess && sizes.long_rank_blocks > 0) error = LaunchLongShrink(work, sizes, input, stream);
  }
  return error;
}

template <typename T>
cudaError_t Expand(const Step& step, const Rows<T>& y, cudaStream_t stream) {
  const SegmentedWork& work = step.work();
  cudaError_t error = cudaSuccess;
  if (work.num_tiles > 0) error = LaunchExpand(work, step.sizes(), y, stream);
  if constexpr (std::is_same_v<T, Bf16>) {
    if (error == cudaSuccess && work.num_long_tiles > 0) error = LaunchLongExpand(work, step.sizes(), y, stream);
  }
  return error;
}

template <typename T>
cudaError_t Add(const SegmentedGemmArgs& args, Step& step) {
  const cudaStream_t stream = StreamOf(args.y);
  const ShrinkInput<T> input = {RowsOf<T>(args.x), args.x.size(1), step.input_rows()};
  const cudaError_t error = Shrink(step, input, stream);
  return error == cudaSuccess ? Expand(step, MutableRowsOf<T>(args.y), stream) : error;
}

template <typename T>
cudaError_t Add(const SegmentedEmbeddingArgs& args, Step& step) {
  const cudaStream_t stream = StreamOf(args.y);
  const T* const type = nullptr;
  const cudaError_t error =
      LaunchGatherRanks(step.work(), args.ids.const_data_ptr<int32_t>(), args.vocab_size, type, stream);
  return error == cudaSuccess ? Expand(step, MutableRowsOf<T>(args.y), stream) : error;
}

template <typename Args>
absl::Status AddAs(std::string_view op, const Args& args, Step& step) {
  if (step.empty() || step.sizes().column_blocks == 0) return absl::OkStatus();
  return StatusOf(op, ForTypeOf(args.y, [&](auto of_rows) { return Add<decltype(of_rows)>(args, step); }));
}

}  // namespace

absl::Status SegmentedGemm(const SegmentedGemmArgs& args) {
  std::vector<SegmentedPart> parts;
  for (const SegmentedGemmPart& part : args.parts) parts.push_back({part.slots, part.first_column, part.columns});
  if (std::ssize(parts) > kMostParts) {
    return ArgCheck("SegmentedGemm").Error("parts", absl::StrCat(parts.size()), absl::StrCat(kMostParts, " on CUDA"));
  }
  Step step(parts, args.num_slots, args.rows, /*with_bias=*/true, SlicesOf(args.x.size(1)), args.y);
  return AddAs("SegmentedGemm", args, step);
}

absl::Status SegmentedEmbedding(const SegmentedEmbeddingArgs& args) {
  const SegmentedPart part = {args.slots, 0, args.y.size(1)};
  Step step({&part, 1}, args.num_slots, args.rows, /*with_bias=*/false, /*h_slices=*/1, args.y);
  return AddAs("SegmentedEmbedding", args, step);
}

}  // namespace lorad::cuda
