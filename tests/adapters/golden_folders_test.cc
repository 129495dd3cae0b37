// Every adapter folder in tests/golden: what PEFT wrote is read as PEFT reads it, what is flawed is refused by name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "adapters/checkpoint_tables.h"
#include "adapters/kinds/kind.h"
#include "model/config.h"
#include "model/safetensors.h"
#include "model/torch_file.h"
#include "tests/support/source_dir.h"

namespace lorad {
namespace {

namespace fs = std::filesystem;

const std::string kGolden = SourceDir() + "/tests/golden";

nlohmann::json ReadJson(const std::string& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file, nullptr, false);
}

BaseShape ShapeOf(const std::string& base) {
  const absl::StatusOr<ModelConfig> config = ReadModelConfig(kGolden + "/" + base + "/model");
  EXPECT_TRUE(config.ok()) << config.status();
  return BaseShapeOf(*config);
}

BaseTables TablesOf(const std::string& base) {
  return OpenBaseTables(kGolden + "/" + base + "/model", ShapeOf(base)).value();
}

std::vector<std::string> SubFolders(const std::string& dir) {
  std::vector<std::string> names;
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir, none)) {
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> BasesWithAdapters() {
  std::vector<std::string> bases;
  for (const std::string& base : SubFolders(kGolden)) {
    if (fs::exists(kGolden + "/" + base + "/adapters")) bases.push_back(base);
  }
  return bases;
}

class GoldenAdaptersTest : public testing::TestWithParam<std::string> {};

TEST_P(GoldenAdaptersTest, EveryFolderOfPeftIsReadWithOnePairForEachOfItsModules) {
  const std::string base = GetParam();
  const auto files = LocalFiles();
  const BaseShape shape = ShapeOf(base);
  std::set<std::string> digests;
  for (const std::string& name : SubFolders(kGolden + "/" + base + "/adapters")) {
    const std::string dir = kGolden + "/" + base + "/adapters/" + name;
    const absl::StatusOr<AdapterImage> image = ReadAdapter(dir, shape, *files, {.base_tables = TablesOf(base)});
    ASSERT_TRUE(image.ok()) << dir << ": " << image.status();

    const SafetensorsIndex index = fs::exists(dir + "/adapter_model.bin")
                                       ? ParseTorchFile(*files, dir + "/adapter_model.bin").value()
                                       : ParseSafetensorsHeader(*files, dir + "/adapter_model.safetensors").value();
    const auto pairs = std::count_if(index.tensors.begin(), index.tensors.end(), [](const auto& tensor) {
      return absl::StrContains(tensor.first, ".lora_A") || absl::StrContains(tensor.first, ".lora_embedding_A");
    });
    EXPECT_EQ(std::count_if(image->slots.begin(), image->slots.end(), [](const auto& slot) { return slot.rank > 0; }),
              pairs)
        << dir;
    const nlohmann::json config = ReadJson(dir + "/adapter_config.json");
    for (const ImageSlot& slot : image->slots) {
      if (slot.rank == 0) continue;  // a bias alone
      EXPECT_EQ(slot.experts, shape.Find(slot.site)->experts);
      EXPECT_EQ(slot.a.shape[0], slot.experts * slot.rank);
      EXPECT_EQ(slot.b.shape[1], slot.experts * slot.rank);
      EXPECT_EQ(slot.a.shape[1], shape.Find(slot.site)->in_features);
      EXPECT_EQ(slot.b.shape[0], shape.Find(slot.site)->out_features);
      if (config["alpha_pattern"].empty() && config["rank_pattern"].empty()) {
        const double rank = config["r"], alpha = config["lora_alpha"];
        EXPECT_FLOAT_EQ(slot.scale, alpha / (config["use_rslora"] ? std::sqrt(rank) : rank)) << dir;
        // A start made of the base's weight joins the pair, and has no more rows than that.
        const bool has_start = config["init_lora_weights"] == "pissa" || config["init_lora_weights"] == "olora";
        const auto width = static_cast<double>(std::min(slot.a.shape[1], slot.b.shape[0]));
        const double stored = has_start ? std::min(rank, width) : rank;
        EXPECT_EQ(slot.rank, has_start && !slot.rows.present() ? 2 * stored : stored) << dir;
      }
    }
    EXPECT_TRUE(digests.insert(image->digest).second) << dir << " has the digest of another adapter";
  }
}

INSTANTIATE_TEST_SUITE_P(Bases, GoldenAdaptersTest, testing::ValuesIn(BasesWithAdapters()),
                         [](const auto& info) { return info.param; });

// peft 0.21.2 itself says, of each module: (r, scale).
struct Expected {
  Site site;
  int32_t layer;
  int32_t rank;
  double scale;
};

void ExpectSlots(const std::string& variant, const std::vector<Expected>& expected) {
  const auto files = LocalFiles();
  const AdapterImage image = ReadAdapter(kGolden + "/llama3/adapters/" + variant, ShapeOf("llama3"), *files).value();
  ASSERT_EQ(image.slots.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(image.slots[i].site, expected[i].site) << variant << " slot " << i;
    EXPECT_EQ(image.slots[i].layer, expected[i].layer) << variant << " slot " << i;
    EXPECT_EQ(image.slots[i].rank, expected[i].rank) << variant << " slot " << i;
    EXPECT_FLOAT_EQ(image.slots[i].scale, expected[i].scale) << variant << " slot " << i;
  }
}

TEST(GoldenPatternsTest, TheFirstExpressionInTheFilesOrderWins) {
  // alpha_pattern: v_proj 6, self_attn.* 1, q_proj 4, layers.0.self_attn.q_proj 40; r 4, alpha 8
  ExpectSlots("patterns_file_order", {{Site::kQProj, 0, 4, 0.25},
                                      {Site::kQProj, 1, 4, 0.25},
                                      {Site::kVProj, 0, 4, 1.5},
                                      {Site::kVProj, 1, 4, 1.5},
                                      {Site::kGateProj, 0, 4, 2.0},
                                      {Site::kGateProj, 1, 4, 2.0}});
}

TEST(GoldenPatternsTest, RsLoraDividesByTheRootOfThePatternsRank) {
  // r 4, alpha 8; rank_pattern down_proj 9; alpha_pattern o_proj 2
  ExpectSlots("rslora_patterns", {{Site::kKProj, 0, 4, 4.0},
                                  {Site::kKProj, 1, 4, 4.0},
                                  {Site::kOProj, 0, 4, 1.0},
                                  {Site::kOProj, 1, 4, 1.0},
                                  {Site::kDownProj, 0, 9, 8.0 / 3},
                                  {Site::kDownProj, 1, 9, 8.0 / 3}});
}

TEST(GoldenTablesTest, ACopyOfTheBasesTableIsRefusedWhenNothingCanBeComparedWithIt) {
  const auto files = LocalFiles();
  const auto image = ReadAdapter(kGolden + "/llama3/adapters/embed_tokens", ShapeOf("llama3"), *files);
  EXPECT_EQ(image.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(absl::StrContains(image.status().message(), "embed_tokens.base_layer.weight")) << image.status();
}

absl::Status StatusOf(const std::string& dir, const nlohmann::json& expect) {
  const auto files = LocalFiles();
  const std::string base = expect["base"];
  return ReadAdapter(dir, ShapeOf(base), *files, {.base_tables = TablesOf(base)}).status();
}

class RefusedAdapterTest : public testing::TestWithParam<std::string> {};

TEST_P(RefusedAdapterTest, HasItsCodeAndNamesWhatIsWrong) {
  const std::string dir = kGolden + "/refused/" + GetParam();
  const nlohmann::json expect = ReadJson(dir + "/expect.json");
  const absl::Status status = StatusOf(dir, expect);
  EXPECT_EQ(absl::StatusCodeToString(status.code()), expect["code"].get<std::string>()) << status;
  for (const std::string name : expect["names"]) {
    EXPECT_TRUE(absl::StrContains(status.message(), name)) << status << "\ndoes not name: " << name;
  }
  EXPECT_LT(status.message().size(), 1000u);
}

INSTANTIATE_TEST_SUITE_P(Folders, RefusedAdapterTest, testing::ValuesIn(SubFolders(kGolden + "/refused")),
                         [](const auto& info) { return info.param; });

class AcceptedAdapterTest : public testing::TestWithParam<std::string> {};

TEST_P(AcceptedAdapterTest, MeansWhatTheControlMeans) {
  const std::string dir = kGolden + "/accepted/" + GetParam();
  const nlohmann::json expect = ReadJson(dir + "/expect.json");
  const auto files = LocalFiles();
  const BaseShape shape = ShapeOf(expect["base"]);
  const absl::StatusOr<AdapterImage> image = ReadAdapter(dir, shape, *files);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->digest, ReadAdapter(kGolden + "/accepted/control", shape, *files)->digest);
}

INSTANTIATE_TEST_SUITE_P(Folders, AcceptedAdapterTest, testing::ValuesIn(SubFolders(kGolden + "/accepted")),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace lorad
