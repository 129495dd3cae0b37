#include "model/safetensors.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "model/safetensors_writer.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr absl::StatusCode kDataLoss = absl::StatusCode::kDataLoss;

absl::StatusOr<SafetensorsIndex> ParseBytes(const std::string& content) {
  const TempDir dir;
  const std::string path = dir.File("x.safetensors");
  WriteFile(path, content);
  return ParseSafetensorsHeader(*LocalFiles(), path);
}

absl::StatusOr<SafetensorsIndex> Parse(const std::string& header, const std::string& data) {
  return ParseBytes(RawSafetensors(header, data));
}

std::string Tensor(const std::string& name, const std::string& dtype, const std::string& shape, int begin, int end) {
  return absl::StrCat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape, ",\"data_offsets\":[", begin, ",",
                      end, "]}");
}

std::string Header(const std::string& a, const std::string& b = "") {
  return absl::StrCat("{", a, b.empty() ? "" : ",", b, "}");
}

TEST(SafetensorsTest, ReadsNamesShapesAndPlaces) {
  const std::string header =
      absl::StrCat("{\"__metadata__\":{\"format\":\"pt\"},", Tensor("b", "BF16", "[2,3]", 4, 16), ",",
                   Tensor("a", "F32", "[]", 0, 4), ",", Tensor("empty", "I64", "[0,7]", 16, 16), "}  ");
  const absl::StatusOr<SafetensorsIndex> index = Parse(header, std::string(16, 'x'));
  ASSERT_THAT(index, IsOk());
  ASSERT_EQ(index->tensors.size(), 3u);
  const int64_t data = 8 + static_cast<int64_t>(header.size());
  EXPECT_EQ(index->tensors.at("a").offset_bytes, data);
  EXPECT_THAT(index->tensors.at("a").shape, ElementsAre());
  EXPECT_EQ(index->tensors.at("b").offset_bytes, data + 4);
  EXPECT_EQ(index->tensors.at("b").size_bytes, 12);
  EXPECT_EQ(index->tensors.at("b").dtype, DType::kBF16);
  EXPECT_THAT(index->tensors.at("b").shape, ElementsAre(2, 3));
  EXPECT_EQ(index->tensors.at("empty").size_bytes, 0);
  EXPECT_EQ(index->metadata.at("format"), "pt");
}

TEST(SafetensorsTest, ReadsWhatItWrote) {
  const TempDir dir;
  const std::string path = dir.File("x.safetensors");
  const std::string text = "0123456789ab";
  const auto bytes = absl::MakeConstSpan(reinterpret_cast<const std::byte*>(text.data()), text.size());
  ASSERT_THAT(
      WriteSafetensors(path, {{"one", DType::kF32, {3}, bytes}, {"two", DType::kF16, {2, 3}, bytes}}, {{"k", "v"}}),
      IsOk());
  const auto files = LocalFiles();
  const absl::StatusOr<SafetensorsIndex> index = ParseSafetensorsHeader(*files, path);
  ASSERT_THAT(index, IsOk());
  EXPECT_EQ(index->metadata.at("k"), "v");
  const SafetensorsEntry& two = index->tensors.at("two");
  EXPECT_EQ(index->tensors.at("one").offset_bytes % 64, 0);
  std::string read(12, '\0');
  ASSERT_THAT(files->ReadAt(path, two.offset_bytes, two.size_bytes, reinterpret_cast<std::byte*>(read.data())), IsOk());
  EXPECT_EQ(read, text);
}

TEST(SafetensorsTest, WriterRefusesBytesThatDoNotFitTheShape) {
  const TempDir dir;
  const std::byte bytes[4] = {};
  EXPECT_THAT(WriteSafetensors(dir.File("x"), {{"t", DType::kF32, {2}, bytes}}, {}),
              IsError(absl::StatusCode::kInvalidArgument, HasSubstr("tensor t")));
}

TEST(SafetensorsTest, RefusesFilesThatAreTooShort) {
  EXPECT_THAT(ParseBytes(""), IsError(kDataLoss, HasSubstr("too short")));
  EXPECT_THAT(ParseBytes("1234567"), IsError(kDataLoss, HasSubstr("bytes: 7")));
  const std::string whole = RawSafetensors(Header(Tensor("a", "F32", "[2]", 0, 8)), "12345678");
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_THAT(ParseBytes(whole.substr(0, length)), IsError(kDataLoss, HasSubstr("x.safetensors"))) << length;
  }
}

