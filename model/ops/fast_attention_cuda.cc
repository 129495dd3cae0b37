#include "model/ops/fast_attention_cuda.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/InferenceMode.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/base/status_macros.h"
#include "model/kv/kv_layout.h"
#include "model/ops/compare_forms_cuda.h"
#include "model/ops/cuda/tensor_rows.h"
#include "model/ops/cuda_ops.h"

namespace lorad::cuda {
namespace {

using Bf16 = __nv_bfloat16;

// The head sizes for which the fast form is used. At start none; changed by CheckFastAttention and
// LeaveOutFastAttention alone.
std::vector<int64_t>& TrustedHeadDims() {
  static auto* const trusted = new std::vector<int64_t>;
  return *trusted;
}

bool Has(const std::vector<int64_t>& all, int64_t one) { return std::find(all.begin(), all.end(), one) != all.end(); }

// What the fast form reads and writes by 16 bytes.
bool AreAligned(const AttentionRows<Bf16>& rows) {
  constexpr int64_t kBytes = 16, kElements = kBytes / int64_t{sizeof(Bf16)};
  const auto aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % kBytes == 0; };
  const KvLayer& kv = rows.kv;
  return aligned(rows.q.data) && aligned(rows.y.data) && aligned(kv.arena) && rows.q.stride % kElements == 0 &&
         kv.page_bytes % kBytes == 0 && kv.key_offset_bytes % kBytes == 0 && kv.value_offset_bytes % kBytes == 0;
}

bool Covers(const FastAttention& fast, const AttentionRows<Bf16>& rows) {
  const int64_t head_dim = rows.kv.head_dim;
  return Has(TrustedHeadDims(), head_dim) && (rows.softcap == 0.0f || fast.caps(head_dim)) &&
         rows.y.stride == rows.heads * head_dim && rows.blocks_per_sequence > 0 && AreAligned(rows);
}

// As many chunks as keep the device busy where tiles alone do not; and more where there is room for long contexts: one
// of them among many short ones would be the work of a few blocks, for which all others wait.
AttentionTiles SizesOf(const FastAttention& fast, const AttentionRows<Bf16>& rows) {
  constexpr int64_t kLeastChunkTokens = 256, kChunkStep = 128;
  constexpr int64_t kLongContextTokens = 4096, kLongChunkTokens = 2048, kMostLongChunks = 16;
  constexpr int64_t kMostPartBytes = int64_t{128} << 20;  // beyond: prompts of many rows, which are tiles enough
  AttentionTiles tiles = {};
  const int64_t packed_rows = rows.rows * (rows.heads / rows.kv.kv_heads);
  tiles.tile_rows = fast.tile_rows(rows.kv.head_dim, packed_rows / std::max<int64_t>(1, rows.sequences));
  // Few rows of no sequence: no tile is real.
  const int64_t most_tiles = std::max<int64_t>(1, packed_rows / tiles.tile_rows + rows.sequences);
  const int64_t context_tokens = rows.blocks_per_sequence * kKvBlockTokens;
  const int64_t seen_tokens =
      rows.window_tokens > 0 ? std::min(context_tokens, rows.window_tokens - 1 + tiles.tile_rows) : context_tokens;
  const int64_t wanted_chunks = std::max<int64_t>(1, fast.blocks_at_once() / (most_tiles * rows.kv.kv_heads));
  const auto in_chunks = [&](int64_t tokens) { return CeilDiv(tokens, kChunkStep) * kChunkStep; };
  int64_t chunk_tokens = in_chunks(std::max(kLeastChunkTokens, CeilDiv(seen_tokens, wanted_chunks)));
  const int64_t long_chunk_tokens = in_chunks(std::max(kLongChunkTokens, CeilDiv(seen_tokens, kMostLongChunks)));
  const int64_t part_bytes = rows.rows * CeilDiv(seen_tokens, long_chunk_tokens) * rows.heads * rows.kv.head_dim *
                             static_cast<int64_t>(sizeof(Bf16));
  if (seen_tokens > kLongContextTokens && part_bytes <= kMostPartBytes) {
    chunk_tokens = std::min(chunk_tokens, long_chunk_tokens);
  }
  tiles.chunk_tokens = static_cast<int32_t>(chunk_tokens);
  tiles.most_chunks = static_cast<int32_t>(CeilDiv(seen_tokens, chunk_tokens));
  tiles.items = static_cast<int32_t>(most_tiles * tiles.most_chunks);
  return tiles;
}

// The plans of the step that runs: its layers with one window share one. A step begins with a call of a layer that is
// not above the last one's, or of other tensors, which are kept so that no other step has theirs in the same place.
class StepPlans final {
 public:
  absl::StatusOr<AttentionTiles> Of(const FastAttention& fast, const PagedAttentionArgs& args,
                                    const AttentionRows<Bf16>& rows) {
    const bool same_step = args.layer > last_layer_ && batch_[0].is_same(args.positions) &&
                           batch_[1].is_same(args.cu_rows) && batch_[2].is_same(args.block_table);
    if (!same_step) {
      plans_.clear();
      batch_[0] = args.positions, batch_[1] = args.cu_rows, batch_[2] = args.block_table;
    }
    last_layer_ = args.layer;
    for (const Plan& plan : plans_) {
      if (plan.rows.window_tokens == rows.window_tokens && plan.rows.heads == rows.heads &&
          plan.rows.kv.kv_heads == rows.kv.kv_heads && plan.rows.kv.head_dim == rows.kv.head_dim) {
        return plan.tiles;
      }
    }
    Plan plan = {rows, SizesOf(fast, rows), {}};
    plan.memory = at::empty({PlaceTiles(rows, nullptr, &plan.tiles)}, args.positions.options().dtype(at::kByte));
    PlaceTiles(rows, static_cast<std::byte*>(plan.memory.mutable_data_ptr()), &plan.tiles);
    RETURN_IF_ERROR(StatusOf("PagedAttention", LaunchAttentionTiles(rows, plan.tiles, StreamOf(args.q))));
    return plans_.emplace_back(std::move(plan)).tiles;
  }

