// Base checkpoints with one flaw each must be refused at load, with the code and the names of expect.json; odd but
// sound ones must load.
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/causal_lm.h"
#include "tests/support/golden_runner.h"
#include "tests/support/source_dir.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

const std::string kGolden = SourceDir() + "/tests/golden/";

class GoldenModelTest : public testing::TestWithParam<std::string> {};

TEST_P(GoldenModelTest, LoadsOrIsRefusedAsExpected) {
  const nlohmann::json expect = ReadJsonFile(kGolden + GetParam() + "/expect.json");
  const absl::StatusOr<std::unique_ptr<CausalLm>> model = CausalLm::Load(kGolden + GetParam() + "/model", {});
  EXPECT_EQ(absl::StatusCodeToString(model.status().code()), expect["code"].get<std::string>()) << model.status();
  for (const nlohmann::json& name : expect["names"]) {
    EXPECT_THAT(std::string(model.status().message()), testing::HasSubstr(name.get<std::string>()));
  }
  if (!model.ok()) return;
  const GoldenCase prompt = {.name = GetParam(), .prompt = {1, 5, 9}, .max_tokens = 4};
  BaseOnlySeam seam;
  EXPECT_THAT(RunGolden(**model, seam, {prompt}, [](const GoldenCase&) { return std::vector<SlotTerm>(); }, {}),
              IsOk());
}

std::vector<std::string> Folders() {
  std::vector<std::string> folders;
  for (const std::string place : {"refused_models", "accepted_models"}) {
    for (const std::string& name : ListDir(kGolden + place)) folders.push_back(place + "/" + name);
  }
  return folders;
}

INSTANTIATE_TEST_SUITE_P(Folders, GoldenModelTest, testing::ValuesIn(Folders()),
                         [](const auto& info) { return info.param.substr(info.param.find('/') + 1); });

}  // namespace
}  // namespace lorad
