#include "model/layers/rope.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

// GCC 12 warns of vectors that a designated initializer rightly leaves out.
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

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

RopeConfig Dynamic(double factor) {
  return {.theta = 10000.0,
          .rotary_dim = 32,
          .scaling = RopeScaling::kDynamic,
          .factor = factor,
          .original_max_positions = 100};
}

TEST(DynamicRopeTest, AVariantHasTheAnglesOfItsLongestSequence) {
  for (const double factor : {1.0, 4.0}) {
    for (const int64_t variant : {0, 1, 6}) {
      const double length = 100.0 * static_cast<double>(variant + 1);
      const double theta = 10000.0 * std::pow(factor * length / 100.0 - (factor - 1), 32.0 / 30.0);
      const at::Tensor frequencies = RopeInverseFrequencies(Dynamic(factor), variant);
      for (int64_t i = 0; i < 16; ++i) {
        const double expected = std::pow(theta, -static_cast<double>(i) / 16);
        EXPECT_NEAR(frequencies.const_data_ptr<float>()[i], expected, 2e-6 * expected) << i;
      }
    }
  }
}

TEST(LongRopeTest, OneListForShortSequencesAndOneForLong) {
  const RopeConfig config = {.theta = 500.0,
                             .rotary_dim = 6,
                             .scaling = RopeScaling::kLongRope,
                             .short_factors = {1.0, 1.5, 2.0},
                             .long_factors = {3.0, 7.0, 20.0}};
  for (const int64_t variant : {0, 1}) {
    const at::Tensor frequencies = RopeInverseFrequencies(config, variant);
    for (int64_t i = 0; i < 3; ++i) {
      const double factor = (variant == 0 ? config.short_factors : config.long_factors)[static_cast<size_t>(i)];
      const double expected = std::pow(500.0, -static_cast<double>(i) / 3) / factor;
      EXPECT_NEAR(frequencies.const_data_ptr<float>()[i], expected, 2e-6 * expected) << i;
    }
  }
}

// Waves are kept below `low`, stretched from `high` on, and on the ramp between; the ends are where the wave turns
// beta_fast and beta_slow times within the original positions.
TEST(YarnRopeTest, KeepsShortWavesAndStretchesLongOnes) {
  for (const bool truncate : {true, false}) {
    const RopeConfig config = {.theta = 10000.0,
                               .rotary_dim = 64,
                               .scaling = RopeScaling::kYarn,
                               .factor = 8.0,
                               .original_max_positions = 4096,
                               .truncate = truncate};
    const auto turning = [](double turns) { return 32 * std::log(4096 / (turns * 2 * kPi)) / std::log(10000.0); };
    const double low = truncate ? std::floor(turning(32)) : turning(32);
    const double high = truncate ? std::ceil(turning(1)) : turning(1);
    ASSERT_LT(low, high);
    const at::Tensor frequencies = RopeInverseFrequencies(config);
    for (int64_t i = 0; i < 32; ++i) {
      const double plain = std::pow(10000.0, -static_cast<double>(i) / 32);
      const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
      const double expected = plain * (1 - ramp) + plain / 8.0 * ramp;
      EXPECT_NEAR(frequencies.const_data_ptr<float>()[i], expected, 2e-6 * expected) << i;
    }
  }
}

TEST(RopeTablesTest, TheAttentionFactorMultipliesCosAndSin) {
  const RopeTables tables({.theta = 10000.0, .rotary_dim = 8, .attention_factor = 1.25}, 0, 64, at::kFloat);
  EXPECT_NEAR(tables.cos().const_data_ptr<float>()[0], 1.25, 1e-6);
  EXPECT_NEAR(tables.sin().const_data_ptr<float>()[3 * 4], 1.25 * std::sin(3.0), 1e-6);
}

ForwardBatch BatchOf(const std::vector<int32_t>& positions, const std::vector<int32_t>& cu_rows,
                     std::vector<int64_t> sequence_tokens) {
  const at::TensorOptions ints = at::TensorOptions().dtype(at::kInt);
  ForwardBatch batch;
  batch.positions = at::tensor(positions, ints);
  batch.cu_rows = at::tensor(cu_rows, ints);
  batch.max_context_tokens = *std::max_element(positions.begin(), positions.end()) + 1;
  batch.sequence_tokens = std::move(sequence_tokens);
  return batch;
}

// The angle of each row's second pair of coordinates is position * frequency, where the frequency is its sequence's.
TEST(RopeRowsTest, SequencesOfOneBatchHaveTheAnglesOfTheirOwnLengths) {
  const RopeSwitch every_100 = {.every_tokens = 100, .last_variant = 1000};
  Rope rope(Dynamic(4.0), every_100, 1000, at::kFloat);
  const auto expect_rows = [&](const ForwardBatch& batch, const std::vector<int64_t>& variants) {
    const RopeRows rows = rope.RowsOf(batch, batch.positions);
    const int32_t* lines = rows.rows.const_data_ptr<int32_t>();
    for (size_t r = 0; r < variants.size(); ++r) {
      const at::Tensor frequencies = RopeInverseFrequencies(Dynamic(4.0), variants[r]);
      const float angle =
          frequencies.const_data_ptr<float>()[1] * static_cast<float>(batch.positions.const_data_ptr<int32_t>()[r]);
      EXPECT_NEAR(rows.cos.const_data_ptr<float>()[lines[r] * 16 + 1], std::cos(angle), 1e-5) << r;
      EXPECT_NEAR(rows.sin.const_data_ptr<float>()[lines[r] * 16 + 1], std::sin(angle), 1e-5) << r;
    }
  };
  expect_rows(BatchOf({7, 8, 99}, {0, 2, 3}, {100, 100}), {0, 0, 0});
  expect_rows(BatchOf({7, 8, 99, 250}, {0, 2, 3, 4}, {101, 100, 251}), {1, 1, 0, 2});
  expect_rows(BatchOf({300, 301}, {0, 2, 2}, {302, 5}), {3, 3});
}

TEST(RopeSwitchTest, SwitchesAfterSoManyTokensAndNotPastTheLastVariant) {
  EXPECT_EQ(RopeSwitch().VariantOf(1'000'000), 0);
  const RopeSwitch longrope = {.every_tokens = 48, .last_variant = 1};
  for (const auto& [tokens, variant] : std::vector<std::pair<int64_t, int64_t>>{{0, 0}, {48, 0}, {49, 1}, {1000, 1}}) {
    EXPECT_EQ(longrope.VariantOf(tokens), variant) << tokens;
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
  RopeTables tables({.theta = 10000.0, .rotary_dim = 8}, 0, 100'000, at::kFloat);
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
  RopeTables tables({.theta = 10000.0, .rotary_dim = 8}, 0, 256, at::kBFloat16);
  EXPECT_EQ(tables.cos().size(0), 256);
  EXPECT_EQ(tables.sin().scalar_type(), at::kBFloat16);
}

}  // namespace
}  // namespace lorad