 private:
  struct Plan {
    AttentionRows<Bf16> rows;
    AttentionTiles tiles;
    at::Tensor memory;
  };
  at::Tensor batch_[3];  // positions, cu_rows, block_table
  int64_t last_layer_ = -1;
  std::vector<Plan> plans_;
};

// A small batch: some sequences that decode, and one with rows in the middle of its prompt.
struct CheckedCase {
  int64_t head_dim, window_tokens, prompt_rows;
  double softcap;
};

// What PagedAttention makes of the case, on the host in f32.
absl::StatusOr<at::Tensor> Attend(const CheckedCase& checked) {
  constexpr int64_t kHeads = 4, kKvHeads = 2, kBlocks = 19;  // of a sequence
  const std::vector<std::pair<int32_t, int64_t>> sequences = {{300, 1}, {80, checked.prompt_rows}, {17, 1}};
  std::vector<int32_t> positions, cu_rows = {0}, table;
  for (const auto& [context, count] : sequences) {
    for (int64_t i = 0; i < count; ++i) positions.push_back(context - static_cast<int32_t>(count - i));
    cu_rows.push_back(static_cast<int32_t>(positions.size()));
    const int64_t blocks = CeilDiv(context, kKvBlockTokens);
    const auto first = static_cast<int32_t>(table.size());
    for (int32_t b = 0; b < kBlocks; ++b) table.push_back(b < blocks ? first + kBlocks - 1 - b : -1);
  }
  const auto rows = static_cast<int64_t>(positions.size()), count = std::ssize(sequences);
  KvView kv;
  kv.layout = {.num_layers = 1, .num_kv_heads = kKvHeads, .head_dim = checked.head_dim, .dtype = DType::kBF16};
  kv.page_bytes = kv.layout.block_bytes();
  at::Tensor arena = DrawnOnDevice(count * kBlocks, kv.page_bytes / int64_t{sizeof(Bf16)}, /*seed=*/1);
  kv.arena = static_cast<std::byte*>(arena.mutable_data_ptr());
  const at::Tensor q = DrawnOnDevice(rows, kHeads * checked.head_dim, /*seed=*/2);
  at::Tensor y = at::empty_like(q);
  RETURN_IF_ERROR(PagedAttention({.q = q,
                                  .num_heads = kHeads,
                                  .positions = IntsOnDevice(positions, {rows}),
                                  .cu_rows = IntsOnDevice(cu_rows, {count + 1}),
                                  .block_table = IntsOnDevice(table, {count, kBlocks}),
                                  .layer = 0,
                                  .window_tokens = checked.window_tokens,
                                  .scale = 1.0 / std::sqrt(static_cast<double>(checked.head_dim)),
                                  .softcap = checked.softcap,
                                  .kv = kv,
                                  .y = y}));
  return y.to(at::kFloat).cpu();
}

// What speaks against the fast form at this case, or nothing.
std::optional<std::string> Objection(const CheckedCase& checked) {
  constexpr double kLimit = 1e-2;  // values are within 1, and both round them to bf16, the fast form's weights as well
  const auto attend = [&](std::vector<int64_t> trusted) {
    TrustedHeadDims() = std::move(trusted);
    return Attend(checked);
  };
  return ObjectionTo([&] { return attend({checked.head_dim}); }, [&] { return attend({}); }, kLimit);
}

}  // namespace

