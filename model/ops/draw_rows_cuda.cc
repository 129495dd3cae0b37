#include <algorithm>

#include <ATen/ops/empty.h>

#include "model/ops/cuda/draw_kernels.h"
#include "model/ops/cuda/tensor_rows.h"
#include "model/ops/cuda/upload.h"
#include "model/ops/cuda_ops.h"

namespace lorad::cuda {

absl::Status DrawRows(const DrawRowsArgs& args) {
  if (args.rows.empty()) return absl::OkStatus();
  Upload upload;
  const int64_t rows = upload.Add(args.rows), edits = upload.Add(args.edits);
  upload.Send(args.logits);
  const at::Tensor replaced = at::empty({std::ssize(args.edits)}, args.logits.options());
  auto* const drawn = static_cast<std::byte*>(args.drawn.mutable_data_ptr());
  const int64_t count = std::ssize(args.rows);
  int64_t vocab = 0;
  for (const DrawRow& row : args.rows) vocab = std::max<int64_t>(vocab, row.vocab_size);
  const DrawnLogits logits = {.logits = MutableRowsOf<float>(args.logits),
                              .rows = upload.At<DrawRow>(rows),
                              .edits = upload.At<LogitEdit>(edits),
                              .replaced = static_cast<float*>(replaced.mutable_data_ptr()),
                              .most = args.most,
                              .drawn = reinterpret_cast<DrawnRow*>(drawn),
                              .top = reinterpret_cast<DrawnLogprob*>(drawn + DrawnBytes(count, 0))};
  return StatusOf("DrawRows", LaunchDrawRows(logits, count, vocab, StreamOf(args.logits)));
}

absl::Status PutDrawnTokens(const PutDrawnTokensArgs& args) {
  if (args.ids.numel() == 0) return absl::OkStatus();
  const DrawnTokens drawn = {args.drawn.const_data_ptr<int32_t>(), args.drawn.size(0), args.drawn.stride(0)};
  return StatusOf("PutDrawnTokens", LaunchPutDrawnTokens(drawn, args.ids.mutable_data_ptr<int32_t>(), args.ids.numel(),
                                                         StreamOf(args.ids)));
}

}  // namespace lorad::cuda
