// What the golden folders cannot show: zip64, gaps, and what a lie may cost. tests/golden/refused has the lies.
#include "model/torch_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/base/file_source.h"
#include "model/pickled_tensors.h"
#include "model/torch_file_writer.h"
#include "model/zip_directory.h"
#include "tests/support/memory_files.h"

namespace lorad {
namespace {

using ::testing::HasSubstr;

std::string Little(uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
  return out;
}

// An archive whose every size and offset is in its zip64 fields.
std::string Zip64(const std::map<std::string, std::string>& files, uint64_t lie_entries = 0) {
  std::string data, directory;
  for (const auto& [name, content] : files) {
    const std::string extra =
        Little(1, 2) + Little(24, 2) + Little(content.size(), 8) + Little(content.size(), 8) + Little(data.size(), 8);
    const std::string both = Little(0xFFFFFFFF, 4) + Little(0xFFFFFFFF, 4) + Little(name.size(), 2);
    directory += Little(0x02014b50, 4) + std::string(16, '\0') + both + Little(extra.size(), 2) + Little(0, 2) +
                 Little(0, 2) + std::string(6, '\0') + Little(0xFFFFFFFF, 4) + name + extra;
    data += Little(0x04034b50, 4) + std::string(14, '\0') + both + Little(extra.size(), 2) + name + extra + content;
  }
  const uint64_t entries = lie_entries != 0 ? lie_entries : files.size();
  const std::string end64 = Little(0x06064b50, 4) + Little(44, 8) + Little(45, 2) + Little(45, 2) + Little(0, 4) +
                            Little(0, 4) + Little(entries, 8) + Little(entries, 8) + Little(directory.size(), 8) +
                            Little(data.size(), 8);
  const std::string locator =
      Little(0x07064b50, 4) + Little(0, 4) + Little(data.size() + directory.size(), 8) + Little(1, 4);
  const std::string end = Little(0x06054b50, 4) + Little(0, 4) + Little(0xFFFF, 2) + Little(0xFFFF, 2) +
                          Little(0xFFFFFFFF, 4) + Little(0xFFFFFFFF, 4) + Little(0, 2);
  return data + directory + end64 + locator + end;
}

// {"a": a view of storage "0" of 12 floats: offset 1, shape [2, 3], strides [1, 4]}
std::string Pickle() {
  const auto text = [](const std::string& s) { return absl::StrCat("X", Little(s.size(), 4), s); };
  return std::string("\x80\x02}") + text("a") + "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") +
         "ctorch\nFloatStorage\n" + text("0") + text("cpu") + "K\x0ctQK\x01K\x02K\x03\x86K\x01K\x04\x86\x89NtRs.";
}

std::string Floats(int count) {
  std::string bytes(count * sizeof(float), '\0');
  for (int i = 0; i < count; ++i) {
    const auto value = static_cast<float>(i);
    std::memcpy(bytes.data() + i * sizeof(float), &value, sizeof(float));
  }
  return bytes;
}

TEST(TorchFileTest, AZip64ArchiveWithAViewIsRead) {
  MemoryFiles file({{"f", Zip64({{"any/data.pkl", Pickle()}, {"any/data/0", Floats(12)}})}});
  const absl::StatusOr<SafetensorsIndex> index = ParseTorchFile(file, "f");
  ASSERT_TRUE(index.ok()) << index.status();
  const SafetensorsEntry& entry = index->tensors.at("a");
  EXPECT_EQ(entry.size_bytes, 24);
  float values[6];
  ASSERT_TRUE(ReadTensor(file, "f", entry, reinterpret_cast<std::byte*>(values)).ok());
  EXPECT_THAT(values, ::testing::ElementsAre(1, 5, 9, 2, 6, 10));
}

TEST(TorchFileTest, WhatIsWrittenIsReadAgain) {
  const std::string path = testing::TempDir() + "torch_file_test.bin";
  const std::string floats = Floats(6), halves(4, '\1');
  const auto bytes = [](const std::string& s) {
    return absl::MakeConstSpan(reinterpret_cast<const std::byte*>(s.data()), s.size());
  };
  const std::vector<TensorToWrite> tensors = {{"a.weight", DType::kF32, {2, 3}, bytes(floats)},
                                              {"b", DType::kBF16, {2}, bytes(halves)}};
  ASSERT_TRUE(WriteTorchFile(path, tensors).ok());
  const auto files = LocalFiles();
  const absl::StatusOr<SafetensorsIndex> index = ParseTorchFile(*files, path);
  ASSERT_TRUE(index.ok()) << index.status();
  ASSERT_EQ(index->tensors.size(), 2);
  for (const TensorToWrite& tensor : tensors) {
    const SafetensorsEntry& entry = index->tensors.at(tensor.name);
    EXPECT_EQ(entry.dtype, tensor.dtype);
    EXPECT_EQ(entry.shape, tensor.shape);
    std::vector<std::byte> read(tensor.bytes.size());
    ASSERT_TRUE(ReadTensor(*files, path, entry, read.data()).ok());
    EXPECT_TRUE(std::equal(read.begin(), read.end(), tensor.bytes.begin()));
  }
}

TEST(TorchFileTest, WhatContradictsItselfIsNotWritten) {
  const std::string path = testing::TempDir() + "torch_file_test.bin";
  const std::byte four[4] = {};
  EXPECT_EQ(WriteTorchFile(path, {{{"a", DType::kF32, {2}, four}}}).code(), absl::StatusCode::kInvalidArgument);
  const std::vector<TensorToWrite> twice(2, {"a", DType::kF32, {1}, four});
  EXPECT_EQ(WriteTorchFile(path, twice).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(WriteTorchFile(path, {{{"a", DType::kI64, {0}, {}}}}).code(), absl::StatusCode::kInvalidArgument);
}

TEST(TorchFileTest, ADirectoryThatLiesOfItsLengthIsRefusedBeforeItIsRead) {
  MemoryFiles file({{"f", Zip64({{"any/data.pkl", Pickle()}}, uint64_t{1} << 60)}});
  EXPECT_THAT(ReadZipDirectory(file, "f").status().message(), HasSubstr("more files than their directory can hold"));
}

TEST(TorchFileTest, AViewSpreadOverManyTimesItsSizeIsRefused) {
  MemoryFiles file({{"f", Floats(1000)}});
  std::byte out[8];
  const SafetensorsEntry entry{.shape = {2}, .strides = {999}, .size_bytes = 8};
  const absl::Status status = ReadTensor(file, "f", entry, out);
  EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
}

TEST(TorchFileTest, APickleThatNestsAsDeepAsItIsLongIsNoDanger) {
  std::string deep = "\x80\x02";
  for (int i = 0; i < 400'000; ++i) deep += ")";
  for (int i = 0; i < 100'000; ++i) deep += "\x85";
  EXPECT_THAT(ReadPickledTensors(deep + ".", "f").status().message(), HasSubstr("no dictionary"));
  EXPECT_THAT(ReadPickledTensors(deep + deep + ".", "f").status().message(), HasSubstr("more values than the limit"));
}

}  // namespace
}  // namespace lorad