absl::StatusOr<bool> AttendFast(const PagedAttentionArgs& args, const AttentionRows<Bf16>& rows) {
  const FastAttention& fast = LinkedFastAttention();
  if (!Covers(fast, rows)) return false;
  static auto* const plans = new StepPlans;  // the executor's thread alone asks
  ASSIGN_OR_RETURN(const AttentionTiles tiles, plans->Of(fast, args, rows));
  const cudaStream_t stream = StreamOf(args.q);
  RETURN_IF_ERROR(StatusOf(fast.name, fast.run(rows, tiles, stream)));
  RETURN_IF_ERROR(StatusOf("PagedAttention", LaunchRefusedAttention(rows, tiles, stream)));
  return true;
}

std::vector<std::string> CheckFastAttention(std::vector<std::string>* used) {
  const c10::InferenceMode no_autograd;
  const FastAttention& fast = LinkedFastAttention();
  std::vector<std::string> objections;
  std::vector<int64_t> agreed;
  for (const int64_t head_dim : fast.head_dims) {
    std::vector<CheckedCase> cases;
    for (const int64_t window_tokens : {0, 33}) {
      for (const int64_t prompt_rows : {3, 75}) cases.push_back({head_dim, window_tokens, prompt_rows, 0.0});
    }
    if (fast.caps(head_dim)) cases.push_back({head_dim, 0, 75, 2.5});
    std::optional<std::string> objection;
    for (size_t i = 0; i < cases.size() && !objection.has_value(); ++i) {
      objection = Objection(cases[i]);
      if (!objection.has_value()) continue;
      objections.push_back(absl::StrCat("attention by ", fast.name, ", head size ", head_dim, ", window ",
                                        cases[i].window_tokens, ": ", *objection, "; ours is used"));
    }
    if (!objection.has_value()) agreed.push_back(head_dim);
  }
  if (used != nullptr && !agreed.empty()) {
    used->push_back(absl::StrCat("attention by ", fast.name, " of heads of ", absl::StrJoin(agreed, ", ")));
  }
  TrustedHeadDims() = std::move(agreed);
  return objections;
}

void LeaveOutFastAttention() { TrustedHeadDims().clear(); }

}  // namespace lorad::cuda
