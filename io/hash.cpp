// XXH3-64 through libxxhash.
#include "io/hash.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <new>

namespace jupiter {

struct Hasher::State {
  XXH3_state_t* xxh = XXH3_createState();
  State() {
    if (xxh == nullptr) throw std::bad_alloc();
    XXH3_64bits_reset(xxh);
  }
  ~State() { XXH3_freeState(xxh); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

Hasher::Hasher() : state_(std::make_unique<State>()) {}
Hasher::~Hasher() = default;
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;
void Hasher::update(const void* data, std::size_t bytes) {
  XXH3_64bits_update(state_->xxh, data, bytes);
}
std::uint64_t Hasher::digest() const {
  return XXH3_64bits_digest(state_->xxh);
}

std::uint64_t hash_bytes(const void* data, std::size_t bytes, std::uint64_t seed) {
  return XXH3_64bits_withSeed(data, bytes, seed);
}
std::string hex(std::uint64_t hash) {
  return fmt::format("{:016x}", hash);
}

}  // namespace jupiter
