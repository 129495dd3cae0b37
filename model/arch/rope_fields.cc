#include "model/arch/rope_fields.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/arch/decoder.h"

namespace lorad {
namespace {

constexpr double kHighestFactor = 1e6;
constexpr char kOriginal[] = "original_max_position_embeddings";
constexpr char kShare[] = "partial_rotary_factor";
constexpr char kWholeHeads[] = "this architecture rotates whole heads";

struct RopeType {
  const char* name;
  RopeScaling scaling;
  std::vector<const char*> keys;  // beside rope_type, type, rope_theta and partial_rotary_factor
};

const RopeType* FindRopeType(absl::string_view name) {
  static const RopeType types[] = {
      {"default", RopeScaling::kNone, {}},
      {"linear", RopeScaling::kLinear, {"factor"}},
      {"dynamic", RopeScaling::kDynamic, {"factor"}},
      {"yarn",
       RopeScaling::kYarn,
       {"factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
        "mscale_all_dim", "truncate"}},
      {"longrope",
       RopeScaling::kLongRope,
       {"factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"}},
      {"llama3",
       RopeScaling::kLlama3,
       {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"}},
  };
  const auto found =
      std::find_if(std::begin(types), std::end(types), [&](const RopeType& t) { return name == t.name; });
  return found == std::end(types) ? nullptr : found;
}

// Any key that we do not know for `type` might change the angles.
void RefuseUnknownKeys(ConfigFields& rope, const RopeType& type) {
  static constexpr std::array kOfAll = {"rope_type", "type", "rope_theta", "partial_rotary_factor"};
  for (const auto& item : rope.json().items()) {
    const auto is_it = [&](const char* key) { return item.key() == key; };
    if (std::any_of(kOfAll.begin(), kOfAll.end(), is_it)) continue;
    if (std::any_of(type.keys.begin(), type.keys.end(), is_it) || item.value().is_null()) continue;
    rope.Refuse(item.key().c_str(), "unknown key for this rope type");
  }
}

void ReadLlama3(ConfigFields& rope, RopeConfig* out) {
  out->low_freq_factor = rope.RequiredNumber("low_freq_factor", 1e-3, kHighestFactor);
  out->high_freq_factor = rope.RequiredNumber("high_freq_factor", 1e-3, kHighestFactor);
  if (out->high_freq_factor <= out->low_freq_factor) {
    rope.Fail(absl::InvalidArgumentError(
        absl::StrCat(rope.Describe("high_freq_factor"), "; must be above low_freq_factor: ", out->low_freq_factor)));
  }
}

// 0 counts as absent for the betas and the mscales, as it does in HF.
void ReadYarn(ConfigFields& rope, RopeConfig* out) {
  const auto number_or = [&](const char* key, double absent) {
    const double value = rope.Number(key, 0.0, kHighestFactor, absent);
    return value == 0.0 ? absent : value;
  };
  out->beta_fast = number_or("beta_fast", 32.0);
  out->beta_slow = number_or("beta_slow", 1.0);
  if (out->beta_fast < out->beta_slow) {
    rope.Fail(absl::InvalidArgumentError(
        absl::StrCat(rope.Describe("beta_fast"), "; must not be below beta_slow: ", out->beta_slow)));
  }
  out->truncate = rope.Bool("truncate", true);
  const double mscale = number_or("mscale", 0.0), mscale_all_dim = number_or("mscale_all_dim", 0.0);
  const auto mscale_of = [&](double weight) {
    return out->factor <= 1 ? 1.0 : 0.1 * weight * std::log(out->factor) + 1.0;
  };
  const bool both = mscale != 0.0 && mscale_all_dim != 0.0;
  out->attention_factor = rope.Number("attention_factor", 0.0, kHighestFactor,
                                      both ? mscale_of(mscale) / mscale_of(mscale_all_dim) : mscale_of(1.0));
}

void ReadLongRope(ConfigFields& rope, RopeConfig* out) {
  out->short_factors = rope.Numbers("short_factor", 1e-3, kHighestFactor, out->rotary_dim / 2);
  out->long_factors = rope.Numbers("long_factor", 1e-3, kHighestFactor, out->rotary_dim / 2);
  const double original = static_cast<double>(out->original_max_positions);
  const double absent = out->factor <= 1 ? 1.0 : std::sqrt(1 + std::log(out->factor) / std::log(original));
  out->attention_factor = rope.Number("attention_factor", 0.0, kHighestFactor, absent);
}

// One dict; theta and rotary_dim are there already. `outer_original`: original_max_position_embeddings beside the dict,
// where some files have it and where it wins, as in HF; 0 = none.
void ReadScaling(ConfigFields& rope, int64_t outer_original, const ModelConfig& config, RopeConfig* out) {
  const char* type_key = rope.Has("rope_type") ? "rope_type" : "type";
  const RopeType* type = FindRopeType(rope.String(type_key, "default"));
  if (type == nullptr) {
    rope.Refuse(type_key, "rope types default, linear, dynamic, yarn, longrope and llama3 are");
    return;
  }
  RefuseUnknownKeys(rope, *type);
  out->scaling = type->scaling;
  if (out->scaling == RopeScaling::kNone) return;
  const double context = static_cast<double>(config.max_context_tokens);
  out->original_max_positions =
      outer_original > 0 ? outer_original : rope.Int(kOriginal, 1, kMaxContextTokens, config.max_context_tokens);
  if (out->scaling == RopeScaling::kDynamic) out->original_max_positions = config.max_context_tokens;
  out->factor =
      out->scaling == RopeScaling::kLongRope
          ? rope.Number("factor", 1e-3, kHighestFactor, context / static_cast<double>(out->original_max_positions))
          : rope.RequiredNumber("factor", 1e-3, kHighestFactor);
  if (out->scaling == RopeScaling::kDynamic && out->factor < 1) {
    rope.Fail(absl::InvalidArgumentError(absl::StrCat(rope.Describe("factor"), "; must be 1 or more")));
  }
  if (out->scaling == RopeScaling::kDynamic && out->rotary_dim <= 2) {
    rope.Fail(absl::InvalidArgumentError(
        absl::StrCat(rope.Describe(type_key), "; rotated dimensions: ", out->rotary_dim, "; must be above 2")));
  }
  if (out->scaling == RopeScaling::kLlama3) ReadLlama3(rope, out);
  if (out->scaling == RopeScaling::kYarn) ReadYarn(rope, out);
  if (out->scaling == RopeScaling::kLongRope) ReadLongRope(rope, out);
}

// The key wins over rope_parameters when a file has both, as in HF.
bool IsVersion4(const ConfigFields& fields) {
  return fields.Has("rope_scaling") && !fields.json()["rope_scaling"].empty();
}

double ReadTheta(ConfigFields& from, const char* key, double absent) { return from.Number(key, 1.0, 1e15, absent); }

// How far the angles reach: some files leave max_position_embeddings at what the model was trained with.
int64_t ContextOf(const RopeConfig& rope, int64_t max_position_embeddings) {
  if (rope.scaling != RopeScaling::kDynamic && rope.scaling != RopeScaling::kYarn) return max_position_embeddings;
  const double reach = rope.factor * static_cast<double>(rope.original_max_positions);
  return std::max(max_position_embeddings,
                  static_cast<int64_t>(std::min(reach, static_cast<double>(kMaxContextTokens))));
}

RopeSwitch SwitchOf(const RopeConfig& rope) {
  constexpr int64_t kNoLast = kMaxContextTokens;
  if (rope.scaling == RopeScaling::kLongRope) return {.every_tokens = rope.original_max_positions, .last_variant = 1};
  if (rope.scaling == RopeScaling::kDynamic) {
    return {.every_tokens = rope.original_max_positions, .last_variant = kNoLast};
  }
  return {};
}

}  // namespace

void ReadRope(ConfigFields& fields, ModelConfig* config) {
  for (const char* place : {"rope_scaling", "rope_parameters"}) {
    ConfigFields rope = fields.Object(place);
    if (rope.Number(kShare, 0.0, 1.0, 1.0) != 1.0) rope.Refuse(kShare, kWholeHeads);
    fields.Fail(rope.status());
  }
  if (fields.Number(kShare, 0.0, 1.0, 1.0) != 1.0) fields.Refuse(kShare, kWholeHeads);
  ReadPartialRope(fields, /*absent_share=*/1.0, config);
}

void ReadPartialRope(ConfigFields& fields, double absent_share, ModelConfig* config) {
  ConfigFields rope = fields.Object(IsVersion4(fields) ? "rope_scaling" : "rope_parameters");
  RopeConfig& out = config->rope;
  out.theta = ReadTheta(rope, "rope_theta", ReadTheta(fields, "rope_theta", 10000.0));
  const double share = rope.Number(kShare, 0.0, 1.0, fields.Number(kShare, 0.0, 1.0, absent_share));
  out.rotary_dim = static_cast<int64_t>(static_cast<double>(config->head_dim) * share);
  if (out.rotary_dim < 2 || out.rotary_dim % 2 != 0) {
    fields.Fail(absl::InvalidArgumentError(
        absl::StrCat(rope.Describe(kShare), "; rotated dimensions: ", out.rotary_dim, "; must be even, at least 2")));
  }
  ReadScaling(rope, fields.Int(kOriginal, 1, kMaxContextTokens, 0), *config, &out);
  fields.Fail(rope.status());
  config->rope_switch = SwitchOf(out);
  config->max_context_tokens = ContextOf(out, config->max_context_tokens);
}

void ReadTwoRopes(ConfigFields& fields, ModelConfig* config) {
  constexpr double kGlobalTheta = 1e6, kLocalTheta = 1e4;  // HF's, when absent
  ConfigFields both = fields.Object("rope_parameters");
  for (const auto& item : both.json().items()) {
    if (item.key() == "full_attention" || item.key() == "sliding_attention") continue;
    both.Refuse(item.key().c_str(), "one dict for full_attention and one for sliding_attention are");
  }
  if (IsVersion4(fields) && both.Has("full_attention")) both.Refuse("full_attention", "beside rope_scaling");
  ConfigFields global = IsVersion4(fields) ? fields.Object("rope_scaling") : both.Object("full_attention");
  ConfigFields local = both.Object("sliding_attention");
  RopeConfig local_rope;
  config->rope.theta = ReadTheta(global, "rope_theta", ReadTheta(fields, "rope_theta", kGlobalTheta));
  local_rope.theta = ReadTheta(local, "rope_theta", ReadTheta(fields, "rope_local_base_freq", kLocalTheta));
  config->rope.rotary_dim = local_rope.rotary_dim = config->head_dim;
  for (ConfigFields* rope : {&global, &local}) {
    for (const char* key : {"partial_rotary_factor", "truncate"}) {
      if (rope->Has(key)) rope->Refuse(key, "transformers does not read it here");
    }
  }
  ReadScaling(global, /*outer_original=*/0, *config, &config->rope);
  ReadScaling(local, /*outer_original=*/0, *config, &local_rope);
  if (SwitchOf(local_rope).every_tokens > 0) local.Refuse("rope_type", "default, linear, yarn and llama3 are here");
  config->local_rope = std::move(local_rope);
  config->rope_switch = SwitchOf(config->rope);
  config->max_context_tokens = ContextOf(config->rope, config->max_context_tokens);
  for (const ConfigFields* rope : {&both, &global, &local}) fields.Fail(rope->status());
}

}  // namespace lorad
