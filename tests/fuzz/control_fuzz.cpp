// Messages between ranks about the life of a sequence, and the options in them, which the last rank then draws tokens
// with.
#include "fuzz_target.hpp"
#include "kernels/kernel_table.hpp"
#include "parallel/pipeline/control.hpp"

namespace jupiter::fuzz {
namespace {

// What a stage does with the options of a sequence: draw a token from its logits.
void draw(const SequenceOptions& options) {
  static const std::vector<float> logits = [] {
    std::vector<float> values(64);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i * 37 % 64) / 8;
    return values;
  }();
  const std::vector<std::int32_t> history = {1, 2, 3, 2};
  const std::vector<float> all = biased(logits, options.logit_bias);
  accepted([&] {
    const std::int32_t token = sample(kernels(), all, options.sampling, history, 4);
    expect(token >= 0 && token < std::ssize(all), "a token outside the vocabulary is drawn");
    if (options.sampling.top_logprobs >= 0) top_logprobs(kernels(), all, token, options.sampling.top_logprobs);
  });
}

void check_open(const Message& m) {
  const Opened opened = decode_open(m);
  draw(opened.options);
  const Message again = encode_open(m.id, opened);
  expect(encode_open(m.id, decode_open(again)).payload == again.payload, "options do not come back");
}

const Target target("control", [](Input input) {
  Pieces pieces(input);
  const std::size_t kind = pieces.byte() % 4;
  const Input payload = pieces.rest();
  const Message m{MessageKind::open, 7, {payload.begin(), payload.end()}};
  accepted([&] {
    switch (kind) {
      case 0:
        return check_open(m);
      case 1:
        return (void)decode_close(m);
      case 2:
        return (void)decode_closed(m);
      default:
        return (void)decode_stop(m);
    }
  });
});

}  // namespace
}  // namespace jupiter::fuzz
