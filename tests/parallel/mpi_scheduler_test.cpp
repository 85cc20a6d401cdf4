// Requests of all kinds on a KV cache that is too small for them: each has the bits that it has alone, on any number of
// ranks, whoever was set back or dropped for it; and no block is lost.
#include "mpi_cluster.hpp"

namespace jupiter {
namespace {

namespace fs = std::filesystem;

// Words of a few letters; brackets of them; and, behind free text, what can be said in one way only.
GrammarSpec some_grammar(std::size_t i) {
  const std::vector<GrammarSpec> all = {{"root ::= ([a-m]{2,4} [n-z])*"},
                                        {"root ::= \"a\" root \"b\" | [c-z]{3,}"},
                                        {"root ::= \"e\" \"hello\" ([a-e] \"world\")+", "e"}};
  return all[i % all.size()];
}

// Prompts of which many begin alike, answers with and without a limit.
std::vector<Request> random_requests(std::uint64_t seed, std::size_t count) {
  std::mt19937_64 random(seed);
  const auto below = [&](std::int64_t n) {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(n));
  };
  std::vector<std::vector<TokenId>> beginnings(3);
  for (auto& b : beginnings) {
    for (std::int64_t i = below(70); i >= 0; --i) b.push_back(static_cast<TokenId>(below(250)));
  }
  std::vector<Request> requests;
  for (std::size_t i = 0; i < count; ++i) {
    Request r;
    if (below(2) == 0) r.prompt = beginnings[static_cast<std::size_t>(below(3))];
    for (std::int64_t n = 1 + below(50); n > 0; --n) r.prompt.push_back(static_cast<TokenId>(below(250)));
    r.max_new_tokens = below(3) == 0 ? 0 : 1 + below(200);
    r.decode = {static_cast<DecodeMode>(below(3)), false, kDraftMax, 0, 0};
    if (below(3) == 0) r.sampling = {.temperature = 0.9f, .repeat_penalty = 1.2f, .seed = random()};
    const std::int64_t keep = below(4);
    r.keep_tokens = keep == 0 ? kKeepAll : keep == 1 ? 20 : 0;
    if (i % 2 == 1) {
      r.grammar = some_grammar(i / 2);
      r.end_tokens = {7};
    }
    requests.push_back(std::move(r));
  }
  return requests;
}

void compare(Cluster& cluster, std::uint64_t seed, std::int64_t& set_back) {
  const std::vector<Request> requests = random_requests(seed, 16);
  std::vector<Answer> alone;
  cluster.run(120, [&](Scheduler& s) {
    for (Request r : requests) {
      r.decode = {};
      r.keep_tokens = 0;
      const Generated g = s.complete(std::move(r));
      alone.push_back({g.tokens, g.logits_digest});
    }
    expect(s.kept().empty(), "nothing kept that nobody asked for");
  });
  // The smallest just holds one request that fills the context, with the tree that it may have on four ranks.
  static_assert(kContext / kKvBlock + spare_tree_blocks(4, kDraftMax) == 15);
  for (const std::int64_t blocks : {15, 20, 40, 120}) {
    cluster.run(blocks, [&](Scheduler& s) {
      if (seed % 2 == 0) s.compute_prefix(std::vector<TokenId>(requests[0].prompt.begin(), requests[0].prompt.end()));
      const std::vector<Answer> got = answers_of(s, requests, set_back);
      for (std::size_t i = 0; i < got.size(); ++i) {
        expect(got[i] == alone[i], "the bits of request " + std::to_string(i) + " alone, seed " + std::to_string(seed) +
                                       ", " + std::to_string(blocks) + " blocks");
      }
    });
  }
}

// An answer that other ranks began goes on behind the tokens that it has, with the same bits.
void check_continued(Cluster& cluster) {
  std::vector<Request> requests = random_requests(11, 12);
  for (Request& r : requests) r.max_new_tokens = std::max<std::int64_t>(r.max_new_tokens, 8);
  for (const std::int64_t blocks : {20, 120}) {
    std::int64_t set_back = 0;
    std::vector<Answer> whole, continued;
    cluster.run(120, [&](Scheduler& s) { whole = answers_of(s, requests, set_back); });
    std::vector<Request> rest = requests;
    for (std::size_t i = 0; i < whole.size(); ++i) {
      const std::vector<TokenId>& tokens = whole[i].tokens;
      // None, one, some, all but one.
      const std::size_t n = std::vector<std::size_t>{0, 1, tokens.size() / 2, tokens.size() - 1}[i % 4];
      rest[i].given.assign(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n));
    }
    cluster.run(blocks, [&](Scheduler& s) { continued = answers_of(s, rest, set_back); });
    for (std::size_t i = 0; i < whole.size(); ++i) {
      expect(continued[i] == whole[i], "the bits of answer " + std::to_string(i) + " as if nothing had happened, " +
                                           std::to_string(blocks) + " blocks");
    }
  }
}

