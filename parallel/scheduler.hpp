// Requests on the pipeline, on rank 0: any number of sequences at once. A sequence joins and leaves at any step
// (continuous batching, Yu et al., Orca, OSDI 2022); prompts go in by chunks beside rows that decode (Agrawal et al.,
// Sarathi-Serve, OSDI 2024). A stage holds a frame of some sequences while the next one holds others, so as many groups
// are under way as there are stages; more would be narrower, and narrow frames read the weights for fewer rows.
#pragma once

#include <deque>
#include <functional>
#include <list>

#include "parallel/pipeline.hpp"

namespace jupiter {

// Lengths of the frames of a prompt of so many tokens; they sum to it.
using ChunkLengths = std::function<std::vector<std::int64_t>(std::int64_t)>;

struct Generated {
  std::vector<TokenId> tokens;  // an end-of-turn token included
  bool stopped = false;         // by an end token or the caller; otherwise the length ran out
  double ttft_s = 0;            // from add() to the first token
  double total_s = 0;
  std::int64_t prefilled_tokens = 0;  // positions computed, those shared left out
  std::int64_t steps = 0;             // pipeline passes after prefill
  std::uint64_t logits_digest = 0;    // of the rows of all tokens; 0 for a kept sequence
  DraftStats draft;
  SequenceId kept = 0;  // Request::keep: for later requests to share
};

struct Request {
  std::vector<TokenId> prompt;  // not empty, shorter than the context
  SamplingOptions sampling;
  DecodeOptions decode;
  std::vector<TokenId> end_tokens;           // empty: end-of-turn tokens do not end the answer
  std::int64_t max_new_tokens = 0;           // 0: to the end of the turn or of the context
  SequenceId parent = 0;                     // a kept sequence that begins alike, and ...
  std::int64_t shared_tokens = 0;            // ... how many tokens of it; at most what Scheduler::shareable says
  bool keep = false;                         // leave the sequence open when the answer ends
  std::function<bool(TokenId)> on_token;     // each token that is not an end token; false ends the answer
  std::function<void(Generated&&)> on_done;  // may add requests
};

class Scheduler {
 public:
  struct Options {
    std::int64_t context_tokens = 0;  // of one sequence
    std::int64_t cache_tokens = 0;    // of all sequences together
    ChunkLengths chunks;
    std::int64_t most_at_once = 0;  // requests; 0: as many as the cache holds
  };
  Scheduler(Pipeline& pipeline, int stages, Options options);

  // Takes a request; it starts when the cache has room for it. UsageError where it never will.
  void add(Request&& request);
  // Until all requests are done, or a signal came (answers then end where they are). MemoryError where one waits for
  // room that kept sequences take.
  void run();
  // One request alone.
  Generated complete(Request&& request);

  // Sends the beginning that prompts have in common on its way and keeps it for them, at once: every stage computes it
  // before whatever follows. 0 where the cache has no room for it now; prompts then go in whole.
  SequenceId keep_prefix(std::vector<TokenId> prefix);

  std::size_t waiting() const { return waiting_.size(); }
  std::int64_t context_tokens() const { return options_.context_tokens; }
  std::size_t running() const { return active_.size(); }
  // Gives a kept sequence back.
  void release(SequenceId kept);
  // Tokens of a kept sequence that a prompt can share.
  std::int64_t shareable(SequenceId kept, const std::vector<TokenId>& prompt) const;

 private:
  struct Active {
    Request request;
    SequenceId sequence = 0;
    std::int64_t blocks = 0;
    std::chrono::steady_clock::time_point start;
    std::deque<std::int64_t> chunks;  // of the prompt, still to be sent
    std::int64_t sent = 0;            // positions of the prompt, shared ones included
    bool decoding = false;            // the prompt is on its way
    std::optional<TokenId> next;      // plain decoding: to be sent
    std::deque<Segment> segments;     // speculation: to be sent
    Verdict verdict;
    Generated out;
  };
  struct Kept {
    std::vector<TokenId> tokens;  // whose keys and values every stage holds
    std::int64_t blocks = 0;
    Verdict verdict;
  };
  using Place = std::list<Active>::iterator;

  std::int64_t blocks_of(const Request& request) const;
  void admit();
  std::optional<Frame> next_frame();
  std::int64_t add_decodes(Frame& frame);
  void add_prompts(Frame& frame, std::int64_t decoding_rows);
  void add_chunk(Frame& frame, Active& a, std::int64_t rows);
  static void add_segment(Frame& frame, Active& a);
  void take(FrameResult&& result);
  void take(Place a, SequenceResult&& result);
  bool take_token(Active& a, TokenId token);
  void finish(Place a);
  void end_closed(bool wait);
  static bool has_work(const Active& a) { return a.next.has_value() || !a.segments.empty(); }
  std::int64_t end_position(const Request& r) const;

  Pipeline& pipeline_;
  std::int64_t stages_;
  Options options_;
  std::int64_t free_blocks_;
  std::deque<Request> waiting_;
  std::deque<std::chrono::steady_clock::time_point> added_;  // when, by place in waiting_
  std::list<Active> active_;                                 // in order of their turn
  std::list<Active> closing_;
  std::map<SequenceId, Kept> kept_;
  std::deque<bool> decode_frames_;  // frames on their way: whether rows decode in them
  std::int64_t decodes_in_flight_ = 0;
};

}  // namespace jupiter
