#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu/attention_kernels.h"
#include "model/ops/cpu/key_panels.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu_ops.h"

namespace lorad::cpu {
namespace {

constexpr int64_t kQueriesPerTile = 32;
constexpr int64_t kProductsOfOneThread = 1 << 16;  // less work than this in all is not shared

constexpr int64_t kTasksPerThread = 4;

// Rows of one sequence that are computed together.
struct Tile {
  int64_t sequence;
  int64_t first_row;
  int64_t rows;
};

absl::Status CheckSequences(const PagedAttentionArgs& args) {
  const ArgCheck check("PagedAttention");
  const int32_t* cu_rows = args.cu_rows.const_data_ptr<int32_t>();
  const int32_t* positions = args.positions.const_data_ptr<int32_t>();
  const int32_t* table = args.block_table.const_data_ptr<int32_t>();
  const int64_t sequences = args.block_table.size(0), columns = args.block_table.size(1);
  if (cu_rows[0] != 0 || cu_rows[sequences] != args.q.size(0)) {
    return check.Error("cu_rows", absl::StrCat(cu_rows[0], " to ", cu_rows[sequences]),
                       absl::StrCat("0 to ", args.q.size(0)));
  }
  for (int64_t s = 0; s < sequences; ++s) {
    if (cu_rows[s + 1] < cu_rows[s]) return check.Error("cu_rows", absl::StrCat("falls at ", s + 1), "ascending");
    if (cu_rows[s + 1] == cu_rows[s]) continue;
    const int64_t first = positions[cu_rows[s]];
    for (int64_t r = cu_rows[s]; r < cu_rows[s + 1]; ++r) {
      if (positions[r] < 0 || positions[r] != first + r - cu_rows[s]) {
        return check.Error("positions", absl::StrCat(positions[r], " in row ", r), "consecutive in a sequence");
      }
    }
    const int64_t last_block = positions[cu_rows[s + 1] - 1] / kKvBlockTokens;
    if (last_block >= columns) {
      return check.Error("block_table", absl::StrCat(columns, " blocks"), absl::StrCat(last_block + 1, " or more"));
    }
    const int64_t oldest = args.window_tokens > 0 ? std::max<int64_t>(0, first - args.window_tokens + 1) : 0;
    for (int64_t b = oldest / kKvBlockTokens; b <= last_block; ++b) {
      if (table[s * columns + b] < 0) {
        return check.Error("block_table", absl::StrCat("no block ", b, " of sequence ", s), "a block number");
      }
    }
  }
  return absl::OkStatus();
}

template <typename T>
void Run(const PagedAttentionArgs& args) {
  const KvLayout& layout = args.kv.layout;
  const int32_t* cu_rows = args.cu_rows.const_data_ptr<int32_t>();
  const int32_t* positions = args.positions.const_data_ptr<int32_t>();
  const int32_t* table = args.block_table.const_data_ptr<int32_t>();
  const int64_t columns = args.block_table.size(1), group = args.num_heads / layout.num_kv_heads;
  const int64_t rows_per_tile = std::max<int64_t>(1, kQueriesPerTile / group);
  std::vector<Tile> tiles;
  int64_t products = 0, most = 0;
  for (int64_t s = 0; s < args.block_table.size(0); ++s) {
    for (int64_t r = cu_rows[s]; r < cu_rows[s + 1]; r += rows_per_tile) {
      tiles.push_back({s, r, std::min<int64_t>(rows_per_tile, cu_rows[s + 1] - r)});
      const int64_t of_tile = tiles.back().rows * (positions[r] + 1) * args.num_heads * layout.head_dim;
      products += of_tile;
      most = std::max(most, of_tile);
    }
  }
  const int64_t q_stride = args.q.stride(0), y_stride = args.y.stride(0);
  const T* q = static_cast<const T*>(args.q.const_data_ptr());
  T* y = static_cast<T*>(args.y.mutable_data_ptr());
  // The KV heads of a block lie side by side: a tile computes all of them, unless threads would wait for it.
  const bool whole = most * kTasksPerThread * ComputeThreads() <= products;
  const int64_t kv_heads = whole ? layout.num_kv_heads : 1, tasks_per_tile = layout.num_kv_heads / kv_heads;
  const auto attend = [&](int64_t task) {
    const Tile& tile = tiles[task / tasks_per_tile];
    const int64_t kv_head = task % tasks_per_tile, first_column = kv_head * group * layout.head_dim;
    const AttendArgs a = {.arena = args.kv.arena,
                          .page_bytes = args.kv.page_bytes,
                          .k_offset_bytes = layout.head_offset_bytes(args.layer, false, kv_head),
                          .v_offset_bytes = layout.head_offset_bytes(args.layer, true, kv_head),
                          .head_bytes = layout.head_bytes(),
                          .keys_in_panels = KeysInPanels(layout),
                          .blocks = table + tile.sequence * columns,
                          .kv_heads = kv_heads,
                          .head_dim = layout.head_dim,
                          .first_position = positions[tile.first_row],
                          .rows = tile.rows,
                          .group = group,
                          .window = args.window_tokens,
                          .scale = static_cast<float>(args.scale),
                          .softcap = static_cast<float>(args.softcap),
                          .q_stride = q_stride,
                          .y_stride = y_stride};
    Attend(a, q + tile.first_row * q_stride + first_column, y + tile.first_row * y_stride + first_column);
  };
  const int64_t tasks = std::ssize(tiles) * tasks_per_tile;
  if (products <= kProductsOfOneThread) {
    for (int64_t task = 0; task < tasks; ++task) attend(task);
  } else {
    ParallelTasks(tasks, attend);
  }
}

}  // namespace

absl::Status PagedAttention(const PagedAttentionArgs& args) {
  RETURN_IF_ERROR(CheckSequences(args));
  if (args.q.size(0) == 0) return absl::OkStatus();
  if (args.q.scalar_type() == at::kFloat) {
    Run<float>(args);
  } else {
    Run<uint16_t>(args);
  }
  return absl::OkStatus();
}

}  // namespace lorad::cpu
