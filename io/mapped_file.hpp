// A whole file, mapped read-only: its bytes live in the page cache, not in this process's memory.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace jupiter {

class MappedFile {
 public:
  // Throws FormatError where the file cannot be opened, is not a regular file, or cannot be mapped.
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// Reads and maps this part of a mapping now rather than at its first use, where the kernel can.
void populate_mapped_pages(const std::byte* first, std::size_t count);

// Tells the kernel that this part of a mapping is not needed for now, which keeps the resident set small; reading it
// again is allowed.
void release_mapped_pages(const std::byte* first, std::size_t count);

}  // namespace jupiter
