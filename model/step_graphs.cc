#include "model/step_graphs.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>

#include "model/base/check.h"
#include "model/base/guarded.h"
#include "model/base/status_macros.h"
#include "model/device_step.h"
#include "model/kv/kv_layout.h"
#include "model/ops/cuda_table.h"
#include "model/ops/dealt_experts.h"
#include "model/ops/put_drawn_tokens.h"
#include "model/step_buckets.h"
#include "model/weights.h"

namespace lorad {
namespace {

constexpr int64_t kTablesBorder = 16;
constexpr size_t kMostKeys = 1024;  // of those without a graph

// The parts of a step's inputs, in words of int32.
struct Words {
  int64_t token_ids, positions, cu_rows, kv_slots, block_table, logit_rows, end;
  Words(int64_t rows, int64_t blocks)
      : token_ids(0),
        positions(rows),
        cu_rows(2 * rows),
        kv_slots(3 * rows + 1),
        block_table(4 * rows + 1),
        logit_rows(block_table + rows * blocks),
        end(logit_rows + rows) {}
  int64_t bytes() const { return end * int64_t{sizeof(int32_t)}; }
};

// Rows beyond the batch's: a sequence each, of token 0 at position 0, without a block.
void WritePadded(const ForwardBatch& batch, int64_t rows, int64_t blocks, int32_t* to) {
  const Words at(rows, blocks);
  const int64_t own = batch.token_ids.numel(), own_blocks = batch.block_table.size(1);
  const auto put = [&](const at::Tensor& from, int64_t begin, int32_t padding) {
    std::memcpy(to + begin, from.const_data_ptr<int32_t>(), from.nbytes());
    std::fill(to + begin + own, to + begin + rows, padding);
  };
  put(batch.token_ids, at.token_ids, 0);
  put(batch.positions, at.positions, 0);
  put(batch.kv_slots, at.kv_slots, -1);
  for (int64_t r = 0; r <= rows; ++r) to[at.cu_rows + r] = static_cast<int32_t>(r);
  for (int64_t r = 0; r < rows; ++r) to[at.logit_rows + r] = static_cast<int32_t>(r);
  std::fill(to + at.block_table, to + at.logit_rows, -1);
  for (int64_t r = 0; r < own; ++r) {
    const int32_t* const from = batch.block_table.const_data_ptr<int32_t>() + r * own_blocks;
    std::copy(from, from + own_blocks, to + at.block_table + r * blocks);
  }
}

bool HasOneRowEach(const ForwardBatch& batch) {
  const int64_t rows = batch.token_ids.numel();
  return batch.block_table.size(0) == rows && batch.logit_rows.numel() == rows;
}

}  // namespace

std::unique_ptr<StepGraphs> StepGraphs::Create(CausalLm* model, GraphSeam* seam, const Options& options) {
  if (model->device().is_cpu() || InstalledCudaOps().new_graphs == nullptr) return nullptr;
  return std::unique_ptr<StepGraphs>(new StepGraphs(model, seam, options));
}

StepGraphs::StepGraphs(CausalLm* model, GraphSeam* seam, const Options& options)
    : model_(model), seam_(seam), options_(options), family_(InstalledCudaOps().new_graphs()) {}

StepGraphs::Held StepGraphs::held() const { return {std::ssize(graphs_), bytes_}; }

std::string_view StepGraphs::WhyEager(const ForwardBatch& batch) const {
  const ModelConfig& config = model_->config();
  if (!HasOneRowEach(batch)) return "prefill";
  const int64_t rows = RowsBucket(batch.token_ids.numel());
  if (rows == 0) return "rows";
  const bool dealt = DealsOnDevice({model_->device(), ToScalarType(model_->dtype()), model_->quantization(), rows});
  if (!config.routed.layers.empty() && !dealt) return "routed_base";
  const auto variant = [&](int64_t tokens) { return config.rope_switch.VariantOf(tokens); };
  const std::vector<int64_t>& tokens = batch.sequence_tokens;
  const bool mixed = std::any_of(tokens.begin(), tokens.end(),
                                 [&](int64_t count) { return variant(count) != variant(tokens.front()); });
  return mixed ? "rope" : "";
}

absl::StatusOr<at::Tensor> StepGraphs::Forward(const ForwardBatch& batch, const KvView& kv, AdapterSeam& eager) {
  how_ = WhyEager(batch);
  GraphStep step;
  Key key;
  if (how_.empty()) {
    const int64_t rows = RowsBucket(batch.token_ids.numel());
    RETURN_IF_ERROR(GuardedOnDevice([&] {
      const c10::InferenceMode no_autograd;
      const c10::DeviceGuard current(model_->device());
      step = seam_->Plan(batch.rows, rows);
      return absl::OkStatus();
    }));
    how_ = step.eager;
    const int64_t tokens = batch.sequence_tokens.empty() ? 0 : batch.sequence_tokens.front();
    key = {rows, BlocksBucket(batch.block_table.size(1)), model_->config().rope_switch.VariantOf(tokens)};
    key.insert(key.end(), step.features.begin(), step.features.end());
  }
  if (how_.empty()) DropIfMoved(kv);
  if (how_.empty() && IsRefused(key)) how_ = "refused";
  const auto found = std::find_if(graphs_.begin(), graphs_.end(), [&](const Graph& graph) { return graph.key == key; });
  if (how_.empty() && found == graphs_.end() && IsFirstSight(key)) how_ = "first";
  if (!how_.empty()) return model_->ForwardOnDevice(batch, kv, eager);
  if (found == graphs_.end()) return RunAndCapture(batch, step, std::move(key), kv);
  graphs_.splice(graphs_.begin(), graphs_, found);
  return Replay(batch, step, graphs_.front());
}

absl::StatusOr<at::Tensor> StepGraphs::Replay(const ForwardBatch& batch, const GraphStep& step, const Graph& graph) {
  how_ = "replayed";
  return GuardedOnDevice([&]() -> absl::StatusOr<at::Tensor> {
    const c10::InferenceMode no_autograd;
    const c10::DeviceGuard current(model_->device());
    Upload(batch, step, graph);
    RETURN_IF_ERROR(graph.graph->Replay());
    return at::for_blob(graph.logits, graph.logits_shape)
        .options(at::TensorOptions().dtype(at::kFloat).device(model_->device()))
        .target_device(model_->device())
        .make_tensor();
  });
}

absl::StatusOr<at::Tensor> StepGraphs::RunAndCapture(const ForwardBatch& batch, const GraphStep& step, Key key,
                                                     const KvView& kv) {
  how_ = "captured";
  Graph graph;
  PlacedBatch placed = {batch, {}};
  RETURN_IF_ERROR(GuardedOnDevice([&] {
    const c10::InferenceMode no_autograd;
    const c10::DeviceGuard current(model_->device());
    graph = MakeInputs(step, std::move(key));
    Upload(batch, step, graph);
    placed.on_device = OverInputs(graph);
    return absl::OkStatus();
  }));
  // Which rows have an adapter is told by the tables; that there are any is a feature.
  placed.on_device.rows = batch.rows;
  placed.on_device.head_rows = batch.head_rows;
  placed.on_host.max_context_tokens = std::min(graph.blocks * kKvBlockTokens, model_->config().max_context_tokens);
  // What a capture cannot do is done here: libraries start, tables grow.
  seam_->ReadTablesAt(static_cast<const std::byte*>(graph.inputs.const_data_ptr()) + graph.tables_at);
  ASSIGN_OR_RETURN(at::Tensor logits, model_->ForwardPlaced(placed, kv, *seam_));
  DropIfMoved(kv);  // by that
  if (const absl::Status captured = Capture(placed, kv, graph); captured.ok()) {
    Keep(std::move(graph));
  } else {
    how_ = "capture_failed";
    Refuse(std::move(graph.key), captured);
  }
  return logits;
}

absl::Status StepGraphs::Capture(const PlacedBatch& batch, const KvView& kv, Graph& graph) {
  const c10::DeviceGuard current(model_->device());
  absl::StatusOr<std::unique_ptr<DeviceGraph>> captured = family_->Capture([&]() -> absl::Status {
    ASSIGN_OR_RETURN(at::Tensor logits, model_->ForwardPlaced(batch, kv, *seam_));
    LORAD_CHECK(logits.is_contiguous());
    graph.logits = logits.mutable_data_ptr();
    graph.logits_shape = logits.sizes().vec();
    return absl::OkStatus();
  });
  if (!captured.ok()) return captured.status();
  graph.graph = *std::move(captured);
  return absl::OkStatus();
}

StepGraphs::Graph StepGraphs::MakeInputs(const GraphStep& step, Key key) const {
  Graph graph;
  graph.rows = key[0];
  graph.blocks = key[1];
  graph.key = std::move(key);
  const int64_t words_bytes = Words(graph.rows, graph.blocks).bytes();
  graph.tables_at = (words_bytes + kTablesBorder - 1) / kTablesBorder * kTablesBorder;
  graph.inputs = at::empty({graph.tables_at + std::ssize(step.tables)},
                           at::TensorOptions().dtype(at::kByte).device(model_->device()));
  return graph;
}

ForwardBatch StepGraphs::OverInputs(const Graph& graph) {
  const Words at(graph.rows, graph.blocks);
  const at::Tensor words = graph.inputs.narrow(0, 0, at.bytes()).view(at::kInt);
  const auto part = [&](int64_t begin, int64_t count) { return words.narrow(0, begin, count); };
  ForwardBatch batch;
  batch.token_ids = part(at.token_ids, graph.rows);
  batch.positions = part(at.positions, graph.rows);
  batch.cu_rows = part(at.cu_rows, graph.rows + 1);
  batch.kv_slots = part(at.kv_slots, graph.rows);
  batch.block_table = part(at.block_table, graph.rows * graph.blocks).view({graph.rows, graph.blocks});
  batch.logit_rows = part(at.logit_rows, graph.rows);
  return batch;
}

void StepGraphs::Upload(const ForwardBatch& batch, const GraphStep& step, const Graph& graph) const {
  const at::Tensor staged = at::empty(graph.inputs.sizes(), at::TensorOptions().dtype(at::kByte).pinned_memory(true));
  auto* const bytes = static_cast<std::byte*>(staged.mutable_data_ptr());
  WritePadded(batch, graph.rows, graph.blocks, reinterpret_cast<int32_t*>(bytes));
  LORAD_CHECK_EQ(graph.tables_at + std::ssize(step.tables), graph.inputs.numel());
  if (!step.tables.empty()) std::memcpy(bytes + graph.tables_at, step.tables.data(), step.tables.size());
  graph.inputs.copy_(staged, /*non_blocking=*/true);
  if (!batch.drawn.defined()) return;
  at::Tensor ids = OverInputs(graph).token_ids;
  ThrowIfError(PutDrawnTokens({batch.drawn, ids}));
}

void StepGraphs::DropIfMoved(const KvView& kv) {
  std::vector<int64_t> now = {seam_->generation(), model_->table_moves(), reinterpret_cast<int64_t>(kv.arena)};
  if (now == read_from_) return;
  DropAll();
  refused_.clear();
  too_many_rows_ = std::numeric_limits<int64_t>::max();
  read_from_ = std::move(now);
}

bool StepGraphs::IsRefused(const Key& key) {
  if (key[0] >= too_many_rows_) return true;
  const auto found = refused_.find(key);
  if (found == refused_.end() || Clock::now() < found->second) return found != refused_.end();
  refused_.erase(found);
  return false;
}

bool StepGraphs::IsFirstSight(const Key& key) {
  if (seen_once_.erase(key) > 0) return false;
  if (seen_once_.size() >= kMostKeys) seen_once_.clear();
  seen_once_.insert(key);
  return true;
}

void StepGraphs::Refuse(Key key, const absl::Status& why) {
  if (refused_.size() >= kMostKeys) refused_.clear();
  refused_[std::move(key)] = absl::IsResourceExhausted(why) ? Clock::now() + options_.retry : Clock::time_point::max();
}

void StepGraphs::DropAll() {
  AwaitDevice(model_->device());  // one of them may be running
  graphs_.clear();
  bytes_ = 0;
  family_->Renew();
}

void StepGraphs::Keep(Graph graph) {
  const int64_t own_bytes = graph.graph->bytes() + graph.inputs.numel();
  if (own_bytes > options_.most_bytes) {
    // Its siblings of as many rows, whose logits and the like take most of it, would each cost all others again.
    too_many_rows_ = std::min(too_many_rows_, graph.rows);
    how_ = "memory";
    graph = {};
    DropAll();  // what it took stays with the family
    return;
  }
  if (bytes_ + own_bytes > options_.most_bytes) {
    // Its memory may be another graph's as well: it is captured again when it is wanted next.
    graph = {};
    DropAll();
    return;
  }
  bytes_ += own_bytes;
  graphs_.push_front(std::move(graph));
  if (std::ssize(graphs_) <= options_.most_graphs) return;
  AwaitDevice(model_->device());
  graphs_.pop_back();
}

}  // namespace lorad
