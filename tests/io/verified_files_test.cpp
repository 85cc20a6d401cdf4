// Files that were found whole are not read again as long as nothing about them changed.
#include "io/model/verified_files.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <thread>

#include "test_files.hpp"

namespace jupiter {
namespace {

namespace fs = std::filesystem;

void settle() {
  std::this_thread::sleep_for(std::chrono::milliseconds(2050));
}

TEST(VerifiedFiles, RememberAFileUntilItChanges) {
  const test::TemporaryFolder folder;
  const fs::path file = folder.path() / "shard", notes = folder.path() / "notes";
  test::write_text(file, "weights");
  EXPECT_EQ(VerifiedFiles::key(file, "sum"), 0u) << "too new: a change in the same moment would not show";
  settle();
  const std::uint64_t key = VerifiedFiles::key(file, "sum");
  ASSERT_NE(key, 0u);
  EXPECT_FALSE(VerifiedFiles(notes).has(key));
  VerifiedFiles(notes).add(key);
  VerifiedFiles(notes).add(key);
  EXPECT_TRUE(VerifiedFiles(notes).has(key));
  EXPECT_EQ(VerifiedFiles::key(file, "sum"), key);
  EXPECT_NE(VerifiedFiles::key(file, "another sum"), key);

  // Other content of the same size, with the old time of change put back.
  struct stat before {};
  ASSERT_EQ(::stat(file.c_str(), &before), 0);
  test::write_text(file, "WEIGHTS");
  const timespec times[2] = {before.st_atim, before.st_mtim};
  ASSERT_EQ(::utimensat(AT_FDCWD, file.c_str(), times, 0), 0);
  settle();
  const std::uint64_t changed = VerifiedFiles::key(file, "sum");
  ASSERT_NE(changed, 0u);
  EXPECT_FALSE(VerifiedFiles(notes).has(changed));
}

TEST(VerifiedFiles, TrustNoFolderOfOthers) {
  const test::TemporaryFolder folder;
  const fs::path open = folder.path() / "open", real = folder.path() / "real", link = folder.path() / "link";
  fs::create_directory(open);
  ASSERT_EQ(::chmod(open.c_str(), 0777), 0);
  fs::create_directory(real);
  fs::create_symlink(real, link);
  for (const fs::path& place : {open, link}) {
    VerifiedFiles(place).add(7);
    EXPECT_FALSE(VerifiedFiles(place).has(7));
    EXPECT_TRUE(fs::is_empty(place));
  }
  EXPECT_FALSE(VerifiedFiles(folder.path() / "nowhere" / "deep").has(7));
}

}  // namespace
}  // namespace jupiter
