#include "scheduler/admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace lorad {
namespace {

using ::testing::HasSubstr;

constexpr AdmissionLimits kLimits = {
    .max_context_tokens = 1000, .queue_limit = 8, .total_pages = 40, .pages_per_block = 2};  // 320 tokens of KV

Request Of(int64_t prompt_tokens, int64_t max_tokens) {
  Request request;
  request.prompt_ids.assign(static_cast<size_t>(prompt_tokens), 1);
  request.sampling.max_tokens = max_tokens;
  return request;
}

TEST(AdmissionTest, WhatFitsIsAccepted) { EXPECT_TRUE(CheckEverFits(Of(300, 21), 0, kLimits).ok()); }

TEST(AdmissionTest, MoreThanTheContextIsRefusedWithTheNumbers) {
  const absl::Status status = CheckEverFits(Of(990, 11), 0, kLimits);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("990 + 11; context limit: 1000"));
}

TEST(AdmissionTest, MoreThanTheMemoryIsRefusedWithTheNumbers) {
  const absl::Status status = CheckEverFits(Of(300, 22), 0, kLimits);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("tokens to hold: 321; limit: 320"));
}

TEST(AdmissionTest, TheAdapterTakesItsShare) {
  EXPECT_TRUE(CheckEverFits(Of(300, 5), 2, kLimits).ok());
  EXPECT_FALSE(CheckEverFits(Of(300, 6), 2, kLimits).ok());
}

TEST(AdmissionTest, MaxTokensThatNobodyAskedForDoNotRefuse) {
  Request request = Of(300, 700);
  request.max_tokens_is_default = true;
  EXPECT_TRUE(CheckEverFits(request, 0, kLimits).ok());
  request = Of(321, 600);
  request.max_tokens_is_default = true;
  EXPECT_FALSE(CheckEverFits(request, 0, kLimits).ok());
}

TEST(AdmissionTest, AClassifyMayFillTheContext) {
  AdmissionLimits limits = kLimits;
  limits.total_pages = 1000;
  Request request = Of(1000, 1);
  EXPECT_FALSE(CheckEverFits(request, 0, limits).ok());
  request.classify = true;
  EXPECT_TRUE(CheckEverFits(request, 0, limits).ok());
  request.prompt_ids.push_back(1);
  EXPECT_FALSE(CheckEverFits(request, 0, limits).ok());
}

TEST(AdmissionTest, AbsurdNumbersDoNotOverflow) {
  EXPECT_FALSE(CheckEverFits(Of(10, std::numeric_limits<int64_t>::max()), 0, kLimits).ok());
  EXPECT_FALSE(CheckEverFits(Of(10, 0), 0, kLimits).ok());
  EXPECT_FALSE(CheckEverFits(Of(0, 5), 0, kLimits).ok());
  Request request = Of(10, 5);
  request.n = 9;
  EXPECT_FALSE(CheckEverFits(request, 0, kLimits).ok());
}

}  // namespace
}  // namespace lorad
