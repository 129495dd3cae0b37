#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/types/span.h"
#include "model/text/tokenizer.h"

namespace lorad {

// Turns the ids of one sequence into text as they are generated.
//
// The deltas together are what Tokenizer::Decode says of all the ids, read on from the end of the prompt: the space
// that a decoder strips at the beginning of a text is kept in the middle of one. Each delta is valid UTF-8: a character
// whose bytes come with several ids is held back until it is complete, a run of <0xNN> pieces until it ends, and what
// is still incomplete at Finish becomes U+FFFD. One exception, so that a script that is spelled in bytes still streams:
// after kMaxRunIds ids a run that is text so far is given out, even if it may turn out broken later.
//
// Cost     an id decodes a window of a few dozen ids, however long the text is.
// Threads  one at a time.
// Errors   none: ids that the tokenizer does not have are rows that pad an embedding, and are no text.
class Detokenizer final {
 public:
  // The last few of `prompt_ids` are copied.
  Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, absl::Span<const int32_t> prompt_ids,
              bool skip_special_tokens);

  // The text that `id` settles, often empty.
  std::string Append(int32_t id);
  // The rest. After it only the destructor may be called.
  std::string Finish();

 private:
  static constexpr size_t kContextIds = 8;
  static constexpr size_t kMaxWindowIds = 32;
  static constexpr size_t kMaxHeldIds = 16;
  static constexpr size_t kMaxRunIds = 16;

  // Decode would say the same without it at the window's end.
  bool IsSilent(int32_t id) const;
  std::string WindowText() const;
  // What `text` has beyond what was given out.
  std::string Delta(std::string_view text) const;
  // Inside a run of byte pieces.
  std::string AppendToRun();
  void TrimWindow();

  const std::shared_ptr<const Tokenizer> tokenizer_;
  const bool skip_special_tokens_;
  std::vector<int32_t> window_;  // The last ids: some context, and all that is held back.
  std::string given_;            // The part of the window's text that the caller has, or that is the prompt's.
  size_t held_ids_ = 0;          // Since all of the window's text was given out.
  size_t run_ids_ = 0;           // Byte pieces at the window's end.
};

}  // namespace lorad
