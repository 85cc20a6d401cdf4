// Files that take their place when they are whole, and whether two names are one file.
#include "io/files.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "io/error.hpp"
#include "test_files.hpp"

namespace jupiter {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(Files, WritingTakesNoOtherFilesName) {
  const test::TemporaryFolder folder;
  const fs::path a = folder.path() / "a";
  test::write_text(a.string() + ".tmp", "the user's");
  write_file_atomically(a, "one");
  check_writable(a);
  check_writable(folder.path() / "b");
  write_file_atomically(a, "two");
  EXPECT_EQ(read_file(a), "two");
  EXPECT_EQ(read_file(a.string() + ".tmp"), "the user's");
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"a", "a.tmp"}));
}

TEST(Files, TwoAtATimeDoNotMeet) {
  const test::TemporaryFolder folder;
  const fs::path a = folder.path() / "a";
  NewFile first(a), second(a);
  EXPECT_NE(first.path(), second.path());
  EXPECT_EQ(first.path().parent_path(), folder.path());
  EXPECT_TRUE(first.path().filename().string().starts_with(".a."));
  first.write("first");
  second.write("sec");
  second.write("ond");
  EXPECT_FALSE(fs::exists(a));
  first.put_in_place();
  second.finish();
  second.put_in_place();
  EXPECT_EQ(read_file(a), "second");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"a"});
}

TEST(Files, WhatIsNotFinishedIsRemoved) {
  const test::TemporaryFolder folder;
  const fs::path a = folder.path() / "a";
  test::write_text(a, "old");
  try {
    NewFile file(a);
    file.write("new");
    NewFile moved(std::move(file));
    throw RunError("in between");
  } catch (const RunError&) {
  }
  EXPECT_EQ(read_file(a), "old");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"a"});
}

TEST(Files, LinksAreFollowedDevicesStay) {
  const test::TemporaryFolder folder;
  const fs::path link = folder.path() / "link", device = folder.path() / "device";
  fs::create_symlink("target", link);
  write_file_atomically(link, "text");
  EXPECT_TRUE(fs::is_symlink(link));
  EXPECT_EQ(read_file(folder.path() / "target"), "text");
  fs::create_symlink("/dev/null", device);
  write_file_atomically(device, "text");
  check_writable(device);
  EXPECT_TRUE(fs::is_symlink(device));
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  EXPECT_THROW(NewFile{device}, RunError);
  EXPECT_THROW(NewFile{folder.path()}, RunError);
  EXPECT_THROW(check_writable(folder.path() / "no" / "such"), RunError);
  EXPECT_THROW(write_file_atomically("/dev/full", "text"), RunError);
}

TEST(Files, NewFilesHaveOrdinaryRights) {
  const test::TemporaryFolder folder;
  const fs::path a = folder.path() / "a";
  const mode_t old = ::umask(022);
  write_file_atomically(a, "x");
  ::umask(old);
  EXPECT_EQ(fs::status(a).permissions(), static_cast<fs::perms>(0644));
}

TEST(Files, LongNamesHaveRoomForTheHiddenOne) {
  const test::TemporaryFolder folder;
  const fs::path a = folder.path() / std::string(255, 'n');
  write_file_atomically(a, "x");
  EXPECT_EQ(read_file(a), "x");
}

TEST(Files, SameFileWhateverTheSpelling) {
  const test::TemporaryFolder folder;
  const fs::path a = folder.path() / "a", b = folder.path() / "b";
  test::write_text(a, "x");
  test::write_text(b, "x");
  fs::create_hard_link(a, folder.path() / "hard");
  fs::create_symlink("a", folder.path() / "soft");
  for (const fs::path& other : {a, folder.path() / "." / "a", folder.path() / "hard", folder.path() / "soft"}) {
    EXPECT_TRUE(same_file(a, other)) << other;
    EXPECT_FALSE(same_file(b, other)) << other;
  }
  fs::create_symlink("new", folder.path() / "to-new");
  EXPECT_TRUE(same_file(folder.path() / "new", folder.path() / "to-new"));
  EXPECT_TRUE(same_file(folder.path() / "new", folder.path() / "." / "new"));
  EXPECT_FALSE(same_file(folder.path() / "new", folder.path() / "newer"));
  EXPECT_FALSE(same_file(folder.path() / "new", a));
  EXPECT_FALSE(same_file("/dev/null", "/dev/null"));
}

}  // namespace
}  // namespace jupiter
