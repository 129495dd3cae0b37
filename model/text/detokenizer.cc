#include "model/text/detokenizer.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "model/text/utf8.h"

namespace lorad {
namespace {

bool EndsInReplacement(std::string_view text) {
  return text.size() >= kReplacementCharacter.size() &&
         text.substr(text.size() - kReplacementCharacter.size()) == kReplacementCharacter;
}

// Without the last three U+FFFD: the bytes behind them may be the beginning of one character, which has at most four.
std::string_view Settled(std::string_view text) {
  for (int i = 0; i < 3 && EndsInReplacement(text); ++i) text.remove_suffix(kReplacementCharacter.size());
  return text;
}

}  // namespace

Detokenizer::Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, absl::Span<const int32_t> prompt_ids,
                         bool skip_special_tokens)
    : tokenizer_(std::move(tokenizer)), skip_special_tokens_(skip_special_tokens) {
  for (size_t i = prompt_ids.size(); i > 0; --i) {
    // A run of byte pieces is read as one, so the context does not begin inside it.
    const bool in_run = !window_.empty() && tokenizer_->joins_byte_run(window_.back());
    if (window_.size() >= kContextIds && !in_run) break;
    if (!IsSilent(prompt_ids[i - 1])) window_.push_back(prompt_ids[i - 1]);
  }
  std::reverse(window_.begin(), window_.end());
  given_ = WindowText();
}

bool Detokenizer::IsSilent(int32_t id) const {
  // One after the other the same skipped token says no more than one of them; a window of nothing else would grow.
  const bool repeated = !window_.empty() && window_.back() == id && skip_special_tokens_ && tokenizer_->is_special(id);
  return repeated || tokenizer_->is_ignored(id, skip_special_tokens_);
}

std::string Detokenizer::WindowText() const {
  // IsSilent has checked the ids, which leaves Decode no reason to fail.
  return tokenizer_->Decode(window_, skip_special_tokens_).value_or(given_);
}

std::string Detokenizer::Delta(std::string_view text) const {
  // Bytes that complete a character change the U+FFFD that stood for its first ones.
  const size_t shorter = std::min(text.size(), given_.size());
  size_t common = static_cast<size_t>(
      std::mismatch(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(shorter), given_.begin()).first -
      text.begin());
  while (common > 0 && IsContinuation(text, common)) --common;
  return std::string(text.substr(common));
}

std::string Detokenizer::Append(int32_t id) {
  if (IsSilent(id)) return "";
  window_.push_back(id);
  ++held_ids_;
  if (tokenizer_->joins_byte_run(id)) return AppendToRun();
  run_ids_ = 0;
  const std::string text = WindowText();
  const bool incomplete = EndsInReplacement(text);
  if (incomplete && held_ids_ < kMaxHeldIds) return "";
  const std::string_view settled = incomplete ? Settled(text) : std::string_view(text);
  std::string delta = settled.size() > given_.size() || !incomplete ? Delta(settled) : "";
  if (!incomplete) held_ids_ = 0;
  if (!incomplete || !delta.empty()) given_ = settled;
  if (window_.size() >= kMaxWindowIds) TrimWindow();
  return delta;
}

std::string Detokenizer::AppendToRun() {
  ++run_ids_;
  // A run that is no text with four more bytes is broken, and is only read again when it ends.
  if (run_ids_ < kMaxRunIds || run_ids_ >= kMaxRunIds + 4) return "";
  const std::string text = WindowText();
  if (EndsInReplacement(text)) return "";
  std::vector<int32_t> before(window_.begin(), window_.end() - static_cast<std::ptrdiff_t>(run_ids_));
  const std::string context = tokenizer_->Decode(before, skip_special_tokens_).value_or("");
  if (context.empty()) return "";
  std::string delta = Delta(text);
  window_ = std::move(before);
  given_ = context;
  held_ids_ = 0;
  run_ids_ = 0;
  return delta;
}

void Detokenizer::TrimWindow() {
  std::vector<int32_t> whole = std::move(window_);
  window_.assign(whole.end() - static_cast<std::ptrdiff_t>(kContextIds), whole.end());
  const std::string text = WindowText();
  const std::string_view settled = held_ids_ == 0 ? std::string_view(text) : Settled(text);
  if (settled.empty()) {
    window_ = std::move(whole);
    return;
  }
  given_ = settled;
}

std::string Detokenizer::Finish() {
  std::string delta = held_ids_ > 0 ? Delta(WindowText()) : "";
  window_.clear();
  given_.clear();
  held_ids_ = 0;
  return delta;
}

}  // namespace lorad
