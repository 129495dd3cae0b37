#include "model/weights.h"

#include <string>
#include <vector>

#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "model/safetensors_writer.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

struct Stored {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

std::string Floats(const std::vector<float>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}

class WeightsTest : public testing::Test {
 protected:
  Checkpoint Write(const std::vector<Stored>& tensors) {
    std::vector<TensorToWrite> to_write;
    for (const Stored& t : tensors) {
      to_write.push_back({t.name, t.dtype, t.shape,
                          absl::MakeConstSpan(reinterpret_cast<const std::byte*>(t.bytes.data()), t.bytes.size())});
    }
    EXPECT_THAT(WriteSafetensors(dir_.File("model.safetensors"), to_write, {}), IsOk());
    absl::StatusOr<Checkpoint> checkpoint = OpenCheckpoint(dir_.path());
    EXPECT_THAT(checkpoint, IsOk());
    return *std::move(checkpoint);
  }
  const TempDir dir_;
};

const std::vector<WeightRow> kRows = {{WeightName::kQProj, "l.{}.q", {2, 2}},
                                      {WeightName::kKProj, "l.{}.k", {1, 2}},
                                      {WeightName::kFinalNorm, "norm", {2}},
                                      {WeightName::kLmHead, "head", {1}, /*optional=*/true}};

std::vector<Stored> Fitting() {
  return {{"l.0.q", DType::kF32, {2, 2}, Floats({1, 2, 3, 4})},
          {"l.0.k", DType::kBF16, {1, 2}, std::string("\x80\x3f\x00\xc0", 4)},  // 1, -2
          {"norm", DType::kF16, {2}, std::string("\x00\x3c\x00\xb8", 4)}};      // 1, -0.5
}

TEST_F(WeightsTest, LoadsConvertsAndStacks) {
  const Checkpoint checkpoint = Write(Fitting());
  const absl::StatusOr<MatchedWeights> matched = MatchWeights(kRows, 1, checkpoint);
  ASSERT_THAT(matched, IsOk());
  int64_t done = 0, total = 0;
  WeightLoader weights(*matched, at::kFloat, Quantization::kNone, [&](int64_t d, int64_t t) { done = d, total = t; });
  const at::Tensor q = weights.Load(WeightName::kQProj, 0);
  EXPECT_TRUE(at::equal(q, at::tensor({1.0f, 2.0f, 3.0f, 4.0f}).view({2, 2})));
  EXPECT_TRUE(at::equal(weights.Load(WeightName::kFinalNorm), at::tensor({1.0f, -0.5f})));
  EXPECT_TRUE(at::equal(weights.LoadStacked({WeightName::kQProj, WeightName::kKProj}, 0),
                        at::tensor({1.0f, 2.0f, 3.0f, 4.0f, 1.0f, -2.0f}).view({3, 2})));
  EXPECT_FALSE(weights.LoadIfAny(WeightName::kLmHead).defined());
  EXPECT_FALSE(weights.LoadStacked({WeightName::kQBias, WeightName::kKBias}, 0).defined());
  EXPECT_EQ(total, 16 + 4 + 4);
  EXPECT_EQ(done, 16 + 4 + 16 + 4);
  EXPECT_EQ(weights.loaded_bytes(), 16 + 8 + 24);
}

TEST_F(WeightsTest, ATensorOutlivesCheckpointFileAndLoader) {
  at::Tensor q;
  {
    const absl::StatusOr<MatchedWeights> matched = MatchWeights(kRows, 1, Write(Fitting()));
    ASSERT_THAT(matched, IsOk());
    q = WeightLoader(*matched, at::kFloat, Quantization::kNone, nullptr).Load(WeightName::kQProj, 0);
    WriteFile(dir_.File("model.safetensors"), "");  // a mapping of it would fault now
  }
  EXPECT_TRUE(at::equal(q, at::tensor({1.0f, 2.0f, 3.0f, 4.0f}).view({2, 2})));
}

TEST_F(WeightsTest, WeightsLieSideBySideOnCacheLines) {
  const Checkpoint checkpoint = Write(Fitting());
  const absl::StatusOr<MatchedWeights> matched = MatchWeights(kRows, 1, checkpoint);
  ASSERT_THAT(matched, IsOk());
  WeightLoader weights(*matched, at::kFloat, Quantization::kNone, nullptr);
  const at::Tensor q = weights.Load(WeightName::kQProj, 0), k = weights.Load(WeightName::kKProj, 0);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(q.const_data_ptr()) % 64, 0u);
  EXPECT_EQ(static_cast<const char*>(k.const_data_ptr()) - static_cast<const char*>(q.const_data_ptr()), 64);
}

