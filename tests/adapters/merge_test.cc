// A base with an adapter merged into it, written, read again as any base, and asked what peft answers unmerged.
#include "adapters/merge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/apply.h"
#include "adapters/checkpoint_tables.h"
#include "adapters/float_convert.h"
#include "adapters/kinds/kind.h"
#include "model/causal_lm.h"
#include "model/safetensors_checkpoint.h"
#include "model/safetensors_writer.h"
#include "tests/support/golden_runner.h"
#include "tests/support/source_dir.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

using ::testing::HasSubstr;

constexpr double kTolerance = 5e-4;
const std::string kGolden = SourceDir() + "/tests/golden/";
const MergeProgressFn kGoOn = [](int64_t, int64_t) { return true; };

// A golden base in f32, so that nothing is rounded away when it is merged.
void CopyAsF32(const std::string& from, const std::string& to) {
  std::filesystem::create_directory(to);
  CopyFiles(from, to);
  for (const std::string& file : ListDir(to)) {
    if (file.find(".safetensors") != std::string::npos) std::filesystem::remove(to + "/" + file);
  }
  const Checkpoint checkpoint = OpenCheckpoint(from).value();
  std::map<std::string, std::vector<float>> values;
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, tensor] : checkpoint) {
    std::vector<float>& f32 = values[name];
    f32.resize(static_cast<size_t>(tensor.size_bytes / SizeBytes(tensor.dtype)));
    ToF32(tensor.dtype, tensor.data, static_cast<int64_t>(f32.size()), f32.data());
    const auto* const bytes = reinterpret_cast<const std::byte*>(f32.data());
    tensors.push_back({.name = name, .shape = tensor.shape, .bytes = {bytes, f32.size() * sizeof(float)}});
  }
  ASSERT_THAT(WriteSafetensors(to + "/model.safetensors", tensors, {}), IsOk());
}

class Base final {
 public:
  explicit Base(std::string dir)
      : dir_(std::move(dir)),
        shape_(BaseShapeOf(ReadModelConfig(dir_).value())),
        tables_(OpenBaseTables(dir_, shape_).value()),
        files_(LocalFiles()) {}

  const std::string& dir() const { return dir_; }
  const BaseShape& shape() const { return shape_; }
  AdapterImage Read(const std::string& adapter) const {
    return ReadAdapter(adapter, shape_, *files_, {.base_tables = tables_}).value();
  }
  absl::Status Merge(const std::string& adapter, const std::string& output) const {
    return WriteMerged(dir_, shape_, Read(adapter), output, kGoOn);
  }

 private:
  const std::string dir_;
  const BaseShape shape_;
  const BaseTables tables_;
  const std::unique_ptr<FileSource> files_;
};

class MergeGoldenTest : public testing::TestWithParam<std::string> {};

TEST_P(MergeGoldenTest, TheMergedBaseAnswersAsTheUnmergedAdapter) {
  const std::string golden_dir = kGolden + GetParam();
  TempDir work;
  CopyAsF32(golden_dir + "/model", work.File("base"));
  const Base base(work.File("base"));
  std::map<std::string, std::vector<GoldenCase>> by_adapter;
  for (GoldenCase& golden : ReadGoldenCases(golden_dir + "/cases.json")) {
    if (!golden.adapter.empty()) by_adapter[golden.adapter].push_back(std::move(golden));
  }
  BaseOnlySeam seam;
  for (const auto& [adapter, cases] : by_adapter) {
    SCOPED_TRACE(adapter);
    const std::string output = work.File(adapter);
    const absl::Status status = base.Merge(golden_dir + "/adapters/" + adapter, output);
    if (absl::IsUnimplemented(status) && adapter.rfind("alora", 0) == 0) {
      EXPECT_THAT(std::string(status.message()), HasSubstr("adapter kind: alora"));
      continue;
    }
    if (absl::IsUnimplemented(status) && adapter.rfind("own_", 0) == 0) {
      EXPECT_THAT(std::string(status.message()), HasSubstr("a vocabulary of its own"));
      continue;
    }
    if (absl::IsUnimplemented(status)) {
      EXPECT_THAT(std::string(status.message()), HasSubstr("parameters of experts"));
      EXPECT_TRUE(base.shape().Find(Site::kExpertDown) != nullptr);
      continue;
    }
    // A bias of B where the base has none has no place in a checkpoint.
    if (absl::IsFailedPrecondition(status)) {
      EXPECT_THAT(std::string(status.message()), HasSubstr("lora_bias"));
      EXPECT_EQ(adapter, "lora_bias");
      EXPECT_FALSE(std::filesystem::exists(output));
      continue;
    }
    ASSERT_THAT(status, IsOk());
    const auto model = CausalLm::Load(output, LoadOptions());
    ASSERT_THAT(model, IsOk());
    const auto no_terms = [](const GoldenCase&) { return std::vector<SlotTerm>(); };
    const auto answers = RunGolden(**model, seam, cases, no_terms, {});
    ASSERT_THAT(answers, IsOk());
    for (size_t i = 0; i < cases.size(); ++i) ExpectGolden(cases[i], (*answers)[i], kTolerance);
    std::filesystem::remove_all(output);
  }
}

