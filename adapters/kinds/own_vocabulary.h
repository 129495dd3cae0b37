#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/image.h"
#include "model/sites.h"

namespace lorad {

// The size of an enlarged vocabulary: the base's tokens, then those that embedding and head have rows for beyond the
// base's (PEFT saves both tables after resize_token_embeddings, or the tokens alone). 0: it is the base's.
// Errors: InvalidArgument when one of the two lacks a row that the other has, or a row in between: such a token could
// be read but not written, or the other way round.
absl::StatusOr<int64_t> OwnVocabulary(const std::string& path, const std::vector<ImageSlot>& slots,
                                      const BaseShape& base);

}  // namespace lorad