// Three rows fill no panel: what panels take more than the rows is kept for them.
TEST_F(WeightsTest, APackedMatrixLiesAmongTheOthers) {
  const absl::StatusOr<MatchedWeights> matched = MatchWeights(kRows, 1, Write(Fitting()));
  ASSERT_THAT(matched, IsOk());
  WeightLoader weights(*matched, at::kBFloat16, Quantization::kNone, nullptr);
  const LinearWeight q_k = weights.LoadMatrix({WeightName::kQProj, WeightName::kKProj}, 0);
  const at::Tensor norm = weights.Load(WeightName::kFinalNorm);
  EXPECT_TRUE(at::equal(q_k.RowMajor().to(at::kFloat), at::tensor({1.0f, 2.0f, 3.0f, 4.0f, 1.0f, -2.0f}).view({3, 2})));
  EXPECT_EQ(static_cast<const char*>(norm.const_data_ptr()) - static_cast<const char*>(q_k.weight().const_data_ptr()),
            64);
  EXPECT_EQ(weights.loaded_bytes(), 12 + 4);
}

// More than the rows have: whoever loads a tensor again gets other memory, not somebody else's.
TEST_F(WeightsTest, WhatNoLongerFitsIsStillRight) {
  const Checkpoint checkpoint = Write(Fitting());
  const absl::StatusOr<MatchedWeights> matched = MatchWeights(kRows, 1, checkpoint);
  ASSERT_THAT(matched, IsOk());
  WeightLoader weights(*matched, at::kFloat, Quantization::kNone, nullptr);
  std::vector<at::Tensor> all;
  for (int i = 0; i < 8; ++i) all.push_back(weights.Load(WeightName::kQProj, 0));
  for (const at::Tensor& q : all) EXPECT_TRUE(at::equal(q, at::tensor({1.0f, 2.0f, 3.0f, 4.0f}).view({2, 2})));
}

TEST_F(WeightsTest, ATensorMayLieMisaligned) {
  const std::string header =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"norm":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  WriteFile(dir_.File("model.safetensors"),
            RawSafetensors(header + std::string(header.size() % 8 == 0 ? 0 : 8 - header.size() % 8, ' '),
                           absl::StrCat("x", Floats({5, 6}))));
  const absl::StatusOr<Checkpoint> checkpoint = OpenCheckpoint(dir_.path());
  ASSERT_THAT(checkpoint, IsOk());
  const MatchedWeights matched = {{{WeightName::kFinalNorm}, checkpoint->at("norm")}};
  EXPECT_TRUE(at::equal(WeightLoader(matched, at::kFloat, Quantization::kNone, nullptr).Load(WeightName::kFinalNorm),
                        at::tensor({5.0f, 6.0f})));
  EXPECT_TRUE(at::equal(
      WeightLoader(matched, at::kBFloat16, Quantization::kNone, nullptr).Load(WeightName::kFinalNorm).to(at::kFloat),
      at::tensor({5.0f, 6.0f})));
}

TEST_F(WeightsTest, ListsWhatIsMissingUnexpectedAndWrongShapedInOneMessage) {
  std::vector<Stored> tensors = Fitting();
  tensors[2].shape = {1, 2};
  tensors.push_back({"l.0.extra", DType::kF32, {1}, Floats({1})});
  EXPECT_THAT(MatchWeights(kRows, 2, Write(tensors)),
              IsError(absl::StatusCode::kDataLoss,
                      AllOf(HasSubstr("missing: 2: l.1.q, l.1.k"), HasSubstr("unexpected: 1: l.0.extra"),
                            HasSubstr("wrong shape: 1: norm [1, 2], expected [2]"), Not(HasSubstr("head")))));
}

TEST_F(WeightsTest, LongListsAreCut) {
  EXPECT_THAT(MatchWeights(kRows, 40, Write(Fitting())),
              IsError(absl::StatusCode::kDataLoss,
                      AllOf(HasSubstr("missing: 78: "), HasSubstr("l.10.q, …"), Not(HasSubstr("l.30.q")))));
}

TEST_F(WeightsTest, PassesOverLeftoversOfOldExporters) {
  std::vector<Stored> tensors = Fitting();
  tensors.push_back({"l.0.rotary_emb.inv_freq", DType::kF32, {1}, Floats({1})});
  tensors.push_back({"l.0.masked_bias", DType::kF32, {1}, Floats({1})});
  EXPECT_THAT(MatchWeights(kRows, 1, Write(tensors)), IsOk());
}

TEST_F(WeightsTest, RefusesStoredIntegers) {
  std::vector<Stored> tensors = Fitting();
  tensors[0].dtype = DType::kI32;
  EXPECT_THAT(MatchWeights(kRows, 1, Write(tensors)), IsError(absl::StatusCode::kUnimplemented, HasSubstr("l.0.q")));
}

}  // namespace
}  // namespace lorad
