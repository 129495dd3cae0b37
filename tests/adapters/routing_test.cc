#include "adapters/routing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace lorad {
namespace {

using testing::ElementsAre;
using testing::FloatNear;

struct Choice {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

// Logits of these probabilities.
Choice Choose(const RoutingRule& rule, const std::vector<float>& probabilities) {
  std::vector<float> logits;
  for (const float p : probabilities) logits.push_back(std::log(p) + 3.0f);
  const auto choices = static_cast<size_t>(rule.Choices(static_cast<int32_t>(logits.size())));
  Choice choice = {std::vector<int32_t>(choices), std::vector<float>(choices)};
  ChooseExperts(rule, logits, absl::MakeSpan(choice.experts), absl::MakeSpan(choice.weights));
  return choice;
}

RoutingRule TopK(int32_t k, bool renormalise) {
  return {.choice = RoutingRule::Choice::kTopK, .top_k = k, .renormalise = renormalise};
}
RoutingRule TopP(float p, float temperature = 0.0f) {
  return {.choice = RoutingRule::Choice::kTopP, .top_p = p, .temperature = temperature};
}
auto Near(float value) { return FloatNear(value, 1e-6f); }

TEST(RoutingTest, TheBestFewAreChosenOfASoftmaxOverAll) {
  const Choice kept = Choose(TopK(2, false), {0.1f, 0.4f, 0.2f, 0.3f});
  EXPECT_THAT(kept.experts, ElementsAre(1, 3));
  EXPECT_THAT(kept.weights, ElementsAre(Near(0.4f), Near(0.3f)));
  const Choice renormalised = Choose(TopK(2, true), {0.1f, 0.4f, 0.2f, 0.3f});
  EXPECT_THAT(renormalised.experts, ElementsAre(1, 3));
  EXPECT_THAT(renormalised.weights, ElementsAre(Near(4.0f / 7), Near(3.0f / 7)));
}

TEST(RoutingTest, OfEqualsTheLowerNumberIsChosen) {
  EXPECT_THAT(Choose(TopK(3, true), {0.2f, 0.3f, 0.3f, 0.2f}).experts, ElementsAre(1, 2, 0));
}

TEST(RoutingTest, AllExpertsHaveTheirProbabilities) {
  const Choice all = Choose(TopK(3, false), {0.2f, 0.5f, 0.3f});
  EXPECT_THAT(all.experts, ElementsAre(1, 2, 0));
  EXPECT_THAT(all.weights, ElementsAre(Near(0.5f), Near(0.3f), Near(0.2f)));
}

// The first expert that crosses is kept; weights stay probabilities.
TEST(RoutingTest, TopPEndsWithTheExpertThatCrosses) {
  const Choice two = Choose(TopP(0.6f), {0.1f, 0.4f, 0.2f, 0.3f});
  EXPECT_THAT(two.experts, ElementsAre(1, 3, -1, -1));
  EXPECT_THAT(two.weights, ElementsAre(Near(0.4f), Near(0.3f), 0.0f, 0.0f));
  EXPECT_THAT(Choose(TopP(0.3f), {0.1f, 0.4f, 0.2f, 0.3f}).experts, ElementsAre(1, -1, -1, -1));
  EXPECT_THAT(Choose(TopP(0.85f), {0.1f, 0.4f, 0.2f, 0.3f}).experts, ElementsAre(1, 3, 2, -1));
}

TEST(RoutingTest, TheTemperatureDividesProbabilities) {
  const Choice half = Choose(TopP(0.6f, 0.5f), {0.1f, 0.4f, 0.2f, 0.3f});
  EXPECT_THAT(half.experts, ElementsAre(1, -1, -1, -1));  // 0.8 crosses
  EXPECT_THAT(half.weights, ElementsAre(Near(0.8f), 0.0f, 0.0f, 0.0f));
  const Choice all = Choose(TopP(0.6f, 2.0f), {0.1f, 0.4f, 0.2f, 0.3f});  // 0.5 in all: none crosses
  EXPECT_THAT(all.experts, ElementsAre(1, 3, 2, 0));
  EXPECT_THAT(all.weights, ElementsAre(Near(0.2f), Near(0.15f), Near(0.1f), Near(0.05f)));
}

TEST(RoutingTest, NotANumberChoosesSomethingThatIsThere) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Choice choice = Choose(TopK(2, true), {0.1f, nan, 0.2f});
  for (const int32_t expert : choice.experts) {
    EXPECT_GE(expert, 0);
    EXPECT_LT(expert, 3);
  }
  for (const float weight : choice.weights) EXPECT_TRUE(std::isnan(weight));
}

}  // namespace
}  // namespace lorad
