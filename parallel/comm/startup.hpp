// The start of a distributed run: every rank says what it is and whether it is ready; either all go on or all end.
#pragma once

#include <new>
#include <optional>

#include "parallel/comm/message.hpp"
#include "parallel/comm/mpi.hpp"

namespace jupiter {

// An error that every rank knows of: the one where the user is reports it, all end with its code, nobody is aborted.
class CollectiveError : public Error {
 public:
  using Error::Error;
};

struct RankStatus {
  std::string version;     // of this program
  std::string model_hash;  // hex
  int format_version = 0;
  std::int32_t protocol = kProtocol;
  std::optional<Error> problem = std::nullopt;  // what keeps this rank from running
};

// Throws CollectiveError on all ranks where one has a problem or two disagree; the message names rank, host and value.
void agree(const MpiSession& mpi, const RankStatus& mine);

// Work that every rank does before all go on: what keeps one of them from it (Error, no memory) ends all of them. A
// status that has a problem already leaves the work out.
template <typename Work>
void together(const MpiSession& mpi, RankStatus& status, const Work& work) {
  try {
    if (!status.problem) work();
  } catch (const Error& e) {
    status.problem = e;
  } catch (const std::bad_alloc&) {
    status.problem = MemoryError("out of memory");
  }
  agree(mpi, status);
}
template <typename Work>
void together(const MpiSession& mpi, const Work& work) {
  RankStatus status;
  together(mpi, status, work);
}

}  // namespace jupiter
