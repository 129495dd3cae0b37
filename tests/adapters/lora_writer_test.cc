// What was read is written and read again; what is converted reads as it did before.
#include "adapters/kinds/lora_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "adapters/checkpoint_tables.h"
#include "adapters/convert.h"
#include "adapters/kinds/kind.h"
#include "model/config.h"
#include "model/safetensors.h"
#include "tests/adapters/adapter_folder.h"
#include "tests/support/source_dir.h"

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

void ExpectSameImage(const AdapterImage& found, const AdapterImage& wanted) {
  EXPECT_EQ(found.digest, wanted.digest);
  EXPECT_EQ(found.kind, wanted.kind);
  ASSERT_EQ(found.slots.size(), wanted.slots.size());
  for (size_t i = 0; i < wanted.slots.size(); ++i) {
    const ImageSlot& a = found.slots[i];
    const ImageSlot& b = wanted.slots[i];
    EXPECT_EQ(a.site, b.site);
    EXPECT_EQ(a.layer, b.layer);
    EXPECT_EQ(a.rank, b.rank);
    EXPECT_EQ(a.scale, b.scale);
    ExpectSameTensor(a.a, b.a, "A");
    ExpectSameTensor(a.b, b.b, "B");
    ExpectSameTensor(a.magnitude, b.magnitude, "magnitude");
    ExpectSameTensor(a.delta_bias, b.delta_bias, "bias of B");
    ExpectSameTensor(a.bias, b.bias, "bias");
    EXPECT_EQ(a.dora, b.dora);
    EXPECT_EQ(a.bias_change, b.bias_change);
  }
}

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
    if (absl::Status status = WriteLora(image, shape_, **folder); !status.ok()) return status;
    EXPECT_TRUE((*folder)->Publish().ok());
    return work_.path() + "/" + name;
  }
  std::vector<fs::path> Folders() const {
    std::vector<fs::path> folders;
    for (const auto& entry : fs::directory_iterator(kGolden + "/" + GetParam() + "/adapters")) folders.push_back(entry);
    return folders;
  }

  const std::string model_;
  const BaseShape shape_;
  const BaseTables tables_;
  const std::unique_ptr<FileSource> files_ = LocalFiles();
  TemporaryFolder work_;
};

TEST_P(WrittenTest, IsReadAgainTensorByTensorAndWrittenAgainByteByByte) {
  int written = 0;
  for (const fs::path& folder : Folders()) {
    const std::string name = folder.filename().string();
    SCOPED_TRACE(name);
    const AdapterImage image = Read(folder.string());
    const auto once = Write(image, name + "-1");
    const bool replaces = std::any_of(image.slots.begin(), image.slots.end(), [&](const ImageSlot& slot) {
      return slot.rows.present() || !shape_.Find(slot.site)->parameter.empty();
    });
    EXPECT_EQ(once.status().code(), replaces ? absl::StatusCode::kUnimplemented : absl::StatusCode::kOk);
    if (!once.ok()) continue;
    ++written;
    const AdapterImage again = Read(*once);
    ExpectSameImage(again, image);
    const auto twice = Write(again, name + "-2");
    ASSERT_TRUE(twice.ok());
    for (const char* file : {"/adapter_config.json", "/adapter_model.safetensors"}) {
      EXPECT_EQ(BytesOf(*once + file), BytesOf(*twice + file)) << file;
    }
  }
  EXPECT_GT(written, 0);
}

TEST_P(WrittenTest, IsConvertedToTheSameAdapterInSafetensors) {
  for (const fs::path& folder : Folders()) {
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

INSTANTIATE_TEST_SUITE_P(Bases, WrittenTest, testing::ValuesIn(Bases()), [](const auto& info) { return info.param; });

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
  TemporaryFolder work_;
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
