#include "model/layers/rope.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lorad {
namespace {

constexpr double kPi = 3.14159265358979323846;

// The formulas again, in double.
double Expected(const RopeConfig& config, int64_t i) {
  const double plain = std::pow(config.theta, -2.0 * static_cast<double>(i) / static_cast<double>(config.rotary_dim));
  if (config.scaling == RopeScaling::kLinear) return plain / config.factor;
  if (config.scaling == RopeScaling::kNone) return plain;
  const double length = static_cast<double>(config.original_max_positions);
  const double turns = length * plain / (2 * kPi);  // within the original context
  if (turns > config.high_freq_factor) return plain;
  if (turns < config.low_freq_factor) return plain / config.factor;
  const double t = (turns - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor);
  return (1 - t) * plain / config.factor + t * plain;
}

class RopeTest : public testing::TestWithParam<RopeConfig> {};

TEST_P(RopeTest, FrequenciesFollowTheFormula) {
  const at::Tensor frequencies = RopeInverseFrequencies(GetParam());
  ASSERT_EQ(frequencies.numel(), GetParam().rotary_dim / 2);
  for (int64_t i = 0; i < frequencies.numel(); ++i) {
    const double expected = Expected(GetParam(), i);
    EXPECT_NEAR(frequencies.const_data_ptr<float>()[i], expected, 1e-6 * expected) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, RopeTest,
    testing::Values(RopeConfig{.theta = 10000.0, .rotary_dim = 20},
                    RopeConfig{.theta = 10000.0, .rotary_dim = 64, .scaling = RopeScaling::kLinear, .factor = 4.0},
                    RopeConfig{.theta = 500000.0,
                               .rotary_dim = 128,
                               .scaling = RopeScaling::kLlama3,
                               .factor = 8.0,
                               .low_freq_factor = 1.0,
                               .high_freq_factor = 4.0,
                               .original_max_positions = 8192}));

TEST(RopeTablesTest, GrowWithTheContextAndKeepTheirValues) {
  RopeTables tables({.theta = 10000.0, .rotary_dim = 8}, 100'000, at::kFloat);
  const int64_t first_rows = tables.cos().size(0);
  ASSERT_LT(first_rows, 20'000);
  const float before = tables.cos().const_data_ptr<float>()[100 * 4 + 1];
  tables.Reserve(20'000);
  EXPECT_GE(tables.cos().size(0), 20'000);
  EXPECT_LE(tables.cos().size(0), 100'000);
  EXPECT_EQ(tables.cos().const_data_ptr<float>()[100 * 4 + 1], before);
  EXPECT_NEAR(before, std::cos(100 * 0.1), 1e-5);
  EXPECT_NEAR(tables.sin().const_data_ptr<float>()[19'999 * 4], std::sin(19'999.0), 1e-5);
}

TEST(RopeTablesTest, AShortModelHasNoMorePositionsThanItWasMadeFor) {
  RopeTables tables({.theta = 10000.0, .rotary_dim = 8}, 256, at::kBFloat16);
  EXPECT_EQ(tables.cos().size(0), 256);
  EXPECT_EQ(tables.sin().scalar_type(), at::kBFloat16);
}

}  // namespace
}  // namespace lorad
