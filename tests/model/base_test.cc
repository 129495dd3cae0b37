#include <sys/stat.h>

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/base/file_source.h"
#include "model/base/guarded.h"
#include "model/base/sha256.h"
#include "model/base/status_macros.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(Sha256Test, MatchesTheStandardsExamples) {
  EXPECT_EQ(Sha256().HexDigest(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  Sha256 hash;
  hash.Update("a");
  hash.Update("bc");
  EXPECT_EQ(hash.HexDigest(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(FileSourceTest, ReadsARange) {
  const TempDir dir;
  WriteFile(dir.File("f"), "0123456789");
  const auto files = LocalFiles();
  EXPECT_TRUE(files->Exists(dir.File("f")));
  EXPECT_EQ(files->SizeBytes(dir.File("f")).value(), 10);
  std::string part(4, ' ');
  ASSERT_THAT(files->ReadAt(dir.File("f"), 3, 4, reinterpret_cast<std::byte*>(part.data())), IsOk());
  EXPECT_EQ(part, "3456");
  EXPECT_EQ(ReadWholeFile(*files, dir.File("f"), 10).value(), "0123456789");
}

TEST(FileSourceTest, ErrorsNameThePath) {
  const TempDir dir;
  WriteFile(dir.File("f"), "0123456789");
  const auto files = LocalFiles();
  std::byte buffer[16];
  EXPECT_FALSE(files->Exists(dir.File("none")));
  EXPECT_THAT(files->SizeBytes(dir.File("none")), IsError(absl::StatusCode::kNotFound, HasSubstr("/none")));
  EXPECT_THAT(files->ReadAt(dir.File("f"), 8, 4, buffer),
              IsError(absl::StatusCode::kDataLoss, AllOf(HasSubstr("/f"), HasSubstr("found: 10"))));
  EXPECT_THAT(ReadWholeFile(*files, dir.File("f"), 9),
              IsError(absl::StatusCode::kInvalidArgument, HasSubstr("limit: 9")));
}

TEST(FileSourceTest, DoesNotWaitForAPipesWriter) {
  const TempDir dir;
  ASSERT_EQ(::mkfifo(dir.File("pipe").c_str(), 0600), 0);
  EXPECT_THAT(ReadWholeFile(*LocalFiles(), dir.File("pipe"), 100),
              IsError(absl::StatusCode::kNotFound, HasSubstr("not a regular file")));
}

TEST(GuardedTest, TurnsExceptionsIntoStatuses) {
  EXPECT_THAT(Guarded([]() -> absl::Status { throw StatusException(absl::DataLossError("lost")); }),
              IsError(absl::StatusCode::kDataLoss, "lost"));
  EXPECT_THAT(Guarded([]() -> absl::Status { throw std::bad_alloc(); }),
              IsError(absl::StatusCode::kResourceExhausted, HasSubstr("memory")));
  EXPECT_THAT(Guarded([]() -> absl::StatusOr<int> { throw std::runtime_error("torn"); }),
              IsError(absl::StatusCode::kInternal, "torn"));
}

TEST(StatusMacrosTest, ReturnAndAssign) {
  const auto half = [](int n) -> absl::StatusOr<int> {
    if (n % 2 != 0) return absl::InvalidArgumentError("odd");
    return n / 2;
  };
  const auto quarter = [&](int n) -> absl::StatusOr<int> {
    ASSIGN_OR_RETURN(const int once, half(n));
    RETURN_IF_ERROR(half(once).status());
    return once / 2;
  };
  EXPECT_EQ(quarter(8).value(), 2);
  EXPECT_THAT(quarter(6), IsError(absl::StatusCode::kInvalidArgument, "odd"));
}

}  // namespace
}  // namespace lorad
