// Rank 0's scheduler of requests: any number of sequences share the pipeline. A sequence joins and leaves at any step
// (continuous batching, Yu et al., Orca, OSDI 2022), and chunks of prompts go in beside rows that decode (Agrawal et
// al., Sarathi-Serve, OSDI 2024). While one stage has a frame of some sequences, the next stage has one of others. So
// the sequences form as many groups as there are stages; with more groups frames would be narrower, and each reading of
// the weights would serve fewer rows.
//
// A request is admitted by the memory that it holds, not by the longest answer that it may get. When the KV cache runs
// out, what is kept for later prompts goes first; then the youngest request is set back: its blocks are freed, and it
// is computed again from its prompt and the tokens that it has, when there is room (as vLLM recomputes preempted
// requests; Kwon et al., SOSP 2023). The oldest request always goes on, so every request ends, and the bits stay the
// same.
#pragma once

#include <deque>
#include <functional>
#include <limits>
#include <list>
#include <memory>

#include "parallel/pipeline/kv_account.hpp"
#include "parallel/pipeline/pipeline.hpp"
#include "parallel/pipeline/prefix_cache.hpp"
#include "parallel/pipeline/segment_queue.hpp"

namespace jupiter {

// The lengths of the chunks into which a prompt of so many tokens is cut; they sum to that number.
using ChunkLengths = std::function<std::vector<std::int64_t>(std::int64_t)>;

struct Generated {
  std::vector<TokenId> tokens;  // an end-of-turn token included
  bool stopped = false;         // ended by an end token or the caller; otherwise the length ran out
  double ttft_s = 0;            // from add() to the first token
  double total_s = 0;
  std::int64_t prefilled_tokens = 0;  // positions that were computed for the first token; shared ones do not count
  std::int64_t steps = 0;             // pipeline passes after prefill
  std::uint64_t logits_digest = 0;    // XXH3-64 over the logits rows of all tokens
  DraftStats draft;
  std::int64_t set_back = 0;  // how often it lost its place in the KV cache and was computed again
};

constexpr std::int64_t kKeepAll = std::numeric_limits<std::int64_t>::max();

struct Request {
  std::vector<TokenId> prompt;  // not empty, at most as long as the context
  // Tokens of the answer that earlier ranks, which are gone, gave before. The answer goes on behind them, and Generated
  // has them too. Their rows are computed again.
  std::vector<TokenId> given;
  SamplingOptions sampling;
  DecodeOptions decode;
  std::vector<TokenId> end_tokens;  // empty: end-of-turn tokens do not end the answer
  std::int64_t max_new_tokens = 0;  // 0: to the end of the turn or of the context
  std::int64_t keep_tokens = 0;     // first tokens of prompt and answer that later prompts may begin with
  std::vector<LogitBias> logit_bias;
  GrammarSpec grammar;  // that the answer follows; then it needs end tokens
  // Called before on_token where sampling.top_logprobs asks for it: the token's own, then the most likely ones.
  std::function<void(std::span<const TokenLogprob>)> on_logprobs;
  std::function<bool(TokenId)> on_token;     // each token that is not an end token; false ends the answer
  std::function<void(Generated&&)> on_done;  // may add requests
};

class Scheduler {
 public:
  struct Options {
    std::int64_t context_tokens = 0;  // of one sequence
    ChunkLengths chunks;
    std::int64_t most_at_once = 0;  // most requests at a time; 0: as many as the cache holds
  };
  // stages: their number in the pipeline.
  Scheduler(Pipeline& pipeline, int stages, Options options);

  // Takes a request, which starts when the cache has room for it, and returns its number. UsageError where it never
  // will, because its prompt, with the tokens that were given, is longer than the context or than the whole cache.
  std::int64_t add(Request&& request);
  // Ends the answer to a request where it is. on_done comes once all ranks know. Nothing happens where it has ended.
  void cancel(std::int64_t number);
  void cancel_all();
  // Runs until all requests are done. After a signal answers end where they are. An answer that reaches the end of the
  // context, or of a cache that is smaller, ends there. between_steps is called at least once a step; it may add
  // requests and cancel some.
  void run(const std::function<void()>& between_steps = {});
  // Answers one request alone.
  Generated complete(Request&& request);

