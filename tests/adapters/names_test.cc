#include "adapters/names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "adapters/kinds/kind.h"
#include "model/base/file_source.h"
#include "tests/adapters/adapter_folder.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

namespace fs = std::filesystem;
using absl::StatusCode;

TEST(AdapterNameTest, AcceptsNamesOfHubsPathsAndVersions) {
  for (const char* name : {"a", "7", "sql-lora", "org/name", "org/name.v2", "team:blue_1", "a..b"}) {
    EXPECT_TRUE(CheckAdapterName(name).ok()) << name;
  }
  EXPECT_TRUE(CheckAdapterName(std::string(256, 'x')).ok());
}

TEST(AdapterNameTest, RefusesWhatCouldBeAPathARevisionOrUnreadable) {
  for (const char* name : {"", "-a", ".hidden", "/abs", "a//b", "a/", "a/../b", "a/./b", "..", "a/..", "a b", "a@2",
                           "a\nb", "\xC3\xA9t\xC3\xA9", "a\xFF"}) {
    EXPECT_EQ(CheckAdapterName(name).code(), StatusCode::kInvalidArgument) << name;
  }
  EXPECT_FALSE(CheckAdapterName(std::string(257, 'x')).ok());
  EXPECT_FALSE(CheckAdapterName(std::string_view("a\0b", 3)).ok());
}

class AdapterPathTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(root_ + "/org/one");
    fs::create_directories(outside_.path() + "/secret");
    fs::create_directory_symlink(outside_.path(), root_ + "/leaving");
    fs::create_directory_symlink(root_ + "/org", root_ + "/staying");
    fs::create_directory_symlink(root_ + "/circle", root_ + "/circle");
    std::ofstream(root_ + "/file") << "x";
  }
  TempDir inside_, outside_;
  const std::string root_ = fs::canonical(inside_.path()).string();
};

TEST_F(AdapterPathTest, GivesTheRealFolder) {
  EXPECT_EQ(ResolveAdapterPath(root_ + "/org/one", "").value(), root_ + "/org/one");
  EXPECT_EQ(ResolveAdapterPath(root_ + "/org/../org/one", "").value(), root_ + "/org/one");
  EXPECT_EQ(ResolveAdapterPath("org/one", root_).value(), root_ + "/org/one");
  EXPECT_EQ(ResolveAdapterPath(root_ + "/staying/one", root_).value(), root_ + "/org/one");
}

TEST_F(AdapterPathTest, RefusesWhateverLeavesTheRoot) {
  for (const std::string& path :
       {root_ + "/leaving/secret", outside_.path() + "/secret", root_ + "/../", std::string("../x"),
        std::string("/etc"), std::string("/no/such/folder"), std::string("leaving/secret")}) {
    EXPECT_EQ(ResolveAdapterPath(path, root_).status().code(), StatusCode::kInvalidArgument) << path;
  }
  // A sibling whose name begins like the root's is outside.
  fs::create_directories(root_ + "x/one");
  EXPECT_EQ(ResolveAdapterPath(root_ + "x/one", root_).status().code(), StatusCode::kInvalidArgument);
  fs::remove_all(root_ + "x");
}

TEST_F(AdapterPathTest, ByWordsAloneAPathIsTakenFromTheFirstRootAndLiesUnderOneOfThem) {
  EXPECT_EQ(JoinAdapterPath("/any/where", {}).value(), "/any/where");
  EXPECT_EQ(JoinAdapterPath("here", {}).value(), fs::current_path() / "here");
  EXPECT_EQ(JoinAdapterPath("org/two", {"/real", "/link"}).value(), "/real/org/two");
  EXPECT_EQ(JoinAdapterPath("/link/org/two", {"/real", "/link"}).value(), "/link/org/two");
  EXPECT_EQ(JoinAdapterPath("a/../b", {"/real/"}).value(), "/real/a/../b");  // its links are for who opens it
  for (const char* path : {"/reality/x", "../x", "a/../../x", "/real/../x", "/", "/elsewhere"}) {
    const absl::Status status = JoinAdapterPath(path, {"/real", "/link"}).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << path;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("--adapter-root: /real"));
  }
  for (const std::string_view path : {std::string_view(), std::string_view("a\0b", 3)}) {
    EXPECT_EQ(JoinAdapterPath(path, {}).status().code(), StatusCode::kInvalidArgument);
  }
}

TEST_F(AdapterPathTest, UnderTheFolderOfNamesEveryLinkStaysInItAndElsewhereItsOwnRulesHold) {
  const std::string outside = WriteAdapter(outside_.path() + "/secret", {});
  const auto files = SplitFiles(root_, RootedFiles(root_), LocalFiles());
  const std::string inside = WriteAdapter(root_ + "/org/one", {});
  EXPECT_TRUE(ReadAdapter(inside, TinyBase(), *files).ok());
  EXPECT_TRUE(ReadAdapter(root_ + "/staying/one", TinyBase(), *files).ok());
  EXPECT_EQ(ReadAdapter(root_ + "/leaving/secret", TinyBase(), *files).status().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(ReadAdapter(outside, TinyBase(), *files).ok());
  // A sibling whose name begins like the folder's is elsewhere.
  const std::string sibling = WriteAdapter(root_ + "x/one", {});
  EXPECT_TRUE(ReadAdapter(sibling, TinyBase(), *files).ok());
  fs::remove_all(root_ + "x");
}

TEST_F(AdapterPathTest, AFileOfAFolderInsideMayNotLeadOutside) {
  const auto files = RootedFiles(root_);
  const std::string inside = WriteAdapter(root_ + "/org/one", {});
  EXPECT_TRUE(ReadAdapter(inside, TinyBase(), *files).ok());
  const std::string outside = WriteAdapter(outside_.path() + "/secret", {});
  EXPECT_EQ(ReadAdapter(outside, TinyBase(), *files).status().code(), StatusCode::kInvalidArgument);

  // As a hub's cache: links to files elsewhere under the root.
  fs::create_directories(root_ + "/linked");
  for (const char* name : {"/adapter_config.json", "/adapter_model.safetensors"}) {
    fs::create_symlink(inside + name, root_ + "/linked" + name);
  }
  EXPECT_TRUE(ReadAdapter(root_ + "/linked", TinyBase(), *files).ok());

  for (const char* name : {"/adapter_config.json", "/adapter_model.safetensors"}) {
    fs::remove(root_ + "/linked" + name);
    fs::create_symlink(outside + name, root_ + "/linked" + name);
    const absl::Status status = ReadAdapter(root_ + "/linked", TinyBase(), *files).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(std::string("/linked") + name));
    EXPECT_THAT(std::string(status.message()), testing::Not(testing::HasSubstr(outside)));
    fs::remove(root_ + "/linked" + name);
    fs::create_symlink(inside + name, root_ + "/linked" + name);
  }
  EXPECT_EQ(ReadAdapter(root_ + "/none", TinyBase(), *files).status().code(), StatusCode::kNotFound);
}

TEST_F(AdapterPathTest, SaysWhenThereIsNoSuchFolder) {
  EXPECT_EQ(ResolveAdapterPath("org/two", root_).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(ResolveAdapterPath("circle", root_).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(ResolveAdapterPath("file", root_).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ResolveAdapterPath("", root_).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ResolveAdapterPath(std::string_view("a\0b", 3), root_).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ResolveAdapterPath("org", root_ + "/none").status().code(), StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace lorad
