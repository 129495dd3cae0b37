#include "adapters/kinds/moe_peft_writer.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "adapters/config_text.h"
#include "adapters/kinds/lora_writer.h"
#include "adapters/kinds/moe_names.h"
#include "adapters/kinds/tensor_writer.h"
#include "model/base/check.h"
#include "model/base/status_macros.h"
#include "model/torch_file_writer.h"

namespace lorad {
namespace {

using Json = AdapterConfigJson;

// r, lora_alpha and use_rslora of a rank and a scale. MoE-PEFT takes whole numbers for alpha; a scale that neither of
// its two rules makes of one is written as a fraction, which it refuses and lorad reads.
Json RankOf(int64_t rank, float scale) {
  const auto r = static_cast<double>(rank);
  for (const bool rslora : {false, true}) {
    const double divisor = rslora ? std::sqrt(r) : r;
    const double alpha = std::round(static_cast<double>(scale) * divisor);
    if (static_cast<float>(alpha / divisor) != scale || alpha < 1 || alpha > 1e9) continue;
    return {{"r", rank}, {"lora_alpha", static_cast<int64_t>(alpha)}, {"use_rslora", rslora}};
  }
  return {{"r", rank}, {"lora_alpha", static_cast<double>(scale) * r}, {"use_rslora", false}};
}

Json ConfigOf(const char* peft_type, const Json& rank, const std::vector<std::string>& targets) {
  Json config = {{"bias", "none"}, {"peft_type", peft_type}};
  config.update(rank);
  config["lora_dropout"] = kNoMoeDropout;
  config["target_modules"] = targets;
  config["base_model_name_or_path"] = "";
  config["task_type"] = "CAUSAL_LM";
  return config;
}

// The number that people wrote, of which the float was made.
double Shortest(float value) {
  char text[32];
  const std::to_chars_result end = std::to_chars(text, text + sizeof(text), value);
  double number = 0.0;
  LORAD_CHECK(end.ec == std::errc() && absl::SimpleAtod({text, static_cast<size_t>(end.ptr - text)}, &number));
  return number;
}

const char* HfName(Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return "silu";
    case Activation::kGeluTanh:
      return "gelu_pytorch_tanh";
    case Activation::kGelu:
      return "gelu";
    case Activation::kRelu:
      return "relu";
  }
  return "";
}

void PutRouting(const MoeStrategy& strategy, const RoutingRule& rule, int64_t experts, Json* config) {
  (*config)["routing_strategy"] = strategy.name;
  (*config)["num_experts"] = experts;
  if (rule.activation.has_value()) (*config)["act_fn"] = HfName(*rule.activation);
  if (rule.choice == RoutingRule::Choice::kTopP) {
    (*config)["top_p"] = Shortest(rule.top_p);
    (*config)["temperature"] = Shortest(rule.temperature);
  } else if (rule.renormalise) {
    (*config)["top_k"] = rule.top_k;
  } else if (strategy.kind == MoeKind::kMixLora) {
    (*config)["expert_capacity"] = kDefaultExpertCapacity;
    (*config)["sparse_step"] = nullptr;
  }
}

class MoeWriter final {
 public:
  MoeWriter(const AdapterImage& image, const BaseShape& base, const MoeStrategy& strategy)
      : image_(image), base_(base), strategy_(strategy), experts_(std::max(1, image.routing.top_k)) {}

  void Collect() {
    for (const ImageSlot& slot : image_.slots) AddSlot(slot);
  }

  absl::Status Write(const NewFolder& folder) {
    RETURN_IF_ERROR(WriteTorchFile(folder.PathOf("adapter_model.bin"), ToWrite(&tensors_)));
    const Json config = MoeConfigJson(strategy_, image_.routing, experts_, lora_, expert_, image_.targets);
    return folder.Write("adapter_config.json", ConfigText(config));
  }

