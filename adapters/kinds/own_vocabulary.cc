#include "adapters/kinds/own_vocabulary.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace lorad {
namespace {

// Rows beyond the base's: up to which token, and how many.
struct OwnRows {
  int64_t end = 0;
  int64_t count = 0;
};

OwnRows OwnRowsOf(const std::vector<ImageSlot>& slots, Site site, int64_t vocab_size) {
  for (const ImageSlot& slot : slots) {
    if (slot.site != site || !slot.rows.present()) continue;
    const std::vector<int32_t>& ids = slot.row_ids;
    if (ids.empty()) return {slot.rows.shape[0], std::max<int64_t>(0, slot.rows.shape[0] - vocab_size)};
    return {ids.back() + 1, ids.end() - std::lower_bound(ids.begin(), ids.end(), vocab_size)};
  }
  return {};
}

}  // namespace

absl::StatusOr<int64_t> OwnVocabulary(const std::string& path, const std::vector<ImageSlot>& slots,
                                      const BaseShape& base) {
  const OwnRows embedding = OwnRowsOf(slots, Site::kEmbedTokens, base.vocab_size);
  const OwnRows head = OwnRowsOf(slots, Site::kLmHead, base.vocab_size);
  const int64_t end = std::max(embedding.end, head.end);
  if (end <= base.vocab_size) return 0;
  const int64_t own = end - base.vocab_size;
  if (embedding.count == own && head.count == own) return end;
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": tokens ", base.vocab_size, "..", end - 1, " beyond the base's vocabulary: rows in the embedding: ",
      embedding.count, ", in the head: ", head.count, "; wanted: ", own, " in both; save both (modules_to_save)"));
}

}  // namespace lorad
