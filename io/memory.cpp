// Text files of the kernel: meminfo, mountinfo, and the control groups' limits.
#include "io/memory.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string>

namespace jupiter {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

// The number after `key` in lines "key number ..."; files of the kernel, which have no more than one such line.
std::optional<std::uint64_t> field(const fs::path& file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string name;
    std::uint64_t value = 0;
    if (words >> name >> value && name == key) return value;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> number(const fs::path& file) {
  std::ifstream in(file);
  std::uint64_t value = 0;
  if (in >> value) return value;
  return std::nullopt;  // no such file, or "max"
}

// What differs between the two versions of control groups.
struct Version {
  const char* filesystem;
  const char* limit;
  const char* usage;
  const char* inactive;
  const char* active;
};
constexpr Version kVersions[] = {
    {"cgroup", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file"},
    {"cgroup2", "memory.max", "memory.current", "inactive_file", "active_file"}};

struct Mount {
  fs::path root;   // the group that is mounted
  fs::path place;  // where
};

std::optional<Mount> mount_of(const fs::path& root, const Version& v) {
  std::ifstream in(root / "proc/self/mountinfo");
  const bool one = v.filesystem == std::string("cgroup");
  for (std::string line; std::getline(in, line);) {
    const std::size_t separator = line.find(" - ");
    if (separator == std::string::npos) continue;
    std::istringstream head(line), tail(line.substr(separator + 3));
    std::string id, parent, device, group, place, filesystem, source, options;
    head >> id >> parent >> device >> group >> place;
    tail >> filesystem >> source >> options;
    if (filesystem != v.filesystem) continue;
    if (one && ("," + options + ",").find(",memory,") == std::string::npos) continue;
    return Mount{group, place};
  }
  return std::nullopt;
}

// This process's group: lines "number:controllers:group", of version 2 with no controllers.
std::optional<fs::path> group_of(const fs::path& root, const Version& v) {
  std::ifstream in(root / "proc/self/cgroup");
  const bool one = v.filesystem == std::string("cgroup");
  for (std::string line; std::getline(in, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool wanted = one ? ("," + controllers + ",").find(",memory,") != std::string::npos : controllers.empty();
    if (wanted) return line.substr(second + 1);
  }
  return std::nullopt;
}

std::optional<std::uint64_t> room_in(const fs::path& group, const Version& v) {
  const auto limit = number(group / v.limit);
  if (!limit) return std::nullopt;
  const std::uint64_t usage = number(group / v.usage).value_or(0);
  const std::uint64_t cached =
      field(group / "memory.stat", v.inactive).value_or(0) + field(group / "memory.stat", v.active).value_or(0);
  const std::uint64_t taken = usage - std::min(cached, usage);
  return *limit - std::min(taken, *limit);
}

// Whatever namespace shows it, a group is one folder.
std::string id_of(const fs::path& group, const std::string& machine) {
  struct stat info {};
  if (::stat(group.c_str(), &info) != 0) return machine + ":" + group.string();
  return machine + ":group " + std::to_string(info.st_dev) + ":" + std::to_string(info.st_ino);
}

void add_group_rooms(const fs::path& root, const Version& v, const std::string& machine,
                     std::vector<MemoryRoom>& rooms) {
  const auto mount = mount_of(root, v);
  const auto group = group_of(root, v);
  if (!mount || !group) return;
  fs::path inside = group->lexically_relative(mount->root);
  // A group outside of what is mounted (a container's namespace): its limits show at the mount itself.
  if (inside.empty() || *inside.begin() == "..") inside = ".";
  fs::path at = root / mount->place.relative_path();
  const auto add = [&] {
    if (const auto room = room_in(at, v)) rooms.push_back({id_of(at, machine), *room});
  };
  add();
  for (const fs::path& part : inside) {
    if (part == ".") continue;
    at /= part;
    add();
  }
}

}  // namespace

std::string machine_id(const fs::path& root) {
  std::ifstream in(root / "proc/sys/kernel/random/boot_id");
  std::string id;
  if (in >> id) return id;
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  return host.data();
}

std::vector<MemoryRoom> memory_rooms(const fs::path& root) {
  const std::string machine = machine_id(root);
  std::vector<MemoryRoom> rooms;
  if (const auto kib = field(root / "proc/meminfo", "MemAvailable:")) rooms.push_back({machine, *kib << 10});
  for (const Version& v : kVersions) add_group_rooms(root, v, machine, rooms);
  return rooms;
}

std::uint64_t available_memory(const fs::path& root) {
  std::uint64_t least = kUnlimited;
  for (const MemoryRoom& room : memory_rooms(root)) least = std::min(least, room.bytes);
  return least == kUnlimited ? 0 : least;
}

std::uint64_t resident_memory() {
  std::ifstream in("/proc/self/statm");
  std::uint64_t size = 0, resident = 0;
  if (!(in >> size >> resident)) return 0;
  return resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace jupiter
