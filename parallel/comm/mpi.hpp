// The MPI session of this process and polite waiting. Only this file's source and channel.cpp see mpi.h.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "io/error.hpp"

namespace jupiter {

// This process's place among the ranks: a value. The session that a process begins with has mpirun's own numbers; a
// plan's placement makes another one of it. MPI ends with the last copy, except while an exception is on its way: a
// peer may wait for what never comes. A process that no launcher started is rank 0 of 1 and never initialises MPI.
class MpiSession {
 public:
  // Once in a process. UsageError under srun without PMI, where every process would believe it is alone.
  MpiSession();
  // One in which this process is rank 0 of 1: what it does alone while others wait.
  MpiSession alone() const;
  // The same processes in another order: world[i] becomes rank i. boards: of each stage, how many compute it together.
  // First come the leaders of the stages, then their other boards, stage by stage. The same on all ranks.
  MpiSession arranged(std::vector<int> world, std::vector<int> boards) const;

  // Ranks as this program numbers them: the leaders of the pipeline's stages first, in its order, then the boards that
  // compute with them (tensor groups), then ranks that only wait.
  int rank() const { return rank_; }
  int size() const { return size_; }
  int stages() const { return static_cast<int>(boards_.size()); }
  bool leads_stage() const { return rank_ < stages(); }  // and speaks with the other stages
  bool holds_layers() const { return stage() < stages(); }
  // This rank's stage; stages() where it holds no layers.
  int stage() const { return stage_of(rank_); }
  // The ranks that compute a stage together, its leader first.
  std::vector<int> group(int stage) const;
  // Which of its stage's boards this rank is; 0 leads.
  int board() const;
  // mpirun's number of a rank. Its rank 0 is where the user is: standard input, files that are read and written.
  int world(int rank) const { return world_.empty() ? rank : world_[static_cast<std::size_t>(rank)]; }
  bool is_launcher() const { return world(rank_) == 0; }
  const std::string& host() const { return host_; }
  // How many ranks run on this host, and which of them this is.
  int ranks_on_host() const { return ranks_on_host_; }
  int rank_on_host() const { return rank_on_host_; }

  // Ends all ranks with this exit code.
  [[noreturn]] void abort(ExitCode code) const;

 private:
  void find_neighbours();
  int stage_of(int rank) const;
  std::shared_ptr<void> library_;  // MPI, initialised; none where no launcher started this process
  int rank_ = 0;
  int size_ = 1;
  std::vector<int> boards_{1};  // by stage: ranks that compute it
  std::vector<int> world_;      // by rank; empty: the same
  int ranks_on_host_ = 1;
  int rank_on_host_ = 0;
  std::string host_;
};

// PeerError that names the call, where MPI returned an error code.
void check_mpi(int code, const char* call);

// The exit code that a signal asks for: ok, interrupted (SIGINT, or SIGUSR1 from jobs/jupiter-run, which mpirun passes
// on) or terminated (SIGTERM, SIGUSR2).
ExitCode interrupted_by();
void install_signal_handlers();

// How long after a signal waits go on: the frame in progress may take that long on a slow board. 5 s until this says
// otherwise.
void set_grace_after_signal(std::chrono::seconds grace);

// Waits until ready() is true: a short spin, then sleeps that back off from 20 us to 1 ms, so that an idle rank leaves
// its core to others. Throws PeerError naming `waiting_for` when `deadline` (zero: none) has passed. After a signal it
// goes on for the grace, so that a run can end in good order (rank 0 ends it), then throws Error(130 or 143).
void wait_politely(const std::function<bool()>& ready, const std::string& waiting_for,
                   std::chrono::seconds deadline = std::chrono::seconds{0});
// Something arrived: the wait begins anew, since more is likely to follow soon. Called by channels.
void note_activity();

}  // namespace jupiter
