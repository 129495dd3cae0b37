#pragma once

#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "model/config.h"

namespace lorad {

// How a routed adapter deals rows to its experts.
struct RoutingRule {
  enum class Choice : uint8_t {
    kNone,  // the adapter has no router
    kTopK,  // the `top_k` likeliest experts
    kTopP,  // the likeliest experts, until their weights together exceed `top_p`
  };
  Choice choice = Choice::kNone;
  int32_t top_k = 0;
  bool renormalise = false;  // weights of the chosen sum to one, else they are probabilities
  float top_p = 0.0f;
  float temperature = 0.0f;                             // divides probabilities (sic), if it is positive; top-p alone
  std::optional<Activation> activation = std::nullopt;  // between up and down, instead of the base's

  // Most experts of one row.
  int32_t Choices(int32_t experts) const { return choice == Choice::kTopK ? top_k : experts; }
};

// The experts of a row and their weights, the likeliest first (of equals the lower number); -1 and 0 behind the last.
// logits [E]; chosen and weights [rule.Choices(E)]. Softmax over all experts, in f32.
// Source   MoE-PEFT 2.0.2, adapters/mixlora/model.py.
void ChooseExperts(const RoutingRule& rule, absl::Span<const float> logits, absl::Span<int32_t> chosen,
                   absl::Span<float> weights);

}  // namespace lorad