  // Sends the beginning that prompts have in common on its way at once. Every stage computes it before whatever
  // follows, and keeps it. Nothing happens where the cache has no room for it now; then each prompt is computed whole.
  void compute_prefix(std::vector<TokenId> prefix);

  std::size_t waiting() const { return waiting_.size(); }
  std::size_t running() const { return active_.size(); }
  std::int64_t context_tokens() const { return options_.context_tokens; }
  const PrefixCache& kept() const { return kept_; }

 private:
  // A request from add() to its last token.
  struct Job {
    std::int64_t number = 0;  // in order of add(): the highest is the youngest
    Request request;
    std::int64_t end_position = 0;  // tokens at this position and later are not computed
    std::chrono::steady_clock::time_point start;
    Generated out;
  };
  using JobPtr = std::shared_ptr<Job>;
  struct Active {
    JobPtr job;
    SequenceId sequence = 0;
    std::vector<TokenId> prompt;      // with the tokens that the answer had when it was set back
    std::deque<std::int64_t> chunks;  // of the prompt, still to be sent
    std::int64_t sent = 0;            // positions of the prompt, shared ones included
    bool decoding = false;            // the prompt is on its way
    std::optional<TokenId> next;      // plain decoding: to be sent
    SegmentQueue segments;            // speculation: to be sent
    // Rows of tokens that the answer had already start here; they count in its digest again.
    std::int64_t first_digest_row() const { return std::ssize(job->request.prompt) - 1; }
  };
  // A sequence whose end the last rank has not answered yet.
  struct Closing {
    SequenceId sequence = 0;
    JobPtr job;         // none: nobody waits for what it leaves
    bool done = false;  // the request is done; otherwise it was set back
  };
  using Place = std::list<Active>::iterator;

  static bool is_plain(const Request& r) { return r.decode.mode == DecodeMode::plain; }
  static bool has_work(const Active& a) { return a.next.has_value() || !a.segments.empty(); }
  std::int64_t tree_blocks(const Request& r) const;
  std::int64_t longest_sequence(const Request& r) const;

  // Room (scheduler_room.cpp).
  void admit();
  void start(const JobPtr& job, const PrefixCache::Match& match);
  static std::int64_t positions_soon(const Job& job);
  std::int64_t blocks_to_start(const Job& job, const PrefixCache::Match& match) const;
  std::int64_t blocks_to_come() const;
  bool make_room(std::int64_t blocks, SequenceId spared);
  std::int64_t blocks_of_next_rows(const Active& a) const;
  void secure_next_rows();
  bool drop_kept(SequenceId spared);
  void set_back(Place a);

  // Frames (scheduler_frames.cpp).
  std::optional<Frame> next_frame();
  std::int64_t add_decodes(Frame& frame);
  void add_prompts(Frame& frame, std::int64_t decoding_rows);
  void add_chunk(Frame& frame, Active& a, std::int64_t rows);
  void add_segment(Frame& frame, Active& a);
  void set_chunks(Active& a) const;

  bool submit_next();
  void take(FrameResult&& result);
  void take(Place a, SequenceResult&& result);
  bool take_token(Job& job, TokenId token, std::span<const TokenLogprob> logprobs);
  void finish(Place a);
  void close(SequenceId sequence, const SequenceClose& how, JobPtr job, bool done);
  void end_closed(bool wait);
  void check_progress() const;

  Pipeline& pipeline_;
  std::int64_t stages_;
  Options options_;
  KvAccount account_;
  PrefixCache kept_;
  std::int64_t next_number_ = 0;
  std::deque<JobPtr> waiting_;  // oldest first
  bool no_room_ = false;        // for the first that waits, until a sequence ends
  std::list<Active> active_;    // in order of their turn
  std::deque<Closing> closing_;
  std::deque<bool> decode_frames_;  // frames on their way: whether rows decode in them
  std::int64_t decodes_in_flight_ = 0;
  RingInvariants invariants_;
};

}  // namespace jupiter
