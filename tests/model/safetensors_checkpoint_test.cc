#include "model/safetensors_checkpoint.h"

#include <cstring>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/safetensors_writer.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

using testing::AllOf;
using testing::HasSubstr;

void WriteTensor(const std::string& path, const std::string& name, float value) {
  const auto bytes = absl::MakeConstSpan(reinterpret_cast<const std::byte*>(&value), sizeof(value));
  ASSERT_THAT(WriteSafetensors(path, {{name, DType::kF32, {1}, bytes}}, {}), IsOk());
}

float ValueOf(const StoredTensor& tensor) {
  float value = 0;
  std::memcpy(&value, tensor.data, sizeof(value));
  return value;
}

class CheckpointTest : public testing::Test {
 protected:
  void WriteIndex(const std::string& weight_map) {
    WriteFile(dir_.File("model.safetensors.index.json"), "{\"metadata\":{},\"weight_map\":" + weight_map + "}");
  }
  const TempDir dir_;
};

TEST_F(CheckpointTest, MapsTheShardsOfAnIndex) {
  WriteTensor(dir_.File("one.safetensors"), "a", 1.5f);
  WriteTensor(dir_.File("two.safetensors"), "b", 2.5f);
  WriteIndex(R"({"a":"one.safetensors","b":"two.safetensors"})");
  const absl::StatusOr<Checkpoint> checkpoint = OpenCheckpoint(dir_.path());
  ASSERT_THAT(checkpoint, IsOk());
  EXPECT_EQ(ValueOf(checkpoint->at("a")), 1.5f);
  EXPECT_EQ(ValueOf(checkpoint->at("b")), 2.5f);
}

TEST_F(CheckpointTest, ATensorKeepsItsFileMapped) {
  StoredTensor tensor;
  {
    WriteTensor(dir_.File("model.safetensors"), "a", 3.5f);
    const absl::StatusOr<Checkpoint> checkpoint = OpenCheckpoint(dir_.path());
    ASSERT_THAT(checkpoint, IsOk());
    tensor = checkpoint->at("a");
  }
  tensor.file->Drop(tensor.data, tensor.size_bytes);
  EXPECT_EQ(ValueOf(tensor), 3.5f);
}

TEST_F(CheckpointTest, NamesAMissingShard) {
  WriteTensor(dir_.File("one.safetensors"), "a", 1.0f);
  WriteIndex(R"({"a":"one.safetensors","b":"two.safetensors"})");
  EXPECT_THAT(OpenCheckpoint(dir_.path()), IsError(absl::StatusCode::kDataLoss, HasSubstr("two.safetensors")));
}

TEST_F(CheckpointTest, NamesATensorThatItsShardLacks) {
  WriteTensor(dir_.File("one.safetensors"), "a", 1.0f);
  WriteIndex(R"({"a":"one.safetensors","b":"one.safetensors"})");
  EXPECT_THAT(OpenCheckpoint(dir_.path()),
              IsError(absl::StatusCode::kDataLoss, AllOf(HasSubstr("tensor b"), HasSubstr("one.safetensors"))));
}

TEST_F(CheckpointTest, RefusesATensorOfTwoShards) {
  WriteTensor(dir_.File("one.safetensors"), "a", 1.0f);
  const float values[2] = {1, 2};
  const auto bytes = absl::MakeConstSpan(reinterpret_cast<const std::byte*>(values), sizeof(float));
  ASSERT_THAT(WriteSafetensors(dir_.File("two.safetensors"),
                               {{"a", DType::kF32, {1}, bytes}, {"b", DType::kF32, {1}, bytes}}, {}),
              IsOk());
  WriteIndex(R"({"a":"one.safetensors","b":"two.safetensors"})");
  EXPECT_THAT(OpenCheckpoint(dir_.path()),
              IsError(absl::StatusCode::kDataLoss, HasSubstr("two.safetensors: tensor a: in this shard")));
}

TEST_F(CheckpointTest, RefusesShardsOutsideTheFolder) {
  for (const char* map : {R"({"a":"../x.safetensors"})", R"({"a":"/etc/passwd"})", R"({"a":""})", R"({"a":".."})",
                          R"({"a":3})", R"({"a":"x\u0000y"})", "[]", "3"}) {
    WriteIndex(map);
    EXPECT_THAT(OpenCheckpoint(dir_.path()), IsError(absl::StatusCode::kDataLoss, HasSubstr("index.json"))) << map;
  }
}

TEST_F(CheckpointTest, RefusesFoldersWithoutSafetensors) {
  EXPECT_THAT(OpenCheckpoint(dir_.path()), IsError(absl::StatusCode::kDataLoss, HasSubstr("model.safetensors")));
  WriteFile(dir_.File("pytorch_model.bin"), "x");
  EXPECT_THAT(OpenCheckpoint(dir_.path()), IsError(absl::StatusCode::kUnimplemented, HasSubstr("pytorch_model.bin")));
}

TEST_F(CheckpointTest, RefusesAnEmptyFile) {
  WriteFile(dir_.File("model.safetensors"), "");
  EXPECT_THAT(OpenCheckpoint(dir_.path()), IsError(absl::StatusCode::kDataLoss, HasSubstr("model.safetensors")));
}

}  // namespace
}  // namespace lorad
