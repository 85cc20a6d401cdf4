// The output head of a pipeline, shared by its stages. A small model's head takes as long as ten of its layers; where
// the last stage alone computed it, the others would wait. The last stage sends the rows that pass the head to the
// stages that help, computes its own tokens meanwhile, and gets from each of them the best logits and a digest
// (output_head.hpp). Whoever helps does so between two of its layers or while it waits, never inside a layer.
#pragma once

#include <vector>

#include "io/model/tensor_slice.hpp"
#include "parallel/comm/channel.hpp"

namespace jupiter {

// The last stage's side.
class SharedHead {
 public:
  struct Helper {
    int rank = 0;
    IndexRange vocabulary;
  };
  SharedHead(const MpiSession& mpi, std::vector<Helper> helpers, std::uint64_t max_message_bytes);

  const std::vector<Helper>& helpers() const { return helpers_; }
  void ask(const Message& message);
  // One answer of each helper, in their order. There is no deadline, because rank 0 may wait for its user.
  std::vector<Message> answers();
  void poll();
  bool idle() const;
  std::uint64_t sent_bytes() const;

 private:
  struct Peer {
    SendChannel out;
    ReceiveChannel in;
  };
  std::vector<Helper> helpers_;
  std::vector<Peer> peers_;
};

// The side of a stage that helps.
class HeadHelper {
 public:
  // last: the rank of the last stage.
  HeadHelper(const MpiSession& mpi, int last, std::uint64_t max_message_bytes);

  // Computes what was asked for since the last call.
  void answer(const std::function<Message(const Message& asked)>& compute);
  void poll();
  bool idle() const { return out_.idle(); }
  std::uint64_t sent_bytes() const { return out_.stats().bytes; }

 private:
  SendChannel out_;
  ReceiveChannel in_;
};

}  // namespace jupiter
