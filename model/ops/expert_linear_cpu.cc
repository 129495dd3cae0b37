#include <algorithm>
#include <vector>

#include "model/ops/cpu/dot_kernels.h"
#include "model/ops/cpu/panels.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu_ops.h"

namespace lorad::cpu {
namespace {

constexpr int64_t kProductsPerTask = 1 << 18;  // about 20 us of one thread
constexpr int64_t kElementsToShare = 1 << 14;  // fewer are copied and packed by one thread
constexpr int64_t kColumnsTogether = 8;        // so that tasks cut no tile of a single row
constexpr int64_t kPanelsTogether = 2;

// The rows of one expert as the kernel reads them: packed, side by side.
struct PackedRows {
  const float* rows;
  int64_t stride;
};

// Some columns of one expert's part.
struct Task {
  int64_t expert;
  const ExpertLinearPart* part;
  int64_t first_column;
  int64_t columns;
};

bool AreConsecutive(absl::Span<const int32_t> rows) { return rows.back() - rows.front() + 1 == std::ssize(rows); }

template <typename T>
class Job final {
 public:
  explicit Job(const ExpertLinearArgs& args)
      : args_(args),
        in_(args.x.size(1)),
        panels_(args.parts[0].weights[0].packed()),
        panel_weight_{args.parts[0].weights[0].quantization(), in_},
        packed_stride_(panels_ ? RowFloats(panel_weight_) : PackedFloats(in_)),
        x_stride_(args.x.stride(0)),
        y_stride_(args.y.stride(0)),
        x_(static_cast<const T*>(args.x.const_data_ptr())),
        y_(static_cast<T*>(args.y.mutable_data_ptr())) {}

  void Run() {
    PackAllRows();
    CutTasks();
    ParallelTasks(std::ssize(tasks_), [&](int64_t i) { Compute(tasks_[static_cast<size_t>(i)]); });
  }

 private:
  int64_t RowsOf(int64_t expert) const { return args_.starts[expert + 1] - args_.starts[expert]; }

  // f32 rows that fill whole vectors and lie together are read where they are.
  void PackAllRows() {
    const int64_t experts = std::ssize(args_.starts) - 1;
    packed_.resize(static_cast<size_t>(experts));
    float* const packed = ThreadScratch(Scratch::kRows, args_.y.size(0) * packed_stride_);
    T* const copies = reinterpret_cast<T*>(ThreadScratch(Scratch::kSums, args_.y.size(0) * in_));
    const int64_t grain = args_.y.size(0) * in_ < kElementsToShare ? experts : 1;
    ParallelFor(experts, grain, [&](int64_t e, int64_t end) {
      for (; e < end; ++e) {
        if (RowsOf(e) > 0) packed_[e] = PackRowsOf(e, copies, packed);
      }
    });
  }

  // copies [P, in], packed [P, packed_stride]: room for the rows of all pairs.
  PackedRows PackRowsOf(int64_t expert, T* copies, float* packed) const {
    const int64_t first = args_.starts[expert], count = RowsOf(expert);
    const T* rows = x_ + first * x_stride_;
    int64_t stride = x_stride_;
    if (!args_.rows.empty()) {
      const auto wanted = args_.rows.subspan(first, count);
      rows = x_ + wanted.front() * x_stride_;
      if (!AreConsecutive(wanted)) {
        T* const copy = copies + first * in_;
        for (int64_t i = 0; i < count; ++i) std::copy_n(x_ + wanted[i] * x_stride_, in_, copy + i * in_);
        rows = copy;
        stride = in_;
      }
    }
    if constexpr (sizeof(T) == sizeof(float)) {
      if (!panels_ && in_ == packed_stride_) return {rows, stride};
    }
    float* const own = packed + first * packed_stride_;
    if (panels_) {
      PackRows(panel_weight_, rows, stride, count, own);
      return {own, packed_stride_};
    }
    PackTiles(rows, stride, count, in_, 0, RowTiles(count), own, packed_stride_);
    return {own, packed_stride_};
  }

  void CutTasks() {
    const int64_t together = panels_ ? kPanelsTogether * kPanelColumns : kColumnsTogether;
    for (int64_t e = 0; e + 1 < std::ssize(args_.starts); ++e) {
      if (RowsOf(e) == 0) continue;
      const int64_t step = together * std::max<int64_t>(1, kProductsPerTask / (RowsOf(e) * in_ * together));
      for (const ExpertLinearPart& part : args_.parts) {
        const int64_t columns = part.weights[e].out_features();
        for (int64_t c = 0; c < columns; c += step) tasks_.push_back({e, &part, c, std::min(step, columns - c)});
      }
    }
  }

  void Compute(const Task& task) const {
    const PackedRows& x = packed_[task.expert];
    const int64_t rows = RowsOf(task.expert);
    const void* const stored = task.part->weights[task.expert].weight().const_data_ptr();
    T* const y = y_ + args_.starts[task.expert] * y_stride_ + task.part->first_column + task.first_column;
    if (panels_) {
      PanelWeight weight = panel_weight_;
      weight.panels = stored;
      return DotColumns(weight, x.rows, rows, task.first_column, task.columns, y_stride_, y);
    }
    Dot({x.rows, x.stride, rows, in_, task.columns, in_, y_stride_},
        static_cast<const T*>(stored) + task.first_column * in_, y);
  }

  const ExpertLinearArgs& args_;
  const int64_t in_;
  const bool panels_;               // the weights are packed
  const PanelWeight panel_weight_;  // without its panels, which are each expert's
  const int64_t packed_stride_;
  const int64_t x_stride_;
  const int64_t y_stride_;
  const T* const x_;
  T* const y_;
  std::vector<PackedRows> packed_;  // by expert
  std::vector<Task> tasks_;
};

}  // namespace

absl::Status ExpertLinear(const ExpertLinearArgs& args) {
  if (args.y.size(0) == 0) return absl::OkStatus();
  if (args.x.scalar_type() == at::kFloat) {
    Job<float>(args).Run();
  } else {
    Job<uint16_t>(args).Run();
  }
  return absl::OkStatus();
}

}  // namespace lorad::cpu
