#include "adapters/kinds/from_base.h"

#include <cstddef>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/dora.h"
#include "adapters/float_convert.h"
#include "adapters/kinds/initial_pair.h"
#include "model/base/status_macros.h"

namespace lorad {

absl::Status AddInitialPair(const std::string& path, PeftInit init, bool saved_table, bool tied,
                            const AdapterReadOptions& options, ImageSlot* slot) {
  if (init == PeftInit::kKeepsBase || slot->rank == 0) return absl::OkStatus();
  if (slot->site == Site::kLmHead && tied) {
    return absl::UnimplementedError(absl::StrCat(
        path,
        ": init_lora_weights that changes the base's weight, on a tied head: PEFT changes the embedding with it"));
  }
  if (saved_table) return absl::OkStatus();  // it has lost the initial pair already
  if (slot->site == Site::kEmbedTokens || slot->experts > 1) {
    return absl::UnimplementedError(
        absl::StrCat(path, ": init_lora_weights that changes the base's weight, on an embedding or on experts"));
  }
  if (options.base_tables == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat(path, ": init_lora_weights: the base's weights, of which it is made, are not at hand"));
  }
  // What it was made of when training began, whatever this base computes with.
  ASSIGN_OR_RETURN(const BaseTable weight,
                   options.base_tables({.site = slot->site, .layer = slot->layer, .as_stored = true}));
  return TakeInitialPairOff(weight, init, slot);
}

absl::Status AddFromBase(const std::string& path, const AdapterReadOptions& options, ImageSlot* slot) {
  if (!slot->magnitude.present() && !slot->bias.present()) return absl::OkStatus();
  if (options.base_tables == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat(path, ": DoRA and replaced biases need the base's weights, which are not at hand"));
  }
  if (slot->magnitude.present()) {
    ASSIGN_OR_RETURN(const BaseTable weight, options.base_tables({.site = slot->site, .layer = slot->layer}));
    absl::StatusOr<DoraTerms> terms =
        ComputeDoraTerms(weight, slot->site == Site::kEmbedTokens, slot->a, slot->b, slot->magnitude, slot->scale);
    if (!terms.ok()) return absl::DataLossError(absl::StrCat(path, ": ", std::string(terms.status().message())));
    slot->dora = std::move(terms->values);
  }
  if (slot->bias.present()) {
    ASSIGN_OR_RETURN(const BaseTable base,
                     options.base_tables({.site = slot->site, .layer = slot->layer, .bias = true}));
    const auto count = static_cast<size_t>(slot->bias.elements());
    std::vector<float> of_base(count);
    slot->bias_change.resize(count);
    ToF32(base.dtype, base.data, base.rows, of_base.data());
    ToF32(slot->bias.dtype, slot->bias.data(), slot->bias.elements(), slot->bias_change.data());
    for (size_t i = 0; i < count; ++i) slot->bias_change[i] -= of_base[i];
  }
  return absl::OkStatus();
}

}  // namespace lorad