INSTANTIATE_TEST_SUITE_P(Bases, MergeGoldenTest, testing::ValuesIn(GoldenBases(kGolden)),
                         [](const auto& info) { return info.param; });

class MergeTest : public testing::Test {
 protected:
  const Base base_{kGolden + "llama3/model"};
  const std::string q_v_ = kGolden + "llama3/adapters/q_v";
  TempDir work_;
};

TEST_F(MergeTest, KeepsDtypeShapesAndWhatTheAdapterDoesNotTouch) {
  ASSERT_THAT(base_.Merge(q_v_, work_.File("merged")), IsOk());
  const Checkpoint before = OpenCheckpoint(base_.dir()).value();
  const Checkpoint after = OpenCheckpoint(work_.File("merged")).value();
  ASSERT_EQ(before.size(), after.size());
  for (const auto& [name, tensor] : before) {
    const StoredTensor& merged = after.at(name);
    EXPECT_EQ(merged.dtype, tensor.dtype) << name;
    ASSERT_EQ(merged.shape, tensor.shape) << name;
    const bool touched = name.find("q_proj") != std::string::npos || name.find("v_proj") != std::string::npos;
    EXPECT_EQ(std::equal(tensor.data, tensor.data + tensor.size_bytes, merged.data), !touched) << name;
  }
  EXPECT_EQ(ReadFile(work_.File("merged/config.json")), ReadFile(base_.dir() + "/config.json"));
}

// The sums are those of f32, whatever the base's dtype: rounded once.
TEST_F(MergeTest, RoundsTheF32SumOnce) {
  const std::pair<std::string, std::string> cases[] = {
      {"gemma", "all_linear"}, {"gemma", "dora_embed_tokens"}, {"gemma", "embed_and_head"}, {"mistral", "all_linear"}};
  for (const auto& [base, adapter] : cases) {
    TempDir work;
    CopyAsF32(kGolden + base + "/model", work.File("f32"));
    const std::string dir = kGolden + base + "/adapters/" + adapter;
    ASSERT_THAT(Base(kGolden + base + "/model").Merge(dir, work.File("merged")), IsOk());
    ASSERT_THAT(Base(work.File("f32")).Merge(dir, work.File("exact")), IsOk());
    const Checkpoint merged = OpenCheckpoint(work.File("merged")).value();
    const Checkpoint exact = OpenCheckpoint(work.File("exact")).value();
    for (const auto& [name, tensor] : merged) {
      ASSERT_NE(tensor.dtype, DType::kF32) << name;
      std::vector<std::byte> rounded(static_cast<size_t>(tensor.size_bytes));
      const StoredTensor& sum = exact.at(name);
      ASSERT_EQ(sum.dtype, DType::kF32);
      std::vector<float> values(static_cast<size_t>(sum.size_bytes / 4));
      ToF32(sum.dtype, sum.data, static_cast<int64_t>(values.size()), values.data());
      FromF32(values.data(), static_cast<int64_t>(values.size()), tensor.dtype, rounded.data());
      EXPECT_TRUE(std::equal(rounded.begin(), rounded.end(), tensor.data)) << adapter << " " << name;
    }
  }
}

