// Rules of the LoRA reader that the golden folders do not cover.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <random>

#include "adapters/float_convert.h"
#include "adapters/kinds/replacements.h"
#include "adapters/kinds/kind.h"
#include "adapters/kinds/peft_config.h"
#include "adapters/kinds/peft_targets.h"
#include "model/safetensors_writer.h"
#include "tests/adapters/adapter_folder.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

using absl::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;

class LoraReaderTest : public testing::Test {
 protected:
  absl::StatusOr<AdapterImage> Read(const AdapterSpec& spec, const AdapterReadOptions& options = {}) {
    return ReadAdapter(WriteAdapter(dir_.path() + "/a", spec), base_, *files_, options);
  }
  TempDir dir_;
  BaseShape base_ = TinyBase();
  std::unique_ptr<FileSource> files_ = LocalFiles();
};

TEST_F(LoraReaderTest, SlotsAreOrderedAndTargetsNamedOnce) {
  const AdapterImage image = Read({.modules = {"v_proj", "q_proj", "lm_head"}}).value();
  EXPECT_THAT(image.targets, ElementsAre("q_proj", "v_proj", "lm_head"));
  EXPECT_EQ(image.slots.size(), 5u);
  EXPECT_EQ(image.slots[1].layer, 1);
  EXPECT_EQ(image.slots[4].layer, -1);
}

TEST_F(LoraReaderTest, TheDigestIsOfWhatIsApplied) {
  const std::string digest = Read({}).value().digest;
  EXPECT_EQ(Read({}).value().digest, digest);
  EXPECT_NE(Read({.alpha = 5}).value().digest, digest);
  EXPECT_NE(Read({.seed = 2}).value().digest, digest);
  EXPECT_NE(Read({.dtype = DType::kBF16}).value().digest, digest);
  EXPECT_NE(Read({.more_config = ", \"use_rslora\": true"}).value().digest, digest);
  EXPECT_EQ(Read({.more_config = ", \"lora_dropout\": 0.1, \"alpha_pattern\": {\"k_proj\": 9}"}).value().digest,
            digest);
}

TEST_F(LoraReaderTest, AWeightTooLargeForTheServingTypeIsRefused) {
  const std::string dir = WriteAdapter(dir_.path() + "/a", {});
  const std::string file = dir + "/adapter_model.safetensors";
  {
    std::fstream out(file, std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(-4, std::ios::end);
    const float large = 3.4e38f;
    out.write(reinterpret_cast<const char*>(&large), 4);
  }
  EXPECT_TRUE(ReadAdapter(dir, base_, *files_).ok());
  const absl::Status status = ReadAdapter(dir, base_, *files_, {.pool_dtype = DType::kBF16}).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("BF16"));
}

// Fails the test when more than a header is read.
class HeaderOnlyFiles final : public FileSource {
 public:
  bool Exists(const std::string& path) override { return files_->Exists(path); }
  absl::StatusOr<int64_t> SizeBytes(const std::string& path) override { return files_->SizeBytes(path); }
  absl::Status ReadAt(const std::string& path, int64_t offset, int64_t size, std::byte* destination) override {
    EXPECT_LE(size, 4096) << path;
    return files_->ReadAt(path, offset, size, destination);
  }

 private:
  std::unique_ptr<FileSource> files_ = LocalFiles();
};

TEST_F(LoraReaderTest, AnAdapterLargerThanThePoolIsRefusedUnread) {
  const std::string dir = WriteAdapter(dir_.path() + "/a", {.rank = 64});
  const int64_t bytes = PlanLayout(ReadAdapter(dir, base_, *files_).value(), DType::kF32).total_bytes;
  EXPECT_TRUE(ReadAdapter(dir, base_, *files_, {.max_pool_bytes = bytes}).ok());
  HeaderOnlyFiles header_only;
  const absl::Status status = ReadAdapter(dir, base_, header_only, {.max_pool_bytes = bytes - 1}).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("bytes: " + std::to_string(bytes) + "; limit: " + std::to_string(bytes - 1)));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--memory-bytes"));
}

