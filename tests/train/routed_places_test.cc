#include "adapters/train/routed_places.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

TEST(RoutedPlacesTest, AModuleThatIsNamedTwiceHasOnePlaceALayer) {
  const BaseShape base = {
      .model_type = "llama",
      .num_layers = 2,
      .vocab_size = 50,
      .hidden_size = 8,
      .sites = {
          {.site = Site::kUpProj, .module_path = "model.layers.{}.mlp.up_proj", .in_features = 8, .out_features = 16}}};
  MoeConfig config;
  config.kind = MoeKind::kLoraMoe;
  config.name = config.prefix = "loramoe";
  config.experts = 4;
  config.expert = {.rank = 3, .scale = 1.0f};
  config.targets = {"up_proj", "up_proj"};
  const auto places = SelectRoutedPlaces(config, base);
  ASSERT_THAT(places, IsOk());
  ASSERT_EQ(places->size(), 2u);
  EXPECT_EQ((*places)[0].layer, 0);
  EXPECT_EQ((*places)[1].layer, 1);
  EXPECT_EQ((*places)[1].pairs, 4);
}

}  // namespace
}  // namespace lorad