// Requests that end early, wherever they are, leave the others' bits and all blocks.
void check_cancelled(Cluster& cluster) {
  const std::vector<Request> requests = random_requests(12, 12);
  std::int64_t set_back = 0;
  std::vector<Answer> whole;
  cluster.run(120, [&](Scheduler& s) { whole = answers_of(s, requests, set_back); });
  cluster.run(20, [&](Scheduler& s) {
    std::vector<Answer> got(requests.size());
    std::vector<std::int64_t> numbers;
    std::size_t done = 0, steps = 0;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      Request r = requests[i];
      r.on_done = [&, i](Generated&& g) {
        got[i] = {std::move(g.tokens), g.logits_digest};
        ++done;
      };
      numbers.push_back(s.add(std::move(r)));
    }
    // One at once, one in its prompt, one that waits, others while they run.
    s.cancel(numbers[1]);
    s.run([&] {
      ++steps;
      if (steps == 2) s.cancel(numbers[0]);
      if (steps == 5) s.cancel(numbers.back());
      if (steps == 30) s.cancel(numbers[3]);
      if (steps == 40) s.cancel(numbers[3]);  // again: nothing happens
    });
    expect(done == requests.size(), "an end of every request, cancelled ones too");
    for (const std::size_t i : {2, 4, 5, 6, 7, 8, 9, 10})
      expect(got[i] == whole[i], "the bits beside cancelled requests");
    for (const std::size_t i : {0, 1, 3, 11}) {
      const bool begins = got[i].tokens.size() <= whole[i].tokens.size() &&
                          std::equal(got[i].tokens.begin(), got[i].tokens.end(), whole[i].tokens.begin());
      expect(begins, "the beginning of a cancelled answer");
    }
    Request last = requests[2];
    s.add(Request(last));
    s.add(Request(last));
    s.cancel_all();
    s.run();
    expect(s.running() == 0 && s.waiting() == 0, "nobody left after all were cancelled");
  });
}

// What is kept serves the next turn, and goes when someone needs its room.
void check_kept(Cluster& cluster) {
  cluster.run(8, [&](Scheduler& s) {
    Request first;
    for (TokenId t = 1; t <= 50; ++t) first.prompt.push_back(t);
    first.max_new_tokens = 30;
    first.keep_tokens = kKeepAll;
    first.decode = {DecodeMode::continuous, false, 1, 0, 0};
    const Generated one = s.complete(Request(first));
    expect(one.prefilled_tokens == 50 && s.kept().size() == 1, "a kept sequence");
    Request second = first;
    second.prompt.insert(second.prompt.end(), one.tokens.begin(), one.tokens.end());
    second.prompt.push_back(7);
    const Generated two = s.complete(Request(second));
    expect(two.prefilled_tokens == 2, "only the last answer's last token and the new one computed");
    expect(s.kept().size() == 1, "the turn before inside the new one");
    Request other;
    for (TokenId t = 100; t < 230; ++t) other.prompt.push_back(t);
    other.max_new_tokens = 31;
    const Generated three = s.complete(Request(other));
    expect(std::ssize(three.tokens) == 31, "a whole answer");
    expect(s.kept().empty(), "room made for it");
    const Generated again = s.complete(Request(second));
    expect(again.prefilled_tokens == std::ssize(second.prompt) && again.tokens == two.tokens &&
               again.logits_digest == two.logits_digest,
           "the same bits computed anew");
  });
}

// Lengths at their extremes; what never fits is refused, and the rest goes on.
void check_limits(Cluster& cluster) {
  cluster.run(4, [&](Scheduler& s) {
    Request r;
    r.prompt = {1, 2, 3};
    for (const std::int64_t n : {std::numeric_limits<std::int64_t>::max(), std::int64_t{0}}) {
      r.max_new_tokens = n;
      expect(std::ssize(s.complete(Request(r)).tokens) == 4 * kKvBlock - 3 + 1, "an answer as long as the cache");
    }
    Request longer;
    longer.prompt.assign(4 * kKvBlock + 1, 5);
    bool refused = false;
    try {
      s.add(std::move(longer));
    } catch (const UsageError&) {
      refused = true;
    }
    expect(refused, "a prompt that no cache holds refused");
    s.compute_prefix(std::vector<TokenId>(4 * kKvBlock + 1, 5));
    expect(s.kept().empty(), "no prefix that is longer than the cache");
    s.compute_prefix(std::vector<TokenId>(kContext + 1, 5));
    expect(s.kept().empty(), "no prefix that is longer than the context");
  });
}

int test(int seeds) {
  MpiSession mpi;
  const fs::path model = make_model(mpi, [](const fs::path& folder) {
    ModelConfig config = *synth_shape("tiny");
    config.n_layers = 4;
    convert_model(*synth_source(config, GgufType::q4_0, 3), folder, {});
  });
  Cluster cluster(mpi, model);
  std::int64_t set_back = 0;
  for (int seed = 0; seed < seeds; ++seed) compare(cluster, static_cast<std::uint64_t>(seed), set_back);
  if (mpi.rank() == 0) expect(set_back > 0, "requests set back in so small a cache");
  check_kept(cluster);
  check_continued(cluster);
  check_cancelled(cluster);
  check_limits(cluster);
  barrier(mpi);
  if (mpi.rank() == 0) {
    fs::remove_all(model);
    std::printf("%lld times set back, %d failures\n", static_cast<long long>(set_back), failures);
  }
  return failures;
}

}  // namespace
}  // namespace jupiter

int main(int argc, char** argv) {
  return jupiter::test(argc > 1 ? std::atoi(argv[1]) : 6) == 0 ? 0 : 1;
}