// A folder whose config is `text`.
absl::Status StatusOfConfig(const std::string& dir, const std::string& text) {
  WriteAdapter(dir, {});
  std::ofstream(dir + "/adapter_config.json") << text;
  return ReadAdapter(dir, TinyBase(), *LocalFiles()).status();
}

TEST_F(LoraReaderTest, ADeeplyNestedConfigIsRefusedBeforeItIsKept) {
  const auto nested = [&](size_t depth, const std::string& end) {
    return StatusOfConfig(dir_.path() + "/a", "{\"peft_type\":\"LORA\",\"r\":2,\"task_name\":\"[[{\\\"[\",\"x\":" +
                                                  std::string(depth - 1, '[') + std::string(depth - 1, ']') + end);
  };
  const absl::Status status = nested(200'000, "}");
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("nesting: 200000; limit: 64"));
  EXPECT_EQ(nested(65, "}").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(nested(64, "}").code(), StatusCode::kUnimplemented) << "x is an unknown key";
  EXPECT_EQ(nested(200'000, "").code(), StatusCode::kDataLoss) << "not valid JSON, however deep";
}

TEST_F(LoraReaderTest, AConfigOfManyKeysOrEntriesIsRefused) {
  const std::string dir = dir_.path() + "/a";
  const auto with = [&](const std::string& more) {
    return StatusOfConfig(dir, "{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4" + more + "}");
  };
  const auto pattern = [](const std::string& key, int entries) {
    std::string text = ", \"" + key + "\": {\"e\": 1";
    for (int i = 1; i < entries; ++i) text += ", \"e" + std::to_string(i) + "\": 1";
    return text + "}, \"target_modules\": [\"q_proj\", \"v_proj\"]";
  };
  const auto refusal = [&](const std::string& more) {
    const absl::Status status = with(more);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  EXPECT_TRUE(with(pattern("rank_pattern", 4096)).ok());
  EXPECT_THAT(refusal(pattern("rank_pattern", 4097)), HasSubstr("rank_pattern: entries: 4097; limit: 4096"));
  EXPECT_THAT(refusal(pattern("alpha_pattern", 4097)), HasSubstr("alpha_pattern: entries: 4097; limit: 4096"));
  EXPECT_THAT(refusal(pattern("loftq_config", 20'000)), HasSubstr("; limit: 16384"));
  std::string names = ", \"target_modules\": [\"q_proj\"", layers = ", \"layers_to_transform\": [0";
  for (int i = 0; i < 4096; ++i) names += ", \"q_proj\"", layers += ", 0";
  EXPECT_THAT(refusal(names + "]"), HasSubstr("target_modules: entries: 4097; limit: 4096"));
  EXPECT_THAT(refusal(layers + "], \"target_modules\": [\"q_proj\"]"), HasSubstr("entries: 4097; limit: 4096"));
  EXPECT_THAT(refusal(", \"task_name\": \"" + std::string(1 << 20, 'x') + "\""), HasSubstr("limit: 1048576"));
}

TEST_F(LoraReaderTest, ExpressionsThatGrowWhenCompiledAreRefused) {
  const std::string grows = "((\\\\pL{1,30}){1,30})";
  const absl::Status one = Read({.more_config = ", \"exclude_modules\": \"" + grows + "\""}).status();
  EXPECT_EQ(one.code(), StatusCode::kInvalidArgument) << one;
  EXPECT_THAT(std::string(one.message()), HasSubstr("too large when compiled; limit: 262144 bytes"));
  std::string many = ", \"rank_pattern\": {\"none\": 1";
  for (int i = 0; i < 4000; ++i) many += ", \"(a{1,30}){1,30}" + std::to_string(i) + "\": 1";
  const absl::Status all = Read({.more_config = many + "}"}).status();
  EXPECT_EQ(all.code(), StatusCode::kInvalidArgument) << all;
  EXPECT_THAT(std::string(all.message()), HasSubstr("limit: 1048576"));
}

TEST_F(LoraReaderTest, TiedWeightsAreOnBothSidesOrRefused) {
  base_.tied_embeddings = true;
  const std::string tie = ", \"ensure_weight_tying\": true";
  EXPECT_EQ(Read({.modules = {"embed_tokens"}, .more_config = tie}).status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(Read({.modules = {"embed_tokens", "lm_head"}, .more_config = tie}).value().slots.size(), 2u);
  base_.tied_embeddings = false;  // nothing to tie
  EXPECT_TRUE(Read({.modules = {"embed_tokens"}, .more_config = tie}).ok());
}

TEST_F(LoraReaderTest, ConfigWithoutTargetsTakesTheDefaultsOfTheBasesType) {
  const AdapterConfigJson json = {{"peft_type", "LORA"}, {"r", 2}};
  EXPECT_THAT(ParsePeftLoraConfig(json, "qwen2")->target_names, ElementsAre("q_proj", "v_proj"));
  EXPECT_EQ(ParsePeftLoraConfig(json, "new_model").status().code(), StatusCode::kInvalidArgument);
}

std::vector<std::string> TargetsOf(const std::string& config) {
  const absl::StatusOr<PeftLoraConfig> parsed = ParsePeftLoraConfig(AdapterConfigJson::parse(config), "llama");
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  const BaseShape base = TinyBase();
  const auto targets = SelectTargets(*parsed, base);
  EXPECT_TRUE(targets.ok()) << targets.status();
  std::vector<std::string> paths;
  for (const auto& [path, module] : *targets) paths.push_back(path);
  return paths;
}

// The expectations were computed with peft 0.21.2's check_target_module_exists.
TEST(PeftTargetsTest, SelectsAsPeftDoes) {
  EXPECT_THAT(TargetsOf(R"({"target_modules": ["q_proj", "lm_head", "embed_tokens"], "layers_to_transform": [1]})"),
              ElementsAre("lm_head", "model.layers.1.self_attn.q_proj"))
      << "a whole path is meant whatever its layer; embed_tokens has no layer and is no whole path";
  EXPECT_THAT(TargetsOf(R"({"target_modules": ["model.layers.0.self_attn.q_proj"], "layers_to_transform": 1})"),
              ElementsAre("model.layers.0.self_attn.q_proj"));
  EXPECT_THAT(
      TargetsOf(R"({"target_modules": ["k_proj"], "layers_to_transform": 0, "layers_pattern": ["blocks", "layers"]})"),
      ElementsAre("model.layers.0.self_attn.k_proj"));
  EXPECT_THAT(TargetsOf(R"({"target_modules": "a|.*v_proj", "exclude_modules": ".*0.*"})"),
              ElementsAre("model.layers.1.self_attn.v_proj"));
  EXPECT_THAT(TargetsOf(R"({"target_modules": ["o_proj"], "layers_to_transform": []})"),
              ElementsAre("model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj"));
  EXPECT_EQ(TargetsOf(R"({"target_modules": "ALL-linear"})").size(), 14u);
}

TEST(PeftTargetsTest, RefusesWhatPeftRefusesOrASlowMatcherWouldHangOn) {
  const auto code = [](const std::string& config) {
    const absl::StatusOr<PeftLoraConfig> parsed = ParsePeftLoraConfig(AdapterConfigJson::parse(config), "llama");
    return parsed.ok() ? SelectTargets(*parsed, TinyBase()).status().code() : parsed.status().code();
  };
  EXPECT_EQ(code(R"({"target_modules": "q_proj"})"), StatusCode::kInvalidArgument) << "an expression of the whole path";
  EXPECT_EQ(code(R"({"target_modules": ".*q_proj", "layers_to_transform": [0]})"), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(R"({"target_modules": ["q_proj"], "layers_pattern": "layers"})"), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(R"({"target_modules": ["q_proj"], "layers_to_transform": [7]})"), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(R"({"target_modules": "(a)\\1"})"), StatusCode::kUnimplemented);
  EXPECT_EQ(code(R"({"target_modules": ".*q_proj\\Z"})"), StatusCode::kUnimplemented);
  EXPECT_EQ(code(R"({"target_modules": "((a{1,100}){1,100}){1,100}"})"), StatusCode::kUnimplemented);
  EXPECT_EQ(code(R"({"target_modules": "a)|(.*q_proj"})"), StatusCode::kInvalidArgument);
}

class BaseTableTest : public testing::Test {
 protected:
  static constexpr int64_t kRows = 700, kColumns = 101;  // more than one block of reading
  void SetUp() override {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    table_.resize(kRows * kColumns);
    for (float& value : table_) value = normal(random);
  }
  // Tokens whose rows replace the base's.
  absl::StatusOr<std::vector<int32_t>> Replaced(DType file_dtype, std::vector<float> file, DType base_dtype) {
    const auto bytes_of = [](const std::vector<float>& values, DType dtype) {
      std::vector<std::byte> bytes(values.size() * SizeBytes(dtype));
      FromF32(values.data(), static_cast<int64_t>(values.size()), dtype, bytes.data());
      return bytes;
    };
    const std::vector<std::byte> file_bytes = bytes_of(file, file_dtype);
    const std::vector<std::byte> base_bytes = bytes_of(table_, base_dtype);
    const std::string path = dir_.path() + "/t.safetensors";
    const int64_t columns = static_cast<int64_t>(file.size()) / kRows;
    EXPECT_TRUE(
        WriteSafetensors(path, {{.name = "t", .dtype = file_dtype, .shape = {kRows, columns}, .bytes = file_bytes}}, {})
            .ok());
    const auto files = LocalFiles();
    const SafetensorsIndex index = ParseSafetensorsHeader(*files, path).value();
    BaseShape base;
    base.vocab_size = kRows;
    base.sites.push_back({.site = Site::kEmbedTokens,
                          .module_path = "embed",
                          .in_features = kRows,
                          .out_features = kColumns,
                          .per_layer = false});
    PeftTensors tensors;
    tensors.modules["embed"].table = &*index.tensors.find("t");
    const BaseTables base_tables = [&](const BaseTableName&) {
      return absl::StatusOr<BaseTable>(BaseTable{base_dtype, kRows, kColumns, base_bytes.data()});
    };
    const absl::StatusOr<Replacements> found =
        FindReplacements(*files, index, tensors, PeftLoraConfig(), base, AllModules(base), base_tables);
    if (!found.ok()) return found.status();
    if (found->empty()) return std::vector<int32_t>();
    const Replacement& replacement = found->at("embed");
    if (!replacement.ids.empty()) return replacement.ids;
    std::vector<int32_t> all(static_cast<size_t>(replacement.rows));
    std::iota(all.begin(), all.end(), 0);
    return all;
  }
  TempDir dir_;
  std::vector<float> table_;
};

TEST_F(BaseTableTest, ACopyIsTheSameAlsoWhenTrainingKeptItInAnotherType) {
  EXPECT_THAT(*Replaced(DType::kF32, table_, DType::kF32), testing::IsEmpty());
  EXPECT_THAT(*Replaced(DType::kBF16, table_, DType::kF32), testing::IsEmpty());
  EXPECT_THAT(*Replaced(DType::kF16, table_, DType::kF32), testing::IsEmpty());
  std::vector<float> widened = table_;
  for (float& value : widened) value = F32FromBf16(Bf16FromF32(value));
  EXPECT_THAT(*Replaced(DType::kF32, widened, DType::kBF16), testing::IsEmpty());
}

TEST_F(BaseTableTest, RowsWithAnotherNumberReplaceTheBases) {
  std::vector<float> other = table_;
  other[5 * kColumns + 3] += 0.25f;
  other.back() += 0.25f;
  EXPECT_THAT(*Replaced(DType::kF32, other, DType::kF32), testing::ElementsAre(5, kRows - 1));
  for (float& value : other) value += 0.25f;
  EXPECT_EQ(Replaced(DType::kF32, other, DType::kF32)->size(), static_cast<size_t>(kRows));
  table_[0] = 0.0f;
  other = table_;
  other[0] = -0.0f;
  EXPECT_THAT(*Replaced(DType::kF32, other, DType::kF32), testing::IsEmpty());
  EXPECT_EQ(Replaced(DType::kF32, std::vector<float>(kRows * (kColumns + 1)), DType::kF32).status().code(),
            StatusCode::kInvalidArgument);
}

// Files in memory, so that thousands of damaged ones cost nothing.
class MemoryFiles final : public FileSource {
 public:
  std::map<std::string, std::string> content;

  bool Exists(const std::string& path) override { return content.contains(path); }
  absl::StatusOr<int64_t> SizeBytes(const std::string& path) override {
    if (!Exists(path)) return absl::NotFoundError(path);
    return static_cast<int64_t>(content[path].size());
  }
  absl::Status ReadAt(const std::string& path, int64_t offset, int64_t size, std::byte* destination) override {
    const std::string& bytes = content[path];
    if (offset < 0 || size < 0 || offset + size > static_cast<int64_t>(bytes.size())) return absl::DataLossError(path);
    std::memcpy(destination, bytes.data() + offset, static_cast<size_t>(size));
    return absl::OkStatus();
  }
};

std::string Damage(std::string bytes, size_t first_bytes, std::mt19937& random) {
  static constexpr std::string_view kTelling = "\"{}[],:0129-.eE\\ntfNaI\xff\x00";
  for (int flaws = 1 + static_cast<int>(random() % 3); flaws > 0; --flaws) {
    const size_t at = random() % std::min(first_bytes, bytes.size());
    const char c = kTelling[random() % kTelling.size()];
    switch (random() % 4) {
      case 0:
        bytes[at] = c;
        break;
      case 1:
        bytes.insert(at, 1, c);
        break;
      case 2:
        bytes.erase(at, 1 + random() % 4);
        break;
      default:
        bytes[at] = static_cast<char>(random());
        break;
    }
  }
  return bytes;
}

TEST_F(LoraReaderTest, ADamagedFolderIsReadOrRefusedAndNothingElse) {
  const std::string dir = WriteAdapter(dir_.path() + "/a", {.more_config = ", \"rank_pattern\": {\"v_proj\": 2}"});
  MemoryFiles sound;
  for (const char* name : {"/adapter_config.json", "/adapter_model.safetensors"}) {
    sound.content[dir + name] = ReadWholeFile(*files_, dir + name, 1 << 20).value();
  }
  std::mt19937 random(11);
  int refused = 0;
  constexpr int kRounds = 4000;
  for (int round = 0; round < kRounds; ++round) {
    MemoryFiles damaged = sound;
    const bool config = round % 2 == 0;
    std::string& file = damaged.content[dir + (config ? "/adapter_config.json" : "/adapter_model.safetensors")];
    file = Damage(file, config ? file.size() : 1200, random);
    const absl::StatusOr<AdapterImage> image = ReadAdapter(dir, base_, damaged);
    if (image.ok()) {
      EXPECT_EQ(image->slots.size(), 4u);
      continue;
    }
    ++refused;
    const StatusCode code = image.status().code();
    EXPECT_TRUE(code == StatusCode::kDataLoss || code == StatusCode::kInvalidArgument ||
                code == StatusCode::kUnimplemented)
        << image.status();
  }
  EXPECT_GT(refused, kRounds * 3 / 4);
}

}  // namespace
}  // namespace lorad
