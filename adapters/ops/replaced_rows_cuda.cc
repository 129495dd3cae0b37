#include <algorithm>
#include <vector>

#include "adapters/ops/cuda/replaced_kernels.h"
#include "adapters/ops/cuda_ops.h"
#include "model/ops/check_args.h"
#include "model/ops/cuda/tensor_rows.h"
#include "model/ops/cuda/upload.h"
#include "model/ops/cuda_ops.h"

namespace lorad::cuda {
namespace {

// The tiles of a step, those of every segment's first replacing term, then those of its second one, …: a later
// replacement is a later launch.
using Tiles = std::vector<std::vector<ReplacedTile>>;

template <typename Args>
Tiles CutIntoTiles(const Args& args) {
  Tiles rounds;
  const RowSegments& rows = args.rows;
  for (int64_t g = 0; g < rows.groups(); ++g) {
    size_t round = 0;
    for (int32_t t = rows.term_starts[g]; t < rows.term_starts[g + 1]; ++t) {
      const SlotWeights& w = args.slots[rows.terms[t].slot];
      if (!w.replaces()) continue;
      if (rounds.size() == round) rounds.emplace_back();
      for (int32_t r = rows.starts[g]; r < rows.starts[g + 1]; r += kRowsPerTile) {
        rounds[round].push_back({r, std::min<int32_t>(kRowsPerTile, rows.starts[g + 1] - r), w});
      }
      ++round;
    }
  }
  return rounds;
}

// fn(tiles on the device, tiles on the host) for each round.
template <typename Fn>
absl::Status ForEachRound(const Tiles& rounds, std::string_view op, const at::Tensor& beside, int64_t width,
                          const Fn& fn) {
  for (const std::vector<ReplacedTile>& tiles : rounds) {
    if (tiles.empty()) continue;
    for (const ReplacedTile& tile : tiles) {
      if (tile.weights.width != width) {
        return ArgCheck(op).Error("rows", absl::StrCat("width ", tile.weights.width), absl::StrCat("width ", width));
      }
    }
    Upload upload;
    const int64_t at = upload.Add(tiles);
    upload.Send(beside);
    const absl::Status status = StatusOf(op, fn(upload.At<ReplacedTile>(at), tiles));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ReplaceEmbeddingRows(const ReplaceEmbeddingRowsArgs& args) {
  const int64_t width = args.y.size(1);
  return ForEachRound(CutIntoTiles(args), "ReplaceEmbeddingRows", args.y, width,
                      [&](const ReplacedTile* tiles, const std::vector<ReplacedTile>& on_host) {
                        return ForTypeOf(args.y, [&](auto of_rows) {
                          return LaunchReplaceEmbeddingRows(tiles, std::ssize(on_host),
                                                            args.ids.const_data_ptr<int32_t>(), width,
                                                            MutableRowsOf<decltype(of_rows)>(args.y), StreamOf(args.y));
                        });
                      });
}

absl::Status ReplaceHeadRows(const ReplaceHeadRowsArgs& args) {
  const int64_t width = args.x.size(1);
  return ForEachRound(CutIntoTiles(args), "ReplaceHeadRows", args.y, width,
                      [&](const ReplacedTile* tiles, const std::vector<ReplacedTile>& on_host) {
                        int64_t most = 0;
                        for (const ReplacedTile& tile : on_host) most = std::max<int64_t>(most, tile.weights.num_rows);
                        return ForTypeOf(args.y, [&](auto of_rows) {
                          using T = decltype(of_rows);
                          return LaunchReplaceHeadRows(tiles, std::ssize(on_host), most, RowsOf<T>(args.x), width,
                                                       MutableRowsOf<T>(args.y), args.y.size(1), StreamOf(args.y));
                        });
                      });
}

}  // namespace lorad::cuda
