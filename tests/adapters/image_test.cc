#include "adapters/image.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "adapters/float_convert.h"

namespace lorad {
namespace {

HostTensor FloatTensor(std::vector<int64_t> shape, DType dtype, const std::vector<float>& values) {
  auto bytes = std::make_shared<std::vector<std::byte>>(values.size() * SizeBytes(dtype));
  FromF32(values.data(), static_cast<int64_t>(values.size()), dtype, bytes->data());
  return {.dtype = dtype, .shape = std::move(shape), .bytes = bytes};
}

std::vector<float> Draw(int64_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

TEST(FloatConvertTest, EveryF16ValueSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    if ((bits & 0x7C00u) == 0x7C00u) continue;
    EXPECT_EQ(F16FromF32(F32FromF16(static_cast<uint16_t>(bits))), bits);
  }
  EXPECT_EQ(F32FromF16(0x0001), 0x1p-24f);
  EXPECT_EQ(F32FromF16(0xFBFF), -65504.0f);
  EXPECT_EQ(F32FromF16(0x3C01), 1.0f + 0x1p-10f);
}

TEST(FloatConvertTest, RoundsToNearestAndTiesToEven) {
  EXPECT_EQ(Bf16FromF32(1.0f + 0x1p-8f), 0x3F80);            // halfway, down to even
  EXPECT_EQ(Bf16FromF32(1.0f + 0x1p-8f + 0x1p-7f), 0x3F82);  // halfway, up to even
  EXPECT_EQ(F16FromF32(1.0f + 0x1p-11f), 0x3C00);
  EXPECT_EQ(F16FromF32(1.0f + 0x1p-11f + 0x1p-20f), 0x3C01);
  EXPECT_EQ(F16FromF32(0x1p-25f), 0x0000);
  EXPECT_EQ(F16FromF32(-0x1.8p-24f), 0x8002);
  EXPECT_EQ(F16FromF32(65519.0f), 0x7BFF);
}

TEST(FloatConvertTest, FindsTheFirstElementThatIsNotFinite) {
  std::vector<float> values(10000, 1.0f);
  const auto first = [&](DType pool) {
    return FirstNotFinite(DType::kF32, reinterpret_cast<const std::byte*>(values.data()), 10000, pool);
  };
  EXPECT_EQ(first(DType::kF32), -1);
  values[9001] = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(first(DType::kF32), 9001);
  values[5000] = std::nanf("");
  EXPECT_EQ(first(DType::kF32), 5000);
  values[17] = 3.4e38f;  // finite, but not in bf16
  EXPECT_EQ(first(DType::kF32), 5000);
  EXPECT_EQ(first(DType::kBF16), 17);
  values[3] = -65520.0f;
  EXPECT_EQ(first(DType::kF16), 3);
  values[3] = 65519.0f;
  EXPECT_EQ(first(DType::kF16), 17);
}

class PackTest : public testing::TestWithParam<std::tuple<DType, DType>> {};

TEST_P(PackTest, LaysPairsSideBySideRankMajorAndAligned) {
  const auto [file_dtype, pool_dtype] = GetParam();
  std::mt19937 random(1);
  AdapterImage image;
  struct Shape {
    Site site;
    int32_t layer;
    int64_t rank, in, out;
  };
  const std::vector<Shape> shapes = {
      {Site::kQProj, 0, 3, 20, 130}, {Site::kQProj, 1, 1, 20, 7}, {Site::kLmHead, -1, 40, 9, 65}};
  std::vector<std::vector<float>> a, b;
  for (const Shape& s : shapes) {
    a.push_back(Draw(s.rank * s.in, random));
    b.push_back(Draw(s.rank * s.out, random));
    image.slots.push_back({.site = s.site,
                           .layer = s.layer,
                           .rank = static_cast<int32_t>(s.rank),
                           .scale = 2.0f,
                           .a = FloatTensor({s.rank, s.in}, file_dtype, a.back()),
                           .b = FloatTensor({s.out, s.rank}, file_dtype, b.back())});
  }
  const PackedLayout layout = PlanLayout(image, pool_dtype);
  std::vector<std::byte> packed(static_cast<size_t>(layout.total_bytes), std::byte{0xAA});
  Pack(image, layout, packed.data());

  int64_t content_bytes = 0;
  const auto expected = [&](float value) {  // through both types, in order
    std::byte raw[4];
    float rounded;
    FromF32(&value, 1, file_dtype, raw);
    ToF32(file_dtype, raw, 1, &rounded);
    FromF32(&rounded, 1, pool_dtype, raw);
    ToF32(pool_dtype, raw, 1, &rounded);
    return rounded;
  };
  const auto at = [&](int64_t offset_bytes, int64_t index) {
    float value;
    ToF32(pool_dtype, packed.data() + offset_bytes + index * SizeBytes(pool_dtype), 1, &value);
    return value;
  };
  for (size_t i = 0; i < shapes.size(); ++i) {
    const PackedSlot& slot = layout.slots[i];
    EXPECT_EQ(slot.a_offset_bytes % 64, 0);
    EXPECT_EQ(slot.b_offset_bytes % 64, 0);
    const auto [site, layer, rank, in, out] = shapes[i];
    content_bytes += rank * (in + out) * SizeBytes(pool_dtype);
    for (int64_t r = 0; r < rank; ++r) {
      for (int64_t c = 0; c < in; ++c) EXPECT_EQ(at(slot.a_offset_bytes, r * in + c), expected(a[i][r * in + c]));
      for (int64_t c = 0; c < out; ++c) EXPECT_EQ(at(slot.b_offset_bytes, r * out + c), expected(b[i][c * rank + r]));
    }
  }
  EXPECT_LT(layout.total_bytes - content_bytes, 64 * 2 * static_cast<int64_t>(shapes.size()));
}

INSTANTIATE_TEST_SUITE_P(DTypes, PackTest,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16, DType::kF16),
                                          testing::Values(DType::kF32, DType::kBF16)));

TEST(ReplacedTensorsTest, AnFfnHasOneRouterARowWhateverElseItsAdaptersChange) {
  AdapterImage image;
  image.slots = {{.site = Site::kQProj, .layer = 0, .rank = 2}, {.site = Site::kFfn, .layer = 1, .experts = 4}};
  image.slots.back().router.shape = {4, 8};
  EXPECT_EQ(ReplacedTensors(image), std::vector<std::string>{"routing of mlp, layer 1"});
}

}  // namespace
}  // namespace lorad
