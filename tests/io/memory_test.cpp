// Limits of control groups, read from made-up folders that look like the kernel's.
#include "io/memory.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include "test_files.hpp"

namespace jupiter {
namespace {

namespace fs = std::filesystem;

class Memory : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(testing::TempDir()) / ("memory-" + std::to_string(::getpid()));
    put("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n");
  }
  void TearDown() override { fs::remove_all(root_); }
  void put(const std::string& file, const std::string& text) const {
    fs::create_directories((root_ / file).parent_path());
    test::write_text(root_ / file, text);
  }
  std::uint64_t available() const { return available_memory(root_); }
  fs::path root_;
};

TEST_F(Memory, OfTheHostWhereNoGroupLimitsIt) {
  EXPECT_EQ(available(), 8000u << 10);
  fs::remove_all(root_);
  EXPECT_EQ(available(), 0u);
}

TEST_F(Memory, OfVersion2TheTightestGroupCounts) {
  put("proc/self/cgroup", "0::/boards/b1\n");
  put("proc/self/mountinfo", "30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
  put("sys/fs/cgroup/boards/b1/memory.max", "max\n");
  EXPECT_EQ(available(), 8000u << 10);
  put("sys/fs/cgroup/boards/memory.max", "3000000\n");
  put("sys/fs/cgroup/boards/memory.current", "2500000\n");
  EXPECT_EQ(available(), 500000u);
  put("sys/fs/cgroup/boards/memory.stat", "anon 1\ninactive_file 300000\nactive_file 100000\n");
  EXPECT_EQ(available(), 900000u);
  put("sys/fs/cgroup/boards/b1/memory.max", "700000\n");
  put("sys/fs/cgroup/boards/b1/memory.current", "800000\n");
  EXPECT_EQ(available(), 0u);
}

TEST_F(Memory, ProcessesOfOneMachineOrGroupShareARoom) {
  put("proc/sys/kernel/random/boot_id", "machine-1\n");
  put("proc/self/cgroup", "0::/boards/b1\n");
  put("proc/self/mountinfo", "30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n");
  put("sys/fs/cgroup/boards/memory.max", "3000000\n");
  put("sys/fs/cgroup/boards/b1/memory.max", "700000\n");
  put("sys/fs/cgroup/boards/b2/memory.max", "800000\n");
  const auto first = memory_rooms(root_);
  ASSERT_EQ(first.size(), 3u);
  EXPECT_EQ(first[0].id, "machine-1");
  EXPECT_EQ(first[0].bytes, 8000u << 10);
  put("proc/self/cgroup", "0::/boards/b2\n");
  const auto second = memory_rooms(root_);
  ASSERT_EQ(second.size(), 3u);
  EXPECT_EQ(second[0].id, first[0].id);
  EXPECT_EQ(second[1].id, first[1].id);  // boards
  EXPECT_NE(second[2].id, first[2].id);
  EXPECT_EQ(second[2].bytes, 800000u);
  put("proc/sys/kernel/random/boot_id", "machine-2\n");
  EXPECT_NE(memory_rooms(root_)[1].id, first[1].id);
}

TEST_F(Memory, OfVersion1WhateverPartOfTheTreeIsMounted) {
  put("proc/self/cgroup", "5:cpu:/x\n4:hugetlb,memory:/outer/b1\n0::/\n");
  put("proc/self/mountinfo",
      "30 20 0:26 /outer /cg/memory rw - cgroup cgroup rw,memory\n"
      "31 20 0:27 / /cg/cpu rw - cgroup cgroup rw,cpu\n");
  put("cg/cpu/x/memory.limit_in_bytes", "1\n");
  put("cg/memory/b1/memory.limit_in_bytes", "600000\n");
  put("cg/memory/b1/memory.usage_in_bytes", "100000\n");
  EXPECT_EQ(available(), 500000u);
  put("proc/self/cgroup", "4:hugetlb,memory:/elsewhere\n");
  EXPECT_EQ(available(), 8000u << 10);
  put("cg/memory/memory.limit_in_bytes", "400000\n");
  EXPECT_EQ(available(), 400000u);
}

}  // namespace
}  // namespace jupiter
