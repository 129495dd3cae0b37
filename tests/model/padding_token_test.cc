#include "model/padding_token.h"

#include <string>

#include <gtest/gtest.h>

#include "tests/support/test_files.h"

namespace lorad {
namespace {

// Of a config.json with these fields and a base of 100 tokens.
absl::StatusOr<int32_t> Read(const std::string& model_type, const std::string& json) {
  const TempDir dir;
  WriteFile(dir.File("config.json"), json);
  ModelConfig config;
  config.model_type = model_type;
  config.vocab_size = 100;
  return ReadPaddingToken(dir.path(), config);
}

TEST(PaddingTokenTest, IsWhatTheFileSays) {
  EXPECT_EQ(Read("llama", R"({"pad_token_id": 7})").value(), 7);
  EXPECT_EQ(Read("gemma", R"({"pad_token_id": null})").value(), -1);
  EXPECT_EQ(Read("llama", R"({"pad_token_id": -1})").value(), 99);  // as torch counts
  EXPECT_EQ(Read("llama", R"({"pad_token_id": 100})").value(), -1);
}

TEST(PaddingTokenTest, IsTheArchitecturesWhereTheFileDoesNotSay) {
  EXPECT_EQ(Read("llama", "{}").value(), -1);
  EXPECT_EQ(Read("gemma2", "{}").value(), 0);
  EXPECT_EQ(Read("gemma3_text", "{}").value(), 0);
  EXPECT_EQ(Read("opt", "{}").value(), 1);
  EXPECT_EQ(Read("phi3", "{}").value(), -1);  // 32000, which this base does not have
}

TEST(PaddingTokenTest, AFileThatIsNoObjectIsDataLoss) {
  EXPECT_EQ(Read("llama", "[]").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Read("llama", "{").status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace lorad