TEST(SafetensorsTest, RefusesALengthBeyondTheFileOrTheLimit) {
  std::string file = RawSafetensors("{}", "");
  file[7] = '\x7f';
  EXPECT_THAT(ParseBytes(file), IsError(kDataLoss, AllOf(HasSubstr("header bytes: "), HasSubstr("limit: 2"))));
  file[7] = '\xff';
  EXPECT_THAT(ParseBytes(file), IsError(kDataLoss, HasSubstr("header bytes: ")));
}

TEST(SafetensorsTest, RefusesHeadersThatAreNotJsonObjects) {
  for (const char* header : {"", "[]", "null", " {}", "{", "{}}", "{} x", "{\"a\":}", "{\"a\":1}", "{\"a\":null}",
                             "{\"a\":[]}", "{\"a\":{}}", "{\"a\":\"b\"}", "{\"a\":true}", "{\"a\":1e999}"}) {
    EXPECT_THAT(Parse(header, ""), IsError(kDataLoss, HasSubstr("x.safetensors"))) << header;
  }
  EXPECT_THAT(Parse("{}", ""), IsOk());
}

TEST(SafetensorsTest, RefusesInvalidUtf8AndItsMessageIsUtf8) {
  const absl::StatusOr<SafetensorsIndex> index = Parse(Header(Tensor("a\xff", "F32", "[1]", 0, 4)), "1234");
  ASSERT_THAT(index, IsError(kDataLoss, HasSubstr("not valid JSON")));
  for (const char c : index.status().message()) EXPECT_LT(static_cast<unsigned char>(c), 0x80);
}

TEST(SafetensorsTest, RefusesDeepNestingWithoutRecursion) {
  std::string deep(1'000'000, '[');
  EXPECT_THAT(Parse(absl::StrCat("{\"a\":{\"shape\":", deep), ""), IsError(kDataLoss, HasSubstr("tensor a")));
  EXPECT_THAT(Parse("{\"a\":{\"shape\":[[1]],", ""), IsError(kDataLoss, HasSubstr("shape cannot hold an array")));
  EXPECT_THAT(Parse("{\"__metadata__\":{\"k\":{\"x\":\"y\"}}}", ""),
              IsError(kDataLoss, HasSubstr("k cannot hold an object")));
}

TEST(SafetensorsTest, RefusesDuplicates) {
  const std::string a = Tensor("a", "F32", "[1]", 0, 4);
  EXPECT_THAT(Parse(Header(a, a), "1234"),
              IsError(kDataLoss, AllOf(HasSubstr("tensor a"), HasSubstr("duplicate name"))));
  EXPECT_THAT(Parse(Header(a, "\"\\u0061\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}"), "12345678"),
              IsError(kDataLoss, HasSubstr("duplicate name")));
  EXPECT_THAT(Parse("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", "1234"),
              IsError(kDataLoss, HasSubstr("duplicate key: dtype")));
  EXPECT_THAT(Parse("{\"__metadata__\":{},\"__metadata__\":{}}", ""), IsError(kDataLoss, HasSubstr("duplicate name")));
  EXPECT_THAT(Parse("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", ""),
              IsError(kDataLoss, HasSubstr("duplicate key: k")));
}

TEST(SafetensorsTest, RefusesMissingAndUnknownKeys) {
  EXPECT_THAT(Parse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", "1234"),
              IsError(kDataLoss, HasSubstr("missing key: data_offsets")));
  EXPECT_THAT(Parse("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", "1234"),
              IsError(kDataLoss, HasSubstr("missing key: shape")));
  EXPECT_THAT(Parse("{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", "1234"),
              IsError(kDataLoss, HasSubstr("missing key: dtype")));
  EXPECT_THAT(Parse("{\"a\":{\"stride\":[1]}}", "1234"), IsError(kDataLoss, HasSubstr("unknown key: stride")));
}

TEST(SafetensorsTest, RefusesBadDTypes) {
  EXPECT_THAT(Parse(Header(Tensor("a", "F33", "[1]", 0, 4)), "1234"),
              IsError(kDataLoss, HasSubstr("unknown dtype: F33")));
  EXPECT_THAT(Parse(Header(Tensor("a", "F8_E4M3", "[4]", 0, 4)), "1234"),
              IsError(absl::StatusCode::kUnimplemented, AllOf(HasSubstr("tensor a"), HasSubstr("F8_E4M3"))));
}

