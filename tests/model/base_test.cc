#include <fcntl.h>
#include <sys/stat.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <set>
#include <string>
#include <thread>

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

TEST(FileSourceTest, RootedFilesReadRegularFilesAlone) {
  const TempDir dir;
  ASSERT_EQ(::mkfifo(dir.File("pipe").c_str(), 0600), 0);
  const auto files = RootedFiles(dir.path());
  std::byte byte;
  for (const std::string& path : {dir.File("pipe"), dir.path()}) {
    EXPECT_THAT(files->SizeBytes(path), IsError(absl::StatusCode::kNotFound, HasSubstr("not a regular file")));
    EXPECT_THAT(files->ReadAt(path, 0, 1, &byte),
                IsError(absl::StatusCode::kNotFound, HasSubstr("not a regular file")));
  }
}

// Two paths change places all the time: what is inside the root, and a link that leads outside. A source that checks a
// path and then opens it by name reads the secret some hundred times here.
TEST(FileSourceTest, NeverReadsOutsideItsRootWhileLinksChange) {
  const TempDir root, outside;
  WriteFile(outside.File("file"), "secret");
  std::filesystem::create_directory(root.File("folder"));
  WriteFile(root.File("folder/file"), "inside");
  WriteFile(root.File("file"), "inside");
  std::filesystem::create_directory_symlink(outside.path(), root.File("other_folder"));
  std::filesystem::create_symlink(outside.File("file"), root.File("other_file"));

  std::atomic<bool> done = false;
  std::thread swapper([&] {
    const auto swap = [&](const char* a, const char* b) {
      ::renameat2(AT_FDCWD, root.File(a).c_str(), AT_FDCWD, root.File(b).c_str(), RENAME_EXCHANGE);
    };
    while (!done) {
      swap("folder", "other_folder");
      swap("file", "other_file");
    }
  });
  const auto files = RootedFiles(root.path());
  int read = 0, refused = 0;
  std::set<std::string> found;
  // Each of both must have been seen, so that the places did change.
  for (int i = 0; i < 20'000 || read == 0 || refused == 0; ++i) {
    const absl::StatusOr<std::string> content =
        ReadWholeFile(*files, root.File(i % 2 == 0 ? "folder/file" : "file"), 100);
    content.ok() ? ++read : ++refused;
    if (content.ok()) found.insert(*content);
  }
  done = true;
  swapper.join();
  EXPECT_THAT(found, testing::ElementsAre("inside"));
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
