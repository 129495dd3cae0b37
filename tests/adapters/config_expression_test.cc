#include "adapters/kinds/config_expression.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using absl::StatusCode;
using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(ConfigExpressionTest, TheWrapIsPutAroundTheExpression) {
  const absl::StatusOr<ConfigExpression> regex =
      CompileConfigExpression("layers_pattern", "h|layers", R"((?:$0)\.\d+)");
  ASSERT_THAT(regex, IsOk());
  EXPECT_TRUE(RE2::FullMatch("layers.12", **regex));
  EXPECT_FALSE(RE2::FullMatch("layers", **regex));
}

TEST(ConfigExpressionTest, WhatNeedsBacktrackingIsRefusedByItsKey) {
  for (const char* expression : {"(?=a)b", "(?!a)b", "(?<=a)b", "(?<!a)b", "(?>a)b", "(?P<x>a)(?P=x)", "(a)\\1"}) {
    EXPECT_THAT(CompileConfigExpression("target_modules", expression, "$0"),
                IsError(StatusCode::kUnimplemented, AllOf(HasSubstr("target_modules"), HasSubstr("linear time"))))
        << expression;
  }
  EXPECT_THAT(CompileConfigExpression("target_modules", R"(a\\1)", "$0"), IsOk()) << "an escaped backslash and a digit";
}

TEST(ConfigExpressionTest, ABrokenOneIsTheFoldersFault) {
  EXPECT_THAT(CompileConfigExpression("exclude_modules", "(a", "$0"),
              IsError(StatusCode::kInvalidArgument, HasSubstr("exclude_modules: (a; not an expression")));
}

TEST(ExpressionTableTest, TheFirstThatMatchesTheEndOfAPathWins) {
  const absl::StatusOr<ExpressionTable<int64_t>> table =
      ExpressionTable<int64_t>::Make("rank_pattern", {{"q_proj", 4}, {".*_proj", 8}, {"layers.0.mlp.up_proj", 16}});
  ASSERT_THAT(table, IsOk());
  EXPECT_EQ(table->ValueFor("model.layers.0.self_attn.q_proj", 1), 4);
  EXPECT_EQ(table->ValueFor("model.layers.0.mlp.up_proj", 1), 8) << "in the file's order, not the longest";
  EXPECT_EQ(table->ValueFor("model.layers.0.self_attn.q_proj.base", 1), 1) << "whole segments to the end";
}

TEST(ExpressionTableTest, AllExpressionsTogetherAreBounded) {
  std::vector<std::pair<std::string, double>> many;
  for (int i = 0; i < 4000; ++i) many.emplace_back("(a{1,30}){1,30}" + std::to_string(i), 1.0);
  EXPECT_THAT(ExpressionTable<double>::Make("alpha_pattern", many).status(),
              IsError(StatusCode::kInvalidArgument,
                      AllOf(HasSubstr("alpha_pattern"), HasSubstr("limit: 1048576"), HasSubstr("use fewer"))));
}

}  // namespace
}  // namespace lorad
