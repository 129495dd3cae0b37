#include "server/tuning/routed_spec.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "adapters/kinds/moe_config.h"
#include "model/base/status_macros.h"
#include "server/tuning/field_limits.h"

namespace lorad {
namespace {

constexpr double kMaxCoefficient = 1e3;

const MoeStrategy* StrategyOf(const std::string& kind) {
  return kind.find('-') == std::string::npos ? FindMoeStrategy(absl::StrReplaceAll(kind, {{"_", "-"}})) : nullptr;
}

// The number that people wrote, of which the float was made.
double Written(float value) {
  double number = value;
  return absl::SimpleAtod(absl::StrCat(value), &number) ? number : value;
}

// A field that belongs to some kinds alone.
struct Field {
  bool set;
  const char* name;
  std::vector<std::string> kinds;
};

std::vector<Field> FieldsOf(const v1::AdapterSpec& spec) {
  const std::vector<std::string> mixlora = {"mixlora", "mixlora_dynamic", "mixlora_switch"};
  const std::vector<std::string> with_loss = {"mixlora", "mixlora_dynamic", "mixlora_switch", "mola"};
  const std::vector<std::string> all = {"mixlora", "mixlora_dynamic", "mixlora_switch", "loramoe", "mola"};
  return {{spec.has_num_experts(), "adapter.num_experts", all},
          {spec.has_top_k(), "adapter.top_k", {"mixlora", "mola"}},
          {spec.has_top_p(), "adapter.top_p", {"mixlora_dynamic"}},
          {spec.has_router_temperature(), "adapter.router_temperature", {"mixlora_dynamic"}},
          {spec.has_router_aux_loss_coef(), "adapter.router_aux_loss_coef", with_loss},
          {spec.has_router_z_loss_coef(), "adapter.router_z_loss_coef", {"mixlora_switch"}},
          {spec.has_router_init_range(), "adapter.router_init_range", all},
          {spec.has_jitter_noise(), "adapter.jitter_noise", mixlora},
          {spec.has_expert_capacity(), "adapter.expert_capacity", {"mixlora_switch"}},
          {spec.has_expert_lora(), "adapter.expert_lora", mixlora}};
}

}  // namespace

absl::Status CheckRoutedFields(const v1::AdapterSpec& spec) {
  for (const Field& field : FieldsOf(spec)) {
    const bool belongs = std::find(field.kinds.begin(), field.kinds.end(), spec.kind()) != field.kinds.end();
    if (!field.set || belongs) continue;
    return Limit(field.name, absl::StrCat("with kind ", spec.kind().empty() ? "lora" : spec.kind().substr(0, 40)),
                 absl::StrCat("kind ", absl::StrJoin(field.kinds, ", ")));
  }
  return absl::OkStatus();
}

namespace {

// What MoE-PEFT's format has no place for.
absl::Status RefuseOfPeft(const v1::AdapterSpec& spec, const TrainConfig& train) {
  const std::pair<bool, const char*> fields[] = {
      {spec.rank_pattern_size() > 0, "adapter.rank_pattern"},
      {spec.alpha_pattern_size() > 0, "adapter.alpha_pattern"},
      {spec.layers_size() > 0, "adapter.layers"},
      {train.adapter.bias != PeftBias::kNone, "adapter.bias"},
      {train.init != LeafInit::kDefault && train.init != LeafInit::kGaussian, "adapter.init"},
      {spec.modules_to_save_size() > 0, "adapter.modules_to_save"},
      {spec.trainable_token_ids_size() > 0, "adapter.trainable_token_ids"},
      {spec.trainable_head_token_ids_size() > 0, "adapter.trainable_head_token_ids"}};
  for (const auto& [set, name] : fields) {
    if (set) return absl::UnimplementedError(absl::StrCat(name, ": not supported with kind ", spec.kind()));
  }
  return absl::OkStatus();
}

absl::Status TakeNumber(const char* name, bool has, float value, double otherwise, double high, double* to) {
  *to = has ? Written(value) : otherwise;
  return CheckReal(name, *to, 0.0, high);
}

absl::Status TakeCount(const char* name, bool has, uint32_t value, uint32_t otherwise, uint32_t high, int32_t* to) {
  const uint32_t count = has ? value : otherwise;
  RETURN_IF_ERROR(CheckCount(name, count, 1, high));
  *to = static_cast<int32_t>(count);
  return absl::OkStatus();
}

MoeRank RankOf(int64_t rank, double alpha, bool rslora) {
  const auto r = static_cast<double>(rank);
  return {rank, static_cast<float>(alpha / (rslora ? std::sqrt(r) : r))};
}

absl::Status TranslateExperts(const v1::AdapterSpec& spec, const TrainConfig& train, RoutedTraining* routed) {
  const PeftLoraConfig& outer = train.adapter;
  routed->moe.lora = routed->moe.expert = RankOf(outer.rank, outer.alpha, outer.use_rslora);
  routed->expert_dropout = train.dropout;
  if (!spec.has_expert_lora()) return absl::OkStatus();
  v1::AdapterSpec own = spec.expert_lora();
  int32_t rank = 0;
  RETURN_IF_ERROR(TakeCount("adapter.expert_lora.rank", own.has_rank(), own.rank(), static_cast<uint32_t>(outer.rank),
                            kMaxConfigRank, &rank));
  const double alpha = own.has_alpha() ? Written(own.alpha()) : own.has_rank() ? 2.0 * rank : outer.alpha;
  if (!(alpha >= 1e-6 && alpha <= 1e6)) return Limit("adapter.expert_lora.alpha", absl::StrCat(alpha), "1e-6 to 1e6");
  RETURN_IF_ERROR(TakeNumber("adapter.expert_lora.dropout", own.has_dropout(), own.dropout(), train.dropout, 0.95,
                             &routed->expert_dropout));
  routed->moe.expert = RankOf(rank, alpha, own.use_rslora() || outer.use_rslora);
  routed->moe.expert.dora = own.kind() == "dora";
  const bool is_known = own.kind().empty() || own.kind() == "lora" || own.kind() == "dora";
  if (!is_known) return Limit("adapter.expert_lora.kind", own.kind().substr(0, 40), "lora, dora");
  own.clear_kind();
  own.clear_rank();
  own.clear_alpha();
  own.clear_dropout();
  own.clear_use_rslora();
  if (own.ByteSizeLong() == 0) return absl::OkStatus();
  return Limit("adapter.expert_lora", "another field", "kind, rank, alpha, dropout, use_rslora");
}

absl::Status TranslateRule(const v1::AdapterSpec& spec, RoutedTraining* routed) {
  MoeConfig& moe = routed->moe;
  RoutingRule& rule = moe.routing;
  RETURN_IF_ERROR(
      TakeCount("adapter.num_experts", spec.has_num_experts(), spec.num_experts(), 8, kMaxMoeExperts, &moe.experts));
  rule.choice = RoutingRule::Choice::kTopK;
  if (spec.kind() == "mixlora_dynamic") {
    double top_p = 0.0, temperature = 0.0;
    rule.choice = RoutingRule::Choice::kTopP;
    RETURN_IF_ERROR(TakeNumber("adapter.top_p", spec.has_top_p(), spec.top_p(), kDefaultTopP, 1.0, &top_p));
    if (top_p == 0.0) return Limit("adapter.top_p", "0", "above 0, to 1");
    RETURN_IF_ERROR(TakeNumber("adapter.router_temperature", spec.has_router_temperature(), spec.router_temperature(),
                               0.0, kMaxRouterTemperature, &temperature));
    rule.top_p = static_cast<float>(top_p);
    rule.temperature = static_cast<float>(temperature);
  } else if (routed->is_switch()) {
    rule.top_k = 1;
    int32_t capacity = 0;
    RETURN_IF_ERROR(TakeCount("adapter.expert_capacity", spec.has_expert_capacity(), spec.expert_capacity(),
                              kDefaultExpertCapacity, INT32_MAX, &capacity));
    routed->expert_capacity = capacity;
  } else if (moe.kind == MoeKind::kLoraMoe) {
    rule.top_k = moe.experts;
  } else {
    const auto experts = static_cast<uint32_t>(moe.experts);
    RETURN_IF_ERROR(TakeCount("adapter.top_k", spec.has_top_k(), spec.top_k(),
                              std::min(uint32_t{kDefaultTopK}, experts), experts, &rule.top_k));
    rule.renormalise = true;
  }
  return absl::OkStatus();
}

absl::Status TranslateRouterTraining(const v1::AdapterSpec& spec, RoutedTraining* routed) {
  // MoE-PEFT's MOLA has a routers' loss only where it is asked for, LoRAMoE none.
  const bool has_loss = routed->moe.kind == MoeKind::kMixLora;
  const bool is_mixlora = has_loss, is_switch = routed->is_switch();
  RETURN_IF_ERROR(TakeNumber("adapter.router_aux_loss_coef", spec.has_router_aux_loss_coef(),
                             spec.router_aux_loss_coef(), has_loss ? 0.001 : 0.0, kMaxCoefficient,
                             &routed->aux_loss_coef));
  RETURN_IF_ERROR(TakeNumber("adapter.router_z_loss_coef", spec.has_router_z_loss_coef(), spec.router_z_loss_coef(),
                             is_switch ? 0.001 : 0.0, kMaxCoefficient, &routed->z_loss_coef));
  RETURN_IF_ERROR(TakeNumber("adapter.router_init_range", spec.has_router_init_range(), spec.router_init_range(),
                             !is_mixlora ? 5.0
                             : is_switch ? 1.0
                                         : 0.02,
                             1e3, &routed->router_init_range));
  return TakeNumber("adapter.jitter_noise", spec.has_jitter_noise(), spec.jitter_noise(), is_switch ? 0.01 : 0.0, 0.99,
                    &routed->jitter_noise);
}

}  // namespace

bool IsRoutedKind(const std::string& kind) {
  const MoeStrategy* strategy = StrategyOf(kind);
  return strategy != nullptr && strategy->written == strategy->name;
}

absl::Status TranslateRouted(const v1::AdapterSpec& spec, TrainConfig* train) {
  RETURN_IF_ERROR(RefuseOfPeft(spec, *train));
  const MoeStrategy& strategy = *StrategyOf(spec.kind());
  RoutedTraining routed;
  routed.moe.kind = strategy.kind;
  routed.moe.name = strategy.name;
  routed.moe.prefix = strategy.prefix;
  routed.moe.targets.assign(spec.targets().begin(), spec.targets().end());
  if (routed.moe.targets == std::vector<std::string>{"all-linear"}) routed.moe.targets.clear();
  RETURN_IF_ERROR(TranslateExperts(spec, *train, &routed));
  RETURN_IF_ERROR(TranslateRule(spec, &routed));
  RETURN_IF_ERROR(TranslateRouterTraining(spec, &routed));
  train->routed = std::move(routed);
  return absl::OkStatus();
}

}  // namespace lorad
