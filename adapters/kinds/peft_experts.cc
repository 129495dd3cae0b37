#include "adapters/kinds/peft_experts.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace lorad {
namespace {

constexpr char kRouter[] = "gate.weight";
constexpr char kGateUp[] = "gate_up_proj";
constexpr char kDown[] = "down_proj";
constexpr char kGateUpPattern[] = R"(.*\.gate_up_proj)";

// transformers 4's names of the experts' Linears. (Qwen2-MoE, which has the same, is not in PEFT's table.)
struct OldNames {
  const char* model_type;
  const char* gate;
  const char* up;
  const char* down;
};
constexpr OldNames kOldNames[] = {{"mixtral", "w1", "w3", "w2"}, {"qwen3_moe", "gate_proj", "up_proj", "down_proj"}};
constexpr char kOldRouter[] = "gate";

bool Means(const std::string& target, const std::string& name) {
  return target == name || absl::EndsWith(target, absl::StrCat(".", name));
}

void AddOnce(const char* parameter, std::vector<std::string>* parameters) {
  if (std::find(parameters->begin(), parameters->end(), parameter) == parameters->end()) {
    parameters->push_back(parameter);
  }
}

template <typename T>
void SetPattern(T value, std::vector<std::pair<std::string, T>>* pattern) {
  for (auto& [expression, old] : *pattern) {
    if (expression == kGateUpPattern) {
      old = value;
      return;
    }
  }
  pattern->emplace_back(kGateUpPattern, value);
}

// The leaf names of the base's linear modules, which are what is left of "all-linear" beside router and experts.
std::vector<std::string> AttentionNames(const BaseShape& base) {
  std::vector<std::string> names;
  for (const SiteShape& shape : base.sites) {
    if (absl::StrContains(shape.module_path, ".self_attn.")) {
      names.push_back(shape.module_path.substr(shape.module_path.rfind('.') + 1));
    }
  }
  return names;
}

}  // namespace

absl::StatusOr<PeftLoraConfig> ConvertExpertTargets(const PeftLoraConfig& config, const BaseShape& base) {
  const OldNames* old = std::find_if(std::begin(kOldNames), std::end(kOldNames),
                                     [&](const OldNames& names) { return base.model_type == names.model_type; });
  if (old == std::end(kOldNames)) return config;
  PeftLoraConfig converted = config;
  bool gate = false, up = false;
  if (config.all_linear) {
    converted.all_linear = false;
    converted.target_names = AttentionNames(base);
    gate = up = true;
    AddOnce(kRouter, &converted.target_parameters);
    AddOnce(kDown, &converted.target_parameters);
  }
  std::erase_if(converted.target_names, [&](const std::string& target) {
    if (Means(target, kOldRouter)) {
      AddOnce(kRouter, &converted.target_parameters);
    } else if (Means(target, old->gate)) {
      gate = true;
    } else if (Means(target, old->up)) {
      up = true;
    } else if (Means(target, old->down)) {
      AddOnce(kDown, &converted.target_parameters);
    } else {
      return false;
    }
    return true;
  });
  if (gate != up) {
    return absl::InvalidArgumentError(absl::StrCat("adapter_config.json: target_modules: ", gate ? old->gate : old->up,
                                                   "; needs ", gate ? old->up : old->gate,
                                                   " too: the base holds both in one parameter"));
  }
  if (gate) {
    AddOnce(kGateUp, &converted.target_parameters);
    SetPattern<int64_t>(2 * config.rank, &converted.rank_pattern);
    SetPattern<double>(2 * config.alpha, &converted.alpha_pattern);
  }
  return converted;
}

HostTensor ExpertsOneAfterTheOther(const HostTensor& b, int64_t experts) {
  const auto size = static_cast<size_t>(SizeBytes(b.dtype));
  const int64_t rows = b.shape[0], rank = b.shape[1] / experts;
  auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(b.elements()) * size);
  std::byte* to = bytes->data();
  for (int64_t row = 0; row < rows; ++row) {
    const std::byte* const from = b.data() + static_cast<size_t>(row * b.shape[1]) * size;
    for (int64_t expert = 0; expert < experts; ++expert) {
      for (int64_t i = 0; i < rank; ++i, to += size) {
        std::memcpy(to, from + static_cast<size_t>(i * experts + expert) * size, size);
      }
    }
  }
  return {.dtype = b.dtype, .shape = b.shape, .bytes = std::move(bytes)};
}

}  // namespace lorad
