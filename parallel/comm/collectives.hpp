// Exchanges of typed values between all ranks, for start-up, reports and measurements. Every rank calls the same
// functions in the same order. Waiting is polite, and what is received is checked before it is used (PeerError). When
// `deadline` has passed a PeerError is thrown; a deadline of zero means none. A value is plain data, a text, a list or
// an optional of these, or a struct that names its fields:
//
//   struct Report {
//     int rank = 0;
//     std::string host;
//     template <typename Self, typename Visit>
//     static void fields(Self& self, Visit&& visit) { visit(self.rank, self.host); }
//   };
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "parallel/comm/message.hpp"
#include "parallel/comm/mpi.hpp"

namespace jupiter {

using Bytes = std::vector<std::byte>;
constexpr std::chrono::seconds kNoDeadline{0};

// Every rank gives bytes of any length. Returns all of them, by rank, on rank 0, and nothing elsewhere.
std::vector<Bytes> gather_bytes(const MpiSession& mpi, Bytes mine);
// Rank `root`'s bytes become those of every rank.
void broadcast_bytes(const MpiSession& mpi, int root, Bytes& bytes, std::chrono::seconds deadline = kNoDeadline);
// Every rank's values become the sum over all ranks, which has the same bits on every rank.
void sum_over_ranks(const MpiSession& mpi, std::vector<float>& values, std::chrono::seconds deadline);

namespace fields {

template <typename T>
concept Struct = requires(T& t) {
  T::fields(t, [](auto&...) {});
};
template <typename T>
struct IsVector : std::false_type {};
template <typename T>
struct IsVector<std::vector<T>> : std::true_type {};
// A list whose elements travel as they lie in memory.
template <typename T>
concept PlainList =
    IsVector<T>::value && std::is_trivially_copyable_v<typename T::value_type> && !Struct<typename T::value_type> &&
    !std::is_same_v<typename T::value_type, bool>;
template <typename T>
struct IsOptional : std::false_type {};
template <typename T>
struct IsOptional<std::optional<T>> : std::true_type {};

template <typename T>
void write(PayloadWriter& w, const T& value) {
  if constexpr (Struct<T>) {
    T::fields(value, [&](const auto&... field) { (write(w, field), ...); });
  } else if constexpr (std::is_same_v<T, std::string>) {
    w.text(value);
  } else if constexpr (PlainList<T>) {
    w.array(std::span<const typename T::value_type>(value));
  } else if constexpr (IsVector<T>::value) {
    w.value(static_cast<std::uint32_t>(value.size()));
    for (const auto& element : value) write(w, element);
  } else if constexpr (IsOptional<T>::value) {
    w.value(std::uint8_t{value.has_value()});
    if (value) write(w, *value);
  } else {
    w.value(value);
  }
}

template <typename T>
void read(PayloadReader& r, T& value) {
  if constexpr (Struct<T>) {
    T::fields(value, [&](auto&... field) { (read(r, field), ...); });
  } else if constexpr (std::is_same_v<T, std::string>) {
    value = r.text(r.left());
  } else if constexpr (PlainList<T>) {
    value = r.array<typename T::value_type>(r.left() / sizeof(typename T::value_type));
  } else if constexpr (IsVector<T>::value) {
    // Nothing is taken for elements that are not there: each is read before the next one has a place.
    value.clear();
    for (auto n = r.value<std::uint32_t>(); n > 0; --n) read(r, value.emplace_back());
  } else if constexpr (IsOptional<T>::value) {
    value.reset();
    if (r.value<std::uint8_t>() != 0) read(r, value.emplace());
  } else {
    value = r.value<T>();
  }
}

template <typename T>
Bytes to_bytes(const T& value) {
  Bytes bytes;
  PayloadWriter w(bytes);
  write(w, value);
  return bytes;
}

template <typename T>
T from_bytes(const Bytes& bytes) {
  PayloadReader r(bytes);
  T value{};
  read(r, value);
  r.end();
  return value;
}

}  // namespace fields

// Returns every rank's value, by rank, on rank 0, and nothing elsewhere.
template <typename T>
std::vector<T> gather(const MpiSession& mpi, const T& mine) {
  std::vector<T> all;
  for (const Bytes& bytes : gather_bytes(mpi, fields::to_bytes(mine))) all.push_back(fields::from_bytes<T>(bytes));
  return all;
}

// Returns rank `root`'s value on every rank.
template <typename T>
T broadcast(const MpiSession& mpi, const T& value, int root = 0, std::chrono::seconds deadline = kNoDeadline) {
  Bytes bytes = mpi.rank() == root ? fields::to_bytes(value) : Bytes{};
  broadcast_bytes(mpi, root, bytes, deadline);
  return fields::from_bytes<T>(bytes);
}

// Returns every rank's value, by rank, on every rank.
template <typename T>
std::vector<T> all_gather(const MpiSession& mpi, const T& mine) {
  return broadcast(mpi, gather(mpi, mine));
}

// Waits until every rank has called it.
void barrier(const MpiSession& mpi);

}  // namespace jupiter