 private:
  void AddSlot(const ImageSlot& slot) {
    const std::string path = slot.site == Site::kFfn
                                 ? MoeFfnPath(strategy_.prefix, slot.layer)
                                 : MoeProjectionPath(strategy_.prefix, slot.layer, *base_.Find(slot.site));
    if (slot.router.present()) tensors_.push_back({path + ".moe_gate.weight", slot.router});
    const bool routed = slot.site == Site::kFfn || HasExperts(strategy_.kind, slot.site);
    if (routed) experts_ = slot.experts;
    if (slot.rank == 0) return;
    (routed ? expert_ : lora_) = MoeRank{slot.rank, slot.scale, slot.magnitude.present()};
    for (int32_t expert = 0; expert < slot.experts; ++expert) {
      const std::string pair = routed ? absl::StrCat(path, ".experts.", expert) : path;
      const int64_t first = int64_t{expert} * slot.rank;
      tensors_.push_back({pair + ".lora_A.weight", RowsOf(slot.a, first, slot.rank)});
      tensors_.push_back({pair + ".lora_B.weight", ColumnsOf(slot.b, first, slot.rank)});
      if (!slot.magnitude.present()) continue;
      HostTensor magnitude = RowsOf(slot.magnitude, expert, 1);
      magnitude.shape = {magnitude.elements()};
      tensors_.push_back({pair + ".lora_magnitude_vector", std::move(magnitude)});
    }
  }

  const AdapterImage& image_;
  const BaseShape& base_;
  const MoeStrategy& strategy_;
  std::vector<NamedTensor> tensors_;
  int64_t experts_;
  std::optional<MoeRank> lora_, expert_;  // of what is not routed, and of what is
};

}  // namespace

Json MoeConfigJson(const MoeStrategy& strategy, const RoutingRule& rule, int64_t experts,
                   const std::optional<MoeRank>& lora, const std::optional<MoeRank>& expert,
                   const std::vector<std::string>& targets) {
  const auto rank_of = [](const MoeRank& rank) {
    Json json = RankOf(rank.rank, rank.scale);
    if (rank.dora) json["use_dora"] = true;
    return json;
  };
  const Json rank = rank_of(lora.has_value() ? *lora : expert.value_or(MoeRank{1, 1.0f}));
  Json config = ConfigOf(MoePeftType(strategy.kind), rank, targets);
  if (strategy.kind == MoeKind::kMixLora && expert.has_value() && rank_of(*expert) != rank) {
    config["expert_lora"] = rank_of(*expert);
    config["expert_lora"]["lora_dropout"] = kNoMoeDropout;
  }
  PutRouting(strategy, rule, experts, &config);
  return config;
}

absl::Status WriteMoePeft(const AdapterImage& image, const BaseShape& base, const BaseTables&,
                          const NewFolder& folder) {
  const MoeStrategy* strategy = FindMoeStrategy(image.kind);
  if (strategy == nullptr) {
    return absl::UnimplementedError(absl::StrCat("adapter kind: ", image.kind, "; none of MoE-PEFT's routed ones"));
  }
  MoeWriter writer(image, base, *strategy);
  writer.Collect();
  return writer.Write(folder);
}

absl::Status WriteMoePeftLora(const AdapterImage& image, const BaseShape& base, const BaseTables&,
                              const NewFolder& folder) {
  std::vector<NamedTensor> tensors;
  std::vector<std::string> targets;
  Json rank;
  bool dora = false;
  for (const ImageSlot& slot : image.slots) {
    const SiteShape& shape = *base.Find(slot.site);
    const std::string module = ModulePathOf(shape, slot.layer);
    if (image.num_labels > 0 && slot.site == Site::kLmHead) {
      tensors.push_back({kMoeClassifier, slot.rows});
      continue;
    }
    const Json of_slot = RankOf(slot.rank, slot.scale);
    if (slot.rows.present() || slot.bias.present() || slot.delta_bias.present() || !shape.parameter.empty() ||
        (!rank.is_null() && of_slot != rank)) {
      return absl::UnimplementedError(
          absl::StrCat(module, ": MoE-PEFT's format has LoRA of one rank and scale on linear modules, nothing else"));
    }
    rank = of_slot;
    dora |= slot.magnitude.present();
    AddPeftTensors(absl::StrCat("base_model.model.", module), slot, &tensors);
    const std::string target = LastName(module);
    if (targets.empty() || targets.back() != target) targets.push_back(target);
  }
  Json config = ConfigOf("LORA", rank, targets);
  if (dora) config["use_dora"] = true;
  if (image.num_labels > 0) config["task_type"] = "SEQ_CLS";
  RETURN_IF_ERROR(WriteTorchFile(folder.PathOf("adapter_model.bin"), ToWrite(&tensors)));
  return folder.Write("adapter_config.json", ConfigText(config));
}

}  // namespace lorad
