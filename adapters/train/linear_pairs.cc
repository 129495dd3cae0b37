#include "adapters/train/linear_pairs.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/core/ivalue.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "model/base/check.h"
#include "model/ops/cpu/f32_panels.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/pieces.h"

namespace lorad {
namespace {

using cpu::Scratch;
using cpu::ThreadScratch;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kRowsOfTask = 64;
constexpr int64_t kColumnsOfTask = 256;  // of a gradient of A or B

// A block's shape, and where its inner values [rows, rank] begin among all blocks'.
struct BlockShape {
  int64_t first_row;
  int64_t rows;
  int64_t first_column;
  int64_t columns;
  int64_t rank;
  float scale;
  int64_t first_inner;
};

// Some rows and the blocks [first_block, end_block) that have them; none: rows without a pair.
struct RowTask {
  int64_t first_row;
  int64_t rows;
  size_t first_block;
  size_t end_block;
};

struct Layout final : torch::CustomClassHolder {
  int64_t in = 0;
  int64_t out = 0;
  std::vector<BlockShape> blocks;
  std::vector<RowTask> row_tasks;  // cover all rows
  int64_t inner = 0;               // of all blocks
};

void AppendRows(int64_t first, int64_t end, size_t first_block, size_t end_block, std::vector<RowTask>* tasks) {
  for (; first < end; first += kRowsOfTask) {
    tasks->push_back({first, std::min(kRowsOfTask, end - first), first_block, end_block});
  }
}

c10::intrusive_ptr<Layout> LayoutOf(const at::Tensor& x, const at::Tensor& y, const std::vector<PairBlock>& blocks) {
  auto made = c10::make_intrusive<Layout>();
  Layout& layout = *made;
  layout.in = x.size(1);
  layout.out = y.size(1);
  for (const PairBlock& block : blocks) {
    const int64_t rank = block.a.size(0);
    layout.blocks.push_back(
        {block.first_row, block.rows, block.first_column, block.columns, rank, block.scale, layout.inner});
    layout.inner += block.rows * rank;
  }
  int64_t row = 0;
  for (size_t i = 0; i < layout.blocks.size();) {
    const BlockShape& first = layout.blocks[i];
    size_t end = i + 1;
    while (end < layout.blocks.size() && layout.blocks[end].first_row == first.first_row) ++end;
    AppendRows(row, first.first_row, 0, 0, &layout.row_tasks);
    row = first.first_row + first.rows;
    AppendRows(first.first_row, row, i, end, &layout.row_tasks);
    i = end;
  }
  AppendRows(row, x.size(0), 0, 0, &layout.row_tasks);
  return made;
}

// Products of A's and B's elements with rows, `times` for each row.
void BeginPieceOf(const Layout& layout, int64_t times) {
  int64_t products = 0;
  for (const BlockShape& block : layout.blocks) products += block.rows * block.rank * (layout.in + block.columns);
  BeginPiece(times * products);
}

float* PanelScratch(Scratch which, int64_t columns, int64_t depth) {
  return ThreadScratch(which, cpu::F32WeightElements(columns, depth));
}

// What the tensors of a call hold. inner[i] = scale A x of block i, and d_inner[i] = scale B^T g.
struct Tensors {
  const Layout& layout;
  const float* x;
  std::vector<const float*> a, b;
};

Tensors PointersTo(const Layout& layout, const at::Tensor& x, at::TensorList leaves) {
  Tensors tensors = {.layout = layout, .x = x.const_data_ptr<float>(), .a = {}, .b = {}};
  for (size_t i = 0; i < leaves.size(); i += 2) {
    tensors.a.push_back(leaves[i].const_data_ptr<float>());
    tensors.b.push_back(leaves[i + 1].const_data_ptr<float>());
  }
  return tensors;
}

void Scale(float factor, float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) values[i] *= factor;
}

float* InnerOf(const BlockShape& block, int64_t row, float* inner) {
  return inner + block.first_inner + (row - block.first_row) * block.rank;
}

void AddPairsOf(const Tensors& of, const RowTask& task, float* inner, float* y) {
  const int64_t in = of.layout.in, out = of.layout.out;
  for (size_t i = task.first_block; i < task.end_block; ++i) {
    const BlockShape& block = of.layout.blocks[i];
    float* const values = InnerOf(block, task.first_row, inner);
    float* const a = PanelScratch(Scratch::kWeights, block.rank, in);
    cpu::PackF32Panels(of.a[i], in, block.rank, in, a);
    cpu::F32Products({{of.x + task.first_row * in, in, task.rows}, in, {a, in, block.rank}, block.rank, /*add=*/false},
                     values);
    Scale(block.scale, values, task.rows * block.rank);
    float* const b = PanelScratch(Scratch::kColumns, block.columns, block.rank);
    cpu::PackF32Panels(of.b[i], block.rank, block.columns, block.rank, b);
    cpu::F32Products({{values, block.rank, task.rows}, block.rank, {b, block.rank, block.columns}, out, /*add=*/true},
                     y + task.first_row * out + block.first_column);
  }
}

// The gradients of the blocks' inner values, and of x where dx is not null.
void FollowRows(const Tensors& of, const RowTask& task, const float* g, float* d_inner, float* dx) {
  const int64_t in = of.layout.in, out = of.layout.out;
  if (task.first_block == task.end_block && dx != nullptr) std::fill_n(dx + task.first_row * in, task.rows * in, 0.0f);
  for (size_t i = task.first_block; i < task.end_block; ++i) {
    const BlockShape& block = of.layout.blocks[i];
    float* const values = InnerOf(block, task.first_row, d_inner);
    float* const b = PanelScratch(Scratch::kWeights, block.rank, block.columns);
    cpu::TransposeF32Rows({of.b[i], block.rank, block.columns, 0, block.rank}, b);
    cpu::F32Products({{g + task.first_row * out + block.first_column, out, task.rows},
                      block.columns,
                      {b, block.columns, block.rank},
                      block.rank,
                      /*add=*/false},
                     values);
    Scale(block.scale, values, task.rows * block.rank);
    if (dx == nullptr) continue;
    float* const a = PanelScratch(Scratch::kColumns, in, block.rank);
    cpu::TransposeF32Rows({of.a[i], in, block.rank, 0, in}, a);
    cpu::F32Products(
        {{values, block.rank, task.rows}, block.rank, {a, block.rank, in}, in, /*add=*/i > task.first_block},
        dx + task.first_row * in);
  }
}

// Some columns of the gradient of A or of B.
struct LeafTask {
  size_t block;
  bool is_b;
  int64_t first_column;
  int64_t columns;
};

std::vector<LeafTask> LeafTasksOf(const Layout& layout) {
  std::vector<LeafTask> tasks;
  for (size_t i = 0; i < layout.blocks.size(); ++i) {
    for (const bool is_b : {false, true}) {
      const int64_t columns = is_b ? layout.blocks[i].columns : layout.in;
      for (int64_t c = 0; c < columns; c += kColumnsOfTask) {
        tasks.push_back({i, is_b, c, std::min(kColumnsOfTask, columns - c)});
      }
    }
  }
  return tasks;
}

// dA = d_inner^T x, or dB = g^T inner, of block.rows rows. `outer`: x or g [R, width], from column `first` on.
void FollowLeaf(const BlockShape& block, const LeafTask& task, const float* inner, const float* outer, int64_t width,
                int64_t first, float* gradient) {
  const int64_t rows = block.rows, rank = block.rank;
  float* const transposed = ThreadScratch(Scratch::kSums, rank * rows);  // [rank, rows]
  cpu::TransposeFloats({inner + block.first_inner, rank, rows, rank, rows}, transposed);
  float* const panels = PanelScratch(Scratch::kWeights, task.columns, rows);
  cpu::TransposeF32Rows({outer + block.first_row * width, width, rows, first + task.first_column, task.columns},
                        panels);
  if (!task.is_b) {
    cpu::F32Products({{transposed, rows, rank}, rows, {panels, rows, task.columns}, width, /*add=*/false},
                     gradient + task.first_column);
    return;
  }
  float* const of_columns = ThreadScratch(Scratch::kColumns, rank * task.columns);  // [rank, columns]
  cpu::F32Products({{transposed, rows, rank}, rows, {panels, rows, task.columns}, task.columns, /*add=*/false},
                   of_columns);
  cpu::TransposeFloats({of_columns, task.columns, rank, task.columns, rank}, gradient + task.first_column * rank);
}

struct PairsFunction : torch::autograd::Function<PairsFunction> {
  // leaves: A and B of each block
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& y, at::TensorList leaves,
                            const c10::intrusive_ptr<Layout>& layout) {
    at::Tensor inner = Compute(x, y, leaves, *layout);
    variable_list saved = {x, std::move(inner)};
    saved.insert(saved.end(), leaves.begin(), leaves.end());
    context->save_for_backward(std::move(saved));
    context->saved_data["layout"] = c10::IValue::make_capsule(layout);
    context->mark_dirty({y});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& of_y) {
    const auto held = context->saved_data["layout"].toCapsule();
    const Layout& layout = static_cast<const Layout&>(*held);
    const variable_list saved = context->get_saved_variables();
    const at::TensorList leaves = at::TensorList(saved).slice(2);
    const at::Tensor x = saved[0], inner = saved[1], g = of_y[0].contiguous();
    at::Tensor d_inner = at::empty_like(inner), dx;
    if (context->needs_input_grad(0)) dx = at::empty_like(x);
    variable_list gradients = {dx, g};
    for (const at::Tensor& leaf : leaves) gradients.push_back(at::empty_like(leaf));
    Follow(layout, x, g, inner, leaves, d_inner, gradients);
    gradients.emplace_back();  // the layout's
    return gradients;
  }