TEST(SafetensorsTest, RefusesBadShapes) {
  const std::string data(8, 'x');
  for (const char* shape :
       {"[-1]", "[1.5]", "[\"2\"]", "[null]", "2", "{}", "[18446744073709551615]", "[9223372036854775808]",
        "[4294967296,4294967296]", "[0,9223372036854775807,9]", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2]"}) {
    EXPECT_THAT(Parse(Header(Tensor("a", "F32", shape, 0, 8)), data), IsError(kDataLoss, HasSubstr("tensor a")))
        << shape;
  }
  EXPECT_THAT(Parse(Header(Tensor("a", "F32", "[3]", 0, 8)), data),
              IsError(kDataLoss, AllOf(HasSubstr("shape [3] needs bytes: 12"), HasSubstr("data_offsets give: 8"))));
}

TEST(SafetensorsTest, RefusesBadOffsets) {
  const std::string data(8, 'x');
  EXPECT_THAT(Parse(Header(Tensor("a", "F32", "[2]", 4, 12)), data),
              IsError(kDataLoss, HasSubstr("outside the file: 4..12")));
  EXPECT_THAT(Parse(Header(Tensor("a", "F32", "[2]", 8, 0)), data), IsError(kDataLoss, HasSubstr("outside the file")));
  EXPECT_THAT(Parse("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", data),
              IsError(kDataLoss, HasSubstr("data_offsets must be two numbers; found: 1")));
  EXPECT_THAT(Parse("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,9]}}", data),
              IsError(kDataLoss, HasSubstr("too many numbers")));
  EXPECT_THAT(Parse("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,-8]}}", data),
              IsError(kDataLoss, HasSubstr("data_offsets cannot hold the number -8")));
}

TEST(SafetensorsTest, RefusesOverlapsHolesAndTrailingBytes) {
  const std::string data(12, 'x');
  const std::string a = Tensor("a", "F32", "[2]", 0, 8);
  EXPECT_THAT(Parse(Header(a, Tensor("b", "F32", "[2]", 4, 12)), data),
              IsError(kDataLoss, HasSubstr("tensor b: overlaps")));
  EXPECT_THAT(Parse(Header(a, Tensor("b", "F32", "[2]", 0, 8)), data), IsError(kDataLoss, HasSubstr("overlaps")));
  EXPECT_THAT(Parse(Header(Tensor("a", "F32", "[1]", 0, 4), Tensor("b", "F32", "[1]", 8, 12)), data),
              IsError(kDataLoss, AllOf(HasSubstr("tensor b: leaves a hole"), HasSubstr("expected: 4"))));
  EXPECT_THAT(Parse(Header(Tensor("b", "F32", "[2]", 4, 12)), data), IsError(kDataLoss, HasSubstr("leaves a hole")));
  EXPECT_THAT(Parse(Header(a), data), IsError(kDataLoss, HasSubstr("bytes after the last tensor: 4")));
  EXPECT_THAT(Parse("{}", data), IsError(kDataLoss, HasSubstr("bytes after the last tensor: 12")));
}

TEST(SafetensorsTest, LongOrOddNamesAreShownSafely) {
  const absl::StatusOr<SafetensorsIndex> index =
      Parse(Header(Tensor(absl::StrCat("a\\u0000\\n", std::string(5000, 'z')), "F33", "[1]", 0, 4)), "1234");
  ASSERT_THAT(index, IsError(kDataLoss, HasSubstr("a\\x00\\n")));
  EXPECT_LT(index.status().message().size(), 500u);
}

TEST(SafetensorsTest, EveryFlippedByteOfAHeaderIsRefusedOrHarmless) {
  const std::string whole = RawSafetensors(
      Header(Tensor("first", "F32", "[2]", 0, 8), Tensor("second", "F16", "[2,1]", 8, 12)), std::string(12, 'x'));
  for (size_t at = 0; at < whole.size() - 12; ++at) {
    for (const int flip : {0x01, 0x04, 0x20, 0x80}) {
      std::string broken = whole;
      broken[at] = static_cast<char>(broken[at] ^ flip);
      const absl::StatusOr<SafetensorsIndex> index = ParseBytes(broken);
      if (!index.ok()) continue;
      int64_t sum = 0;  // Whatever was read still tiles the data.
      for (const auto& [name, tensor] : index->tensors) sum += tensor.size_bytes;
      EXPECT_EQ(sum, 12) << at << " " << flip;
    }
  }
}

}  // namespace
}  // namespace lorad
