#include "server/text_stream.h"

#include <utility>

namespace lorad {

TextStream::TextStream(PieceDecoder decoder, const SamplingOptions& sampling)
    : decoder_(std::move(decoder)), min_tokens_(sampling.min_tokens), matcher_(sampling.stop) {}

StopMatcher::Result TextStream::Append(int32_t token_id, bool ends_here) {
  ++tokens_;
  if (ends_here) return {};
  std::string text = decoder_.append(token_id);
  if (tokens_ < min_tokens_) return {std::move(text), false};  // Nothing is held then: the matcher saw no text yet.
  return matcher_.Append(text);
}

StopMatcher::Result TextStream::Finish() {
  const std::string text = decoder_.finish();
  if (tokens_ < min_tokens_) return {text, false};
  StopMatcher::Result result = matcher_.Append(text);
  if (!result.stopped) result.text += matcher_.Finish();
  return result;
}

}  // namespace lorad
