#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/sampler/sampling_options.h"
#include "server/stop_matcher.h"

namespace lorad {

// Ids to text, one at a time; a Detokenizer in the daemon. Both give what is new, whole characters only.
struct PieceDecoder {
  std::function<std::string(int32_t token_id)> append;
  std::function<std::string()> finish;
};

// The text of one sequence: detokenised, cut at the first stop string, without the stop token. Not thread-safe.
class TextStream final {
 public:
  // `sampling` outlives the stream.
  TextStream(PieceDecoder decoder, const SamplingOptions& sampling);

  // `ends_here`: this is the stop token that ended the sequence.
  StopMatcher::Result Append(int32_t token_id, bool ends_here);
  // No more tokens: what was held back. It may still complete a stop string.
  StopMatcher::Result Finish();

  int64_t tokens() const { return tokens_; }

 private:
  const PieceDecoder decoder_;
  const int64_t min_tokens_;
  StopMatcher matcher_;
  int64_t tokens_ = 0;
};

}  // namespace lorad