  // -> inner
  static at::Tensor Compute(const at::Tensor& x, const at::Tensor& y, at::TensorList leaves, const Layout& layout) {
    BeginPieceOf(layout, 1);
    at::Tensor inner = at::empty({layout.inner}, x.options());
    const Tensors of = PointersTo(layout, x, leaves);
    float* const values = inner.mutable_data_ptr<float>();
    float* const to = y.mutable_data_ptr<float>();
    cpu::ParallelTasks(std::ssize(layout.row_tasks),
                       [&](int64_t t) { AddPairsOf(of, layout.row_tasks[static_cast<size_t>(t)], values, to); });
    return inner;
  }

  // gradients: of x (undefined: not wanted), y, and the leaves
  static void Follow(const Layout& layout, const at::Tensor& x, const at::Tensor& g, const at::Tensor& inner,
                     at::TensorList leaves, at::Tensor& d_inner, variable_list& gradients) {
    BeginPieceOf(layout, 2);
    const Tensors of = PointersTo(layout, x, leaves);
    const float* const of_y = g.const_data_ptr<float>();
    float* const d_values = d_inner.mutable_data_ptr<float>();
    float* const dx = gradients[0].defined() ? gradients[0].mutable_data_ptr<float>() : nullptr;
    cpu::ParallelTasks(std::ssize(layout.row_tasks), [&](int64_t t) {
      FollowRows(of, layout.row_tasks[static_cast<size_t>(t)], of_y, d_values, dx);
    });
    const float* const values = inner.const_data_ptr<float>();
    std::vector<float*> of_leaves;
    for (size_t i = 2; i < gradients.size(); ++i) of_leaves.push_back(gradients[i].mutable_data_ptr<float>());
    const std::vector<LeafTask> tasks = LeafTasksOf(layout);
    cpu::ParallelTasks(std::ssize(tasks), [&](int64_t t) {
      const LeafTask& task = tasks[static_cast<size_t>(t)];
      const BlockShape& block = layout.blocks[task.block];
      if (task.is_b) {
        FollowLeaf(block, task, values, of_y, layout.out, block.first_column, of_leaves[2 * task.block + 1]);
      } else {
        FollowLeaf(block, task, d_values, of.x, layout.in, 0, of_leaves[2 * task.block]);
      }
    });
  }
};

}  // namespace

at::Tensor AddPairs(const at::Tensor& given_x, const at::Tensor& y, const std::vector<PairBlock>& blocks) {
  const at::Tensor x = given_x.contiguous();
  LORAD_CHECK(y.is_contiguous());
  const c10::intrusive_ptr<Layout> layout = LayoutOf(x, y, blocks);
  variable_list leaves;
  for (const PairBlock& block : blocks) {
    leaves.push_back(block.a.contiguous());
    leaves.push_back(block.b.contiguous());
  }
  if (at::GradMode::is_enabled()) return PairsFunction::apply(x, y, at::TensorList(leaves), layout);
  PairsFunction::Compute(x, y, leaves, *layout);
  return y;
}

}  // namespace lorad
