// A plan says which board holds which layers, and into which chunks a prompt is cut. The planner makes it, it is saved
// as JSON, a person may read and edit it, and `run` obeys it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "parallel/plan/stage_memory.hpp"

namespace jupiter {

// Another board that computes a stage together with its leader (a tensor group, io/model/tensor_slice.hpp).
struct BoardPlan {
  std::string host;
  int slot = 0;
  double share = 0;  // of the stage's rows
  std::uint64_t weight_bytes = 0;
  std::uint64_t private_bytes = 0;
};

struct StagePlan {
  std::string host;  // of the leader
  int slot = 0;      // which of that host's ranks
  std::int64_t first_layer = 0;
  std::int64_t last_layer = 0;         // one past the end
  std::uint64_t weight_bytes = 0;      // mapped
  std::uint64_t private_bytes = 0;     // all memory but the weights, for the plan's workload
  double time_share = 0;               // this stage's share of the prompt's computing
  std::vector<BoardPlan> others = {};  // of its tensor group; none: a board alone
  bool repeat_attention_out = false;   // as in TensorSplit
  bool repeat_feed_forward_out = false;

  int boards() const { return static_cast<int>(others.size()) + 1; }
  TensorSplit split() const;  // the leader has what the others leave
};

// A stage that computes some of the last stage's output head (parallel/pipeline/shared_head.hpp).
struct HeadPlan {
  std::string host;  // of the stage's leader
  int slot = 0;
  double share = 0;  // of the vocabulary
};

struct ChunkPlan {
  std::int64_t prompt_tokens = 0;
  std::vector<std::int64_t> lengths;  // sum to prompt_tokens
};

// The board on which a draft model works.
struct DraftPlace {
  std::string model_hash;  // of the draft model
  std::string host;
  int slot = 0;
  std::uint64_t bytes = 0;  // weights, cache and work space
};

struct Plan {
  std::string model_hash;
  std::string objective;
  std::int64_t prompt_tokens = 0;  // the workload it was made for
  std::int64_t new_tokens = 0;
  std::int64_t context_tokens = 0;
  std::optional<Workload> workload;  // for which memory was planned; none in plans of older programs
  double predicted_ttft_s = 0;
  double predicted_decode_tokens_per_s = 0;       // plain decoding
  double hit_rate = 0;                            // of drafts, as the plan expects it
  double predicted_speculative_tokens_per_s = 0;  // with such drafts
  std::vector<StagePlan> stages;                  // in the order of the pipeline
  std::vector<std::string> left_out;              // "host:slot" of the boards that do not take part
  std::vector<ChunkPlan> chunks;                  // by ascending prompt_tokens
  std::optional<DraftPlace> draft;                // on the board of one of the stages
  std::vector<HeadPlan> head_helpers;             // none: the last stage computes the output head alone

  ModelPart part(std::size_t stage) const;  // of all boards of the stage together
  // Of each of its boards, the leader first.
  std::vector<ModelPart> parts(std::size_t stage, const ModelConfig& config) const;
  std::int64_t max_chunk() const;
  std::size_t draft_stage() const;  // the stage beside which the draft model works
  // The stage of a board that leads one; the number of stages where none does.
  std::size_t stage_of(const std::string& host, int slot) const;
  // Shares of the output head: the last stage's, then those of the helpers.
  std::vector<double> head_shares() const;
};

std::string to_json(const Plan& plan);
// FormatError names the field; `file` is for messages.
Plan parse_plan(const std::string& text, const std::string& file);
// FormatError where layers overlap, are missing or out of order, where a chunk is empty, a board is named twice, or a
// tensor group cannot divide the model's matrices in its shares.
void check(const Plan& plan, const ModelConfig& config, const std::string& file);

// Chunk lengths for a prompt of any length: those of the next longer entry, shrunk in proportion.
std::vector<std::int64_t> chunks_for(const Plan& plan, std::int64_t prompt_tokens);
// As few equal chunks as have at most so many tokens each; where they cannot be equal, they differ by one.
std::vector<std::int64_t> even_pieces(std::int64_t prompt_tokens, std::int64_t most);
// Chunks of `length` tokens; the last one has what is left.
std::vector<std::int64_t> fixed_chunks(std::int64_t prompt_tokens, std::int64_t length);

}  // namespace jupiter
