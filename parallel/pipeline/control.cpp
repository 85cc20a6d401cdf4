#include "parallel/pipeline/control.hpp"

#include <cmath>

#include "io/error.hpp"

namespace jupiter {

namespace {

constexpr std::size_t kMaxEndTokens = 1024;
constexpr std::size_t kMaxBiases = 1024;

template <typename T>
Message message_of(MessageKind kind, std::uint64_t id, const T& body) {
  Message m{kind, id, {}};
  PayloadWriter(m.payload).value(body);
  return m;
}

template <typename T>
T body_of(const Message& message) {
  PayloadReader r(message.payload);
  const auto body = r.value<T>();
  r.end();
  return body;
}

// What the last rank draws tokens with. A NaN would pass every comparison of the sampler.
void check_sampling(const SamplingOptions& s) {
  const auto check = [](const char* what, double value, double low, double high) {
    if (value >= low && value <= high) return;
    throw PeerError("options of a sequence: " + std::string(what) + ": expected " + std::to_string(low) + " to " +
                    std::to_string(high) + ", found " + std::to_string(value));
  };
  check("temperature", static_cast<double>(s.temperature), 0, 100);
  check("top_k", s.top_k, 0, INT32_MAX);
  check("top_p", static_cast<double>(s.top_p), 0, 1);
  check("min_p", static_cast<double>(s.min_p), 0, 1);
  check("repeat_penalty", static_cast<double>(s.repeat_penalty), 0.0099, 100);
  check("repeat_last", s.repeat_last, 0, INT32_MAX);
  check("presence_penalty", static_cast<double>(s.presence_penalty), -2, 2);
  check("frequency_penalty", static_cast<double>(s.frequency_penalty), -2, 2);
  check("top_logprobs", s.top_logprobs, -1, static_cast<double>(kMostTopLogprobs));
}

}  // namespace

Message encode_open(std::uint64_t id, const Opened& opened) {
  const SequenceOptions& o = opened.options;
  Message m{MessageKind::open, id, {}};
  PayloadWriter w(m.payload);
  w.value(opened.sequence);
  w.value(o.sampling);
  w.value(o.decode.mode);
  w.value(std::uint8_t{o.decode.typical});
  w.value(o.decode.draft_max);
  w.value(o.decode.fixed_width);
  w.value(o.decode.end_position);
  w.value(o.parent);
  w.value(o.shared_tokens);
  w.array(std::span<const TokenId>(o.end_tokens));
  w.array(std::span<const LogitBias>(o.logit_bias));
  w.text(o.grammar.text);
  w.text(o.grammar.trigger);
  w.value(std::uint8_t{o.grammar.at_start});
  w.value(o.answer_position);
  return m;
}

Opened decode_open(const Message& message) {
  PayloadReader r(message.payload);
  Opened opened;
  opened.sequence = r.value<SequenceId>();
  SequenceOptions& o = opened.options;
  o.sampling = r.value<SamplingOptions>();
  o.decode.mode = r.value<DecodeMode>();
  o.decode.typical = r.value<std::uint8_t>() != 0;
  o.decode.draft_max = r.value<std::int32_t>();
  o.decode.fixed_width = r.value<std::int32_t>();
  o.decode.end_position = r.value<std::int64_t>();
  o.parent = r.value<SequenceId>();
  o.shared_tokens = r.value<std::int64_t>();
  o.end_tokens = r.array<TokenId>(kMaxEndTokens);
  o.logit_bias = r.array<LogitBias>(kMaxBiases);
  o.grammar.text = r.text(kMostGrammarBytes);
  o.grammar.trigger = r.text(kMostTriggerBytes);
  o.grammar.at_start = r.value<std::uint8_t>() != 0;
  o.answer_position = r.value<std::int64_t>();
  r.end();
  check_sampling(o.sampling);
  for (const LogitBias& b : o.logit_bias) {
    if (!std::isfinite(b.bias)) {
      throw PeerError("options of a sequence: expected a number as the bias of token " + std::to_string(b.token) +
                      ", found " + std::to_string(b.bias));
    }
  }
  if (o.decode.mode > DecodeMode::continuous) {
    throw PeerError("options of a sequence: expected a way of decoding up to 2, found " +
                    std::to_string(static_cast<int>(o.decode.mode)));
  }
  if (o.decode.draft_max < 0 || o.decode.draft_max >= kMaxDraftNodes) {
    throw PeerError("options of a sequence: expected at most " + std::to_string(kMaxDraftNodes - 1) +
                    " drafted tokens, found " + std::to_string(o.decode.draft_max));
  }
  if (o.answer_position < 0) {
    throw PeerError("options of a sequence: expected the position of the answer, found " +
                    std::to_string(o.answer_position));
  }
  if (o.shared_tokens < 0) {
    throw PeerError("options of a sequence: expected a number of shared tokens, found " +
                    std::to_string(o.shared_tokens));
  }
  return opened;
}

Message encode_close(std::uint64_t id, const CloseRequest& request) {
  return message_of(MessageKind::close, id, request);
}

CloseRequest decode_close(const Message& message) {
  const auto request = body_of<CloseRequest>(message);
  if (request.how.new_tokens < 0 || request.how.kept_tokens < 0) {
    throw PeerError("close of sequence " + std::to_string(request.sequence) + ": expected counts of tokens, found " +
                    std::to_string(request.how.new_tokens) + " new and " + std::to_string(request.how.kept_tokens) +
                    " kept");
  }
  return request;
}

Message encode_closed(std::uint64_t id, const Closed& closed) {
  return message_of(MessageKind::closed, id, closed);
}

Closed decode_closed(const Message& message) {
  return body_of<Closed>(message);
}

Message encode_stop(std::uint64_t id, ExitCode code) {
  return message_of(MessageKind::stop, id, static_cast<std::uint32_t>(code));
}

ExitCode decode_stop(const Message& message) {
  return static_cast<ExitCode>(body_of<std::uint32_t>(message));
}

}  // namespace jupiter
