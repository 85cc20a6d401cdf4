// XXH3-64 over a stream of bytes: checksums of datasets, the model's hash, the hash of logits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace jupiter {

class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;
  void update(const void* data, std::size_t bytes);
  std::uint64_t digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::uint64_t hash_bytes(const void* data, std::size_t bytes, std::uint64_t seed = 0);
inline std::uint64_t hash_bytes(std::string_view text) {
  return hash_bytes(text.data(), text.size());
}
// 16 lower-case hex digits.
std::string hex(std::uint64_t hash);

}  // namespace jupiter
