#include "absl/strings/str_cat.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu_ops.h"

namespace lorad::cpu {

absl::Status PutDrawnTokens(const PutDrawnTokensArgs& args) {
  auto* const ids = args.ids.mutable_data_ptr<int32_t>();
  const auto* const drawn = args.drawn.const_data_ptr<int32_t>();
  const int64_t draws = args.drawn.size(0), stride = args.drawn.stride(0);
  for (int64_t t = 0; t < args.ids.size(0); ++t) {
    const int64_t n = int64_t{kTokenOfFirstDraw} - ids[t];
    if (n < 0) continue;
    if (n >= draws) {
      return ArgCheck("PutDrawnTokens")
          .Error("ids", absl::StrCat("draw ", n, " at ", t), absl::StrCat(draws, " draws"));
    }
    ids[t] = drawn[n * stride];
  }
  return absl::OkStatus();
}

}  // namespace lorad::cpu