TEST_F(MergeTest, ATiedBaseIsUntiedOnlyWhereEmbeddingOrHeadChange) {
  const Base tied(kGolden + "qwen3/model");
  ASSERT_TRUE(tied.shape().tied_embeddings);
  ASSERT_THAT(tied.Merge(kGolden + "qwen3/adapters/q_v", work_.File("tied")), IsOk());
  EXPECT_EQ(ReadJsonFile(work_.File("tied/config.json"))["tie_word_embeddings"], true);
  ASSERT_THAT(tied.Merge(kGolden + "qwen3/adapters/head_pair_only", work_.File("untied")), IsOk());
  EXPECT_EQ(ReadJsonFile(work_.File("untied/config.json"))["tie_word_embeddings"], false);
  const Checkpoint before = OpenCheckpoint(tied.dir()).value();
  const Checkpoint after = OpenCheckpoint(work_.File("untied")).value();
  const StoredTensor& embedding = before.at("model.embed_tokens.weight");
  EXPECT_TRUE(
      std::equal(embedding.data, embedding.data + embedding.size_bytes, after.at("model.embed_tokens.weight").data));
  EXPECT_FALSE(std::equal(embedding.data, embedding.data + embedding.size_bytes, after.at("lm_head.weight").data));
}

TEST_F(MergeTest, CopiesTokenizerAndGenerationFilesAndNoOthers) {
  CopyAsF32(base_.dir(), work_.File("base"));
  for (const char* file :
       {"tokenizer.json", "generation_config.json", "chat_template.jinja", "merges.txt", "LICENSE"}) {
    WriteFile(work_.File("base/") + file, "{}");
  }
  for (const char* file : {"pytorch_model.bin", "notes.pdf", ".cache.json"}) WriteFile(work_.File("base/") + file, "x");
  ASSERT_THAT(Base(work_.File("base")).Merge(q_v_, work_.File("merged")), IsOk());
  EXPECT_THAT(ListDir(work_.File("merged")),
              testing::ElementsAre("LICENSE", "chat_template.jinja", "config.json", "generation_config.json",
                                   "merges.txt", "model.safetensors", "tokenizer.json"));
}

TEST_F(MergeTest, NeverTakesThePlaceOfAnything) {
  WriteFile(work_.File("file"), "mine");
  std::filesystem::create_directory(work_.File("folder"));
  std::filesystem::create_symlink("nowhere", work_.File("link"));
  for (const char* there : {"file", "folder", "link"}) {
    EXPECT_EQ(base_.Merge(q_v_, work_.File(there)).code(), absl::StatusCode::kAlreadyExists) << there;
  }
  EXPECT_EQ(base_.Merge(q_v_, work_.File("none/merged")).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadFile(work_.File("file")), "mine");
  EXPECT_EQ(ListDir(work_.path()).size(), 3u);
}

TEST_F(MergeTest, LeavesNothingBehindWhenItIsCancelledAtAnyTensor) {
  const AdapterImage image = base_.Read(q_v_);
  const auto tensors = static_cast<int64_t>(OpenCheckpoint(base_.dir())->size());
  for (const int64_t at : {int64_t{0}, int64_t{5}, tensors}) {
    int64_t last = -1;
    const auto stop = [&](int64_t done, int64_t total) {
      EXPECT_EQ(total, tensors);
      EXPECT_GT(done, last);
      last = done;
      return done < at;
    };
    EXPECT_EQ(WriteMerged(base_.dir(), base_.shape(), image, work_.File("merged"), stop).code(),
              absl::StatusCode::kCancelled);
    EXPECT_EQ(last, at);
    EXPECT_TRUE(ListDir(work_.path()).empty());
  }
}

TEST_F(MergeTest, RefusesAResultThatIsNotFinite) {
  AdapterImage image = base_.Read(q_v_);
  for (ImageSlot& slot : image.slots) slot.scale = std::numeric_limits<float>::infinity();
  const absl::Status status = WriteMerged(base_.dir(), base_.shape(), image, work_.File("merged"), kGoOn);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("self_attn.q_proj.weight: merged element"));
  EXPECT_TRUE(ListDir(work_.path()).empty());
}

TEST_F(MergeTest, SaysWhyAKindThatIsNoChangeOfWeightsCannotBeMerged) {
  AdapterImage image = base_.Read(q_v_);
  image.kind = "mixlora";
  const absl::Status status = WriteMerged(base_.dir(), base_.shape(), image, work_.File("merged"), kGoOn);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("mixlora"));
}

}  // namespace
}  // namespace lorad
