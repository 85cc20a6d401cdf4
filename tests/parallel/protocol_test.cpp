// Messages of fixed content have fixed bytes. Where they change, ranks of different builds must not talk to each other.
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "io/hash.hpp"
#include "parallel/comm/collectives.hpp"
#include "parallel/draft_model/remote_draft.hpp"
#include "parallel/pipeline/control.hpp"
#include "parallel/pipeline/output_head.hpp"
#include "parallel/pipeline/pipeline.hpp"

namespace jupiter {
namespace {

// Every field has a value of its own, so that two that change places are noticed.
std::vector<Message> one_of_each() {
  Frame frame;
  frame.runs = {{1, 2, 1, FrameRun::sample | FrameRun::draft, 3, {5, 4}}, {6, 0, 2, FrameRun::tree, 7, {9, 8}}};
  frame.tokens = {10, 11, 12};
  frame.links = {{13, 9}, {14, 13}};
  frame.cost = {{0.5, 0.25}};
  frame.residual = {std::byte{15}, std::byte{16}, std::byte{17}};
  FrameResult result;
  result.cost = {{1.5, 1.25, 1.125}};
  result.sequences = {{18, {19, 20}, {22, 21}, 23, {{24, {{26, 25}, {27, 26}}, {28, 29}}}}};
  result.sequences[0].logprobs = {{60, -0.5f}, {61, -0.75f}, {62, -1.5f}, {63, -1.75f}};
  SequenceOptions options;
  options.sampling = {0.5f, 30, 0.75f, 0.125f, 1.5f, 31, 32};
  options.decode = {DecodeMode::lap, true, 33, 34, 35};
  options.parent = 36;
  options.shared_tokens = 37;
  options.end_tokens = {38, 39};
  options.sampling.presence_penalty = 0.625f;
  options.sampling.frequency_penalty = 0.375f;
  options.sampling.top_logprobs = 1;
  options.logit_bias = {{64, 2.5f}, {65, -2.5f}};
  options.grammar = {"root ::= a", "66", true};
  options.answer_position = 67;
  SequenceEnd end;
  end.logits_digest = 40;
  end.draft.steps = 41;
  end.draft.rows = 42;
  end.draft.accepted = 43;
  end.draft.misses = 44;
  end.draft.sent_by[1] = 45;
  end.draft.accepted_by[2] = 46;
  end.draft.reached[3] = 47;
  end.draft.right[4] = 48;
  end.draft.draft_s = 2.5;
  end.draft.neural = {49, 3.5};
  std::vector<float> logits(32);
  for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i * 7 % 11);
  const RankReport report{71, "72", 73, 74, 75, 76, 77, 78.5, 79.5, 80, 81, 82.5};
  return {encode(frame, 1),
          encode_result(2, result),
          encode_verdict(3, {50, {52, 51}}),
          encode_open(4, {53, options}),
          encode_close(5, {54, 0, {55, 56, {58, 57}}}),
          encode_closed(6, {59, 0, end}),
          encode_stop(7, ExitCode::interrupted),
          encode_context(8, ContextChange{}),
          encode_guesses(9, ContextGuesses{}),
          encode_head_rows({{68, 69}, 70}),
          encode_head_logits({logits.data(), 2, 16}, 16, 0),
          encode_head_logits({logits.data(), 2, 16}, 16, 3),
          {MessageKind::report, 10, fields::to_bytes(report)}};
}

std::string fingerprint() {
  std::vector<std::byte> all;
  PayloadWriter w(all);
  for (const Message& m : one_of_each()) {
    w.value(static_cast<std::uint16_t>(m.kind));
    w.value(static_cast<std::uint64_t>(m.payload.size()));
    w.array(std::span<const std::byte>(m.payload));
  }
  return hex(hash_bytes({reinterpret_cast<const char*>(all.data()), all.size()}));
}

TEST(Protocol, ItsNumberChangesWithTheLayoutOfMessages) {
  ASSERT_EQ(fingerprint(), fingerprint());
  EXPECT_EQ(kProtocol, 7);
  EXPECT_EQ(fingerprint(), "9dc963d8d160de33")
      << "The layout of a message changed: raise kProtocol (parallel/comm/message.hpp) and write both here.";
}

TEST(Protocol, MessagesOfSequencesComeBackAsTheyWere) {
  const std::vector<Message> m = one_of_each();
  const Opened opened = decode_open(m[3]);
  EXPECT_EQ(opened.sequence, 53u);
  EXPECT_EQ(opened.options.sampling.seed, 32u);
  EXPECT_EQ(opened.options.decode.mode, DecodeMode::lap);
  EXPECT_EQ(opened.options.end_tokens, (std::vector<TokenId>{38, 39}));
  EXPECT_EQ(opened.options.logit_bias.at(1).bias, -2.5f);
  EXPECT_EQ(opened.options.grammar, (GrammarSpec{"root ::= a", "66", true}));
  EXPECT_EQ(opened.options.answer_position, 67);
  const CloseRequest request = decode_close(m[4]);
  EXPECT_EQ(request.how.new_tokens, 55);
  EXPECT_EQ(request.how.kept_tokens, 56);
  EXPECT_EQ(request.how.verdict.node, 58u);
  const Closed closed = decode_closed(m[5]);
  EXPECT_EQ(closed.end.logits_digest, 40u);
  EXPECT_EQ(closed.end.draft.neural.asked, 49);
  EXPECT_EQ(decode_stop(m[6]), ExitCode::interrupted);
}

TEST(Protocol, MessagesOfSequencesThatAreNotWholeAreRefused) {
  for (Message m : one_of_each()) {
    const auto decode = [](const Message& message) {
      switch (message.kind) {
        case MessageKind::open:
          (void)decode_open(message);
          break;
        case MessageKind::close:
          (void)decode_close(message);
          break;
        case MessageKind::closed:
          (void)decode_closed(message);
          break;
        default:
          (void)decode_stop(message);
      }
    };
    if (m.kind != MessageKind::open && m.kind != MessageKind::close && m.kind != MessageKind::closed &&
        m.kind != MessageKind::stop) {
      continue;
    }
    EXPECT_NO_THROW(decode(m));
    for (const std::size_t size : {std::size_t{0}, m.payload.size() / 2, m.payload.size() - 1}) {
      Message cut = m;
      cut.payload.resize(size);
      EXPECT_THROW(decode(cut), PeerError);
    }
    m.payload.push_back({});
    EXPECT_THROW(decode(m), PeerError);
  }
  EXPECT_THROW((void)decode_close(encode_close(1, {1, 0, {-1, 0, {}}})), PeerError);
  EXPECT_THROW((void)decode_close(encode_close(1, {1, 0, {0, -1, {}}})), PeerError);
}

TEST(Protocol, OptionsThatTheSamplerCannotUseAreRefused) {
  const auto refused = [](const std::function<void(SequenceOptions&)>& change) {
    SequenceOptions options;
    EXPECT_NO_THROW((void)decode_open(encode_open(1, {2, options})));
    change(options);
    EXPECT_THROW((void)decode_open(encode_open(1, {2, options})), PeerError);
  };
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  refused([](SequenceOptions& o) { o.sampling.temperature = kNan; });
  refused([](SequenceOptions& o) { o.sampling.top_p = kNan; });
  refused([](SequenceOptions& o) { o.sampling.min_p = 2; });
  refused([](SequenceOptions& o) { o.sampling.repeat_penalty = 0; });
  refused([](SequenceOptions& o) { o.sampling.presence_penalty = kNan; });
  refused([](SequenceOptions& o) { o.sampling.top_k = -1; });
  refused([](SequenceOptions& o) { o.sampling.repeat_last = -1; });
  refused([](SequenceOptions& o) { o.sampling.top_logprobs = 1 << 30; });
  refused([](SequenceOptions& o) { o.logit_bias = {{1, kNan}}; });
}

struct Inner {
  std::string name;
  std::vector<std::int32_t> numbers;
  template <typename Self, typename Visit>
  static void fields(Self& s, Visit&& visit) {
    visit(s.name, s.numbers);
  }
};

TEST(Collectives, ValuesTravelFieldByField) {
  std::vector<Inner> value = {{"one", {1, 2}}, {"", {}}};
  const Bytes bytes = fields::to_bytes(value);
  const auto back = fields::from_bytes<std::vector<Inner>>(bytes);
  ASSERT_EQ(back.size(), 2u);
  EXPECT_EQ(back[0].name, "one");
  EXPECT_EQ(back[0].numbers, value[0].numbers);
  EXPECT_EQ(fields::from_bytes<std::optional<std::string>>(fields::to_bytes(std::optional<std::string>("x"))), "x");
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_THROW((void)fields::from_bytes<std::vector<Inner>>({bytes.begin(), bytes.begin() + static_cast<long>(size)}),
                 PeerError);
  }
  Bytes huge = bytes;
  huge[3] = std::byte{0xff};  // four billion elements: refused before any memory is taken for them
  EXPECT_THROW((void)fields::from_bytes<std::vector<Inner>>(huge), PeerError);
}

}  // namespace
}  // namespace jupiter
