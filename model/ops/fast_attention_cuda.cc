#include "model/ops/fast_attention_cuda.h"

#include <algorithm>
#include <utility>

#include <ATen/ops/empty.h>

#include "model/base/status_macros.h"
#include "model/kv/kv_layout.h"
#include "model/ops/cuda/tensor_rows.h"
#include "model/ops/cuda_ops.h"

namespace lorad::cuda {
namespace {

using Bf16 = __nv_bfloat16;

// The head sizes for which the fast form is used. At start none; changed by TrustFastAttention alone.
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

void TrustFastAttention(std::vector<int64_t> head_dims) { TrustedHeadDims() = std::move(head_dims); }

}  // namespace lorad::cuda
