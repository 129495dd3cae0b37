// Every golden folder of every base: what was read is written and read again; what is converted reads as it did before.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "adapters/checkpoint_tables.h"
#include "adapters/convert.h"
#include "adapters/kinds/kind.h"
#include "adapters/kinds/moe_names.h"
#include "model/config.h"
#include "model/safetensors.h"
#include "model/safetensors_checkpoint.h"
#include "model/safetensors_writer.h"
#include "tests/adapters/adapter_folder.h"
#include "tests/adapters/equal_experts.h"
#include "tests/support/source_dir.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

const std::string kGolden = SourceDir() + "/tests/golden";

std::string BytesOf(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::vector<std::string> Bases() {
  std::vector<std::string> bases;
  for (const auto& entry : fs::directory_iterator(kGolden)) {
    if (fs::exists(entry.path() / "adapters")) bases.push_back(entry.path().filename().string());
  }
  std::sort(bases.begin(), bases.end());
  return bases;
}

void ExpectSameTensor(const HostTensor& found, const HostTensor& wanted, const std::string& what) {
  ASSERT_EQ(found.present(), wanted.present()) << what;
  if (!wanted.present()) return;
  ASSERT_EQ(found.dtype, wanted.dtype) << what;
  ASSERT_EQ(found.shape, wanted.shape) << what;
  EXPECT_TRUE(std::equal(wanted.data(), wanted.data() + wanted.elements() * SizeBytes(wanted.dtype), found.data()))
      << what;
}

void ExpectSameSlot(const ImageSlot& found, const ImageSlot& wanted) {
  SCOPED_TRACE(std::string(Name(wanted.site)) + " of layer " + std::to_string(wanted.layer));
  EXPECT_EQ(found.site, wanted.site);
  EXPECT_EQ(found.layer, wanted.layer);
  EXPECT_EQ(found.experts, wanted.experts);
  EXPECT_EQ(found.rank, wanted.rank);
  EXPECT_EQ(found.scale, wanted.scale);
  ExpectSameTensor(found.a, wanted.a, "A");
  ExpectSameTensor(found.b, wanted.b, "B");
  ExpectSameTensor(found.magnitude, wanted.magnitude, "magnitude");
  ExpectSameTensor(found.delta_bias, wanted.delta_bias, "bias of B");
  ExpectSameTensor(found.bias, wanted.bias, "bias");
  ExpectSameTensor(found.rows, wanted.rows, "rows");
  ExpectSameTensor(found.router, wanted.router, "router");
  EXPECT_EQ(found.row_ids, wanted.row_ids);
  EXPECT_EQ(found.whole_module, wanted.whole_module);
  EXPECT_EQ(found.dora, wanted.dora);
  EXPECT_EQ(found.bias_change, wanted.bias_change);
}

void ExpectSameImage(const AdapterImage& found, const AdapterImage& wanted) {
  EXPECT_EQ(found.digest, wanted.digest);
  EXPECT_EQ(found.kind, wanted.kind);
  EXPECT_EQ(found.targets, wanted.targets);
  EXPECT_EQ(found.num_labels, wanted.num_labels);
  EXPECT_EQ(found.invocation_tokens, wanted.invocation_tokens);
  EXPECT_EQ(found.rank_min, wanted.rank_min);
  EXPECT_EQ(found.rank_max, wanted.rank_max);
  EXPECT_EQ(found.routing.choice, wanted.routing.choice);
  EXPECT_EQ(found.routing.top_k, wanted.routing.top_k);
  EXPECT_EQ(found.routing.renormalise, wanted.routing.renormalise);
  EXPECT_EQ(found.routing.top_p, wanted.routing.top_p);
  EXPECT_EQ(found.routing.temperature, wanted.routing.temperature);
  EXPECT_EQ(found.routing.activation, wanted.routing.activation);
  ASSERT_EQ(found.slots.size(), wanted.slots.size());
  for (size_t i = 0; i < wanted.slots.size(); ++i) ExpectSameSlot(found.slots[i], wanted.slots[i]);
}

// Folders that no writer can write, and why. None today.
const std::map<std::string, std::string> kNotWritten = {};

class WrittenTest : public testing::TestWithParam<std::string> {
 protected:
  WrittenTest()
      : model_(kGolden + "/" + GetParam() + "/model"),
        shape_(BaseShapeOf(ReadModelConfig(model_).value())),
        tables_(OpenBaseTables(model_, shape_).value()) {}

  AdapterImage Read(const std::string& dir) {
    absl::StatusOr<AdapterImage> image = ReadAdapter(dir, shape_, *files_, {.base_tables = tables_});
    EXPECT_TRUE(image.ok()) << dir << ": " << image.status();
    return image.ok() ? *std::move(image) : AdapterImage();
  }
  // Where it was written, or why not.
  absl::StatusOr<std::string> Write(const AdapterImage& image, const std::string& name) {
    auto folder = NewFolder::Create(work_.path() + "/" + name);
    EXPECT_TRUE(folder.ok());
    if (absl::Status status = WriteAdapter(image, shape_, tables_, **folder); !status.ok()) return status;
    EXPECT_TRUE((*folder)->Publish().ok());
    return work_.path() + "/" + name;
  }
  std::vector<std::string> FoldersIn(const std::string& path) const {
    std::vector<std::string> folders;
    std::error_code none;
    for (const auto& entry : fs::directory_iterator(kGolden + "/" + path, none)) {
      if (entry.is_directory()) folders.push_back(entry.path().string());
    }
    std::sort(folders.begin(), folders.end());
    return folders;
  }
  std::vector<std::string> PeftFolders() const { return FoldersIn(GetParam() + "/adapters"); }
  std::vector<std::string> AllFolders() const {
    std::vector<std::string> folders = PeftFolders();
    if (GetParam() == "llama2") folders.push_back(kGolden + "/moe_training/mixlora_dora/adapter");
    for (const std::string& more : {GetParam() + "/classifiers", "moe_peft/" + GetParam() + "/adapters"}) {
      for (std::string& folder : FoldersIn(more)) folders.push_back(std::move(folder));
    }
    return folders;
  }

  const std::string model_;
  const BaseShape shape_;
  const BaseTables tables_;
  const std::unique_ptr<FileSource> files_ = LocalFiles();
  TempDir work_;
};

TEST_P(WrittenTest, IsReadAgainTensorByTensorAndWrittenAgainByteByByte) {
  int number = 0;
  for (const std::string& folder : AllFolders()) {
    SCOPED_TRACE(folder);
    if (kNotWritten.contains(folder.substr(kGolden.size() + 1))) continue;
    const std::string name = std::to_string(number++);
    const AdapterImage image = Read(folder);
    const auto once = Write(image, name + "-1");
    ASSERT_TRUE(once.ok()) << once.status();
    const AdapterImage again = Read(*once);
    ExpectSameImage(again, image);
    EXPECT_EQ(again.folder_kind, image.folder_kind);
    const auto twice = Write(again, name + "-2");
    ASSERT_TRUE(twice.ok()) << twice.status();
    const char* tensors = image.folder_kind == "lora" ? "adapter_model.safetensors" : "adapter_model.bin";
    for (const char* file : {"adapter_config.json", tensors}) {
      EXPECT_FALSE(BytesOf(*once + "/" + file).empty()) << file;
      EXPECT_EQ(BytesOf(*once + "/" + file), BytesOf(*twice + "/" + file)) << file;
    }
  }
  EXPECT_GT(number, 0);
}

// On every base without experts of its own, also those that MoE-PEFT does not know.
class WrittenMixLoraTest : public WrittenTest {};

TEST_P(WrittenMixLoraTest, OfTheBasesOwnModulesIsReadAgain) {
  AdapterImage image = EqualExperts(Read(kGolden + "/" + GetParam() + "/adapters/all_linear"), /*experts=*/3, shape_);
  std::erase_if(image.slots, [](const ImageSlot& slot) {
    return slot.site != Site::kFfn && !IsOfFfn(slot.site) && !IsOfAttention(slot.site);
  });
  image.folder_kind = "moe-peft";
  image.targets.clear();
  for (const ImageSlot& slot : image.slots) {
    if (slot.layer == 0 && slot.site != Site::kFfn) {
      image.targets.push_back(LastName(shape_.Find(slot.site)->module_path));
    }
  }
  const auto written = Write(image, "mixlora");
  ASSERT_TRUE(written.ok()) << written.status();
  const AdapterImage again = Read(*written);
  image.digest = again.digest;  // of what a file holds
  ExpectSameImage(again, image);
}

TEST_P(WrittenTest, IsConvertedToTheSameAdapterInSafetensors) {
  for (const std::string& path : PeftFolders()) {
    const fs::path folder(path);
    const std::string name = folder.filename().string();
    SCOPED_TRACE(name);
    const std::string output = work_.path() + "/" + name;
    const auto notes = ConvertAdapter(folder.string(), output, *files_);
    ASSERT_TRUE(notes.ok()) << notes.status();
    EXPECT_FALSE(fs::exists(output + "/adapter_model.bin"));
    ExpectSameImage(Read(output), Read(folder.string()));
    const SafetensorsIndex index = ParseSafetensorsHeader(*files_, output + "/adapter_model.safetensors").value();
    for (const auto& [tensor, entry] : index.tensors) {
      EXPECT_TRUE(tensor.starts_with("base_model.model.")) << tensor;
      EXPECT_FALSE(tensor.find(".default") != std::string::npos) << tensor;
    }
  }
}

std::vector<std::string> UnroutedBases() {
  std::vector<std::string> bases = Bases();
  std::erase_if(bases, [](const std::string& base) {
    return BaseShapeOf(ReadModelConfig(kGolden + "/" + base + "/model").value()).Find(Site::kRouter) != nullptr;
  });
  return bases;
}

INSTANTIATE_TEST_SUITE_P(Bases, WrittenTest, testing::ValuesIn(Bases()), [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Bases, WrittenMixLoraTest, testing::ValuesIn(UnroutedBases()),
                         [](const auto& info) { return info.param; });

// As published OPT folders are: by the inner model, without "model.".
TEST(InnerModelTest, ItsTablesAreFoundForDoraAndBiases) {
  TempDir work;
  const std::string model = work.path() + "/opt";
  fs::copy(kGolden + "/opt/model", model, fs::copy_options::recursive);
  const Checkpoint whole = OpenCheckpoint(kGolden + "/opt/model").value();
  std::vector<TensorToWrite> inner;
  for (const auto& [name, tensor] : whole) {
    ASSERT_TRUE(name.starts_with("model.")) << name;
    inner.push_back({name.substr(std::string("model.").size()),
                     tensor.dtype,
                     tensor.shape,
                     {tensor.data, static_cast<size_t>(tensor.size_bytes)}});
  }
  fs::remove(model + "/model.safetensors");
  ASSERT_TRUE(WriteSafetensors(model + "/model.safetensors", inner, {}).ok());
  const BaseShape shape = BaseShapeOf(ReadModelConfig(model).value());
  const auto files = LocalFiles();
  const std::string adapter = kGolden + "/opt/adapters/bias_all";
  const auto expected =
      ReadAdapter(adapter, shape, *files, {.base_tables = OpenBaseTables(kGolden + "/opt/model", shape).value()});
  const auto found = ReadAdapter(adapter, shape, *files, {.base_tables = OpenBaseTables(model, shape).value()});
  ASSERT_TRUE(expected.ok() && found.ok()) << expected.status() << found.status();
  ExpectSameImage(*found, *expected);
}

class ConvertTest : public testing::Test {
 protected:
  std::string Output() const { return work_.path() + "/out"; }
  std::string Written(const std::string& file) const { return BytesOf(Output() + "/" + file); }
  // A folder of TinyBase's with this config in the place of its own.
  std::string Folder(const std::string& config) {
    const std::string dir = WriteAdapter(work_.path() + "/in", {});
    std::ofstream(dir + "/adapter_config.json") << config;
    return dir;
  }
  TempDir work_;
  const std::unique_ptr<FileSource> files_ = LocalFiles();
};

TEST_F(ConvertTest, MakesPeftsConfigOfMoePefts) {
  const std::string dir = Folder(R"({"r": 2, "lora_alpha": 4, "lora_dropout": 0.05, "lora_init": "original",
      "task_name": "x", "use_dora": true,
      "target_modules": {"q_proj": true, "k_proj": false, "v_proj": true}})");
  const auto notes = ConvertAdapter(dir, Output(), *files_);
  ASSERT_TRUE(notes.ok()) << notes.status();
  EXPECT_THAT(*notes, ElementsAre(HasSubstr("use_dora was dropped")));
  const auto config = AdapterConfigJson::parse(Written("adapter_config.json"));
  EXPECT_EQ(config["peft_type"], "LORA");
  EXPECT_EQ(config["target_modules"], AdapterConfigJson({"q_proj", "v_proj"}));
  EXPECT_EQ(config["use_dora"], false);
  EXPECT_FALSE(config.contains("task_name") || config.contains("lora_init"));
  EXPECT_TRUE(ReadAdapter(Output(), TinyBase(), *files_).ok());
}

TEST_F(ConvertTest, LeavesRoutedKindsAsTheyAre) {
  const std::string config =
      R"({"peft_type": "MIXLORA", "routing_strategy": "mixlora", "r": 2, "lora_init": "original"})";
  ASSERT_TRUE(ConvertAdapter(Folder(config), Output(), *files_).ok());
  EXPECT_EQ(AdapterConfigJson::parse(Written("adapter_config.json")), AdapterConfigJson::parse(config));
}

TEST_F(ConvertTest, NeverWritesOverAnything) {
  const std::string dir = Folder(R"({"peft_type": "LORA", "r": 2})");
  EXPECT_EQ(ConvertAdapter(dir, dir, *files_).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ConvertAdapter(dir, work_.path() + "/none/out", *files_).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ConvertAdapter(work_.path() + "/none", Output(), *files_).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(fs::exists(Output()));
}

TEST_F(ConvertTest, TellsOfABrokenFileAndLeavesNothing) {
  const std::string dir = Folder(R"({"peft_type": "LORA", "r": 2})");
  fs::resize_file(dir + "/adapter_model.safetensors", 40);
  EXPECT_EQ(ConvertAdapter(dir, Output(), *files_).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(std::distance(fs::directory_iterator(work_.path()), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace lorad
