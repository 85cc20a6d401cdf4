// Rank 0 holds a draft model and works on it while it waits; rank 1 hears what it thinks of contexts that it tells.
#include <unistd.h>

#include <cstdio>
#include <filesystem>

#include "io/convert/convert.hpp"
#include "io/convert/synth.hpp"
#include "parallel/draft_model/remote_draft.hpp"

namespace jupiter {
namespace {

namespace fs = std::filesystem;

int failures = 0;

void expect(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "rank: expected %s\n", what);
  ++failures;
}

bool same(const std::vector<DraftGuess>& a, const std::vector<DraftGuess>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const DraftGuess& x, const DraftGuess& y) {
    return x.token == y.token && x.probability == y.probability;
  });
}

constexpr std::int64_t kContext = 128;

void serve_drafts(const MpiSession& mpi, std::unique_ptr<DraftModel> model, const FrameLimits& limits) {
  DraftServer server(mpi, 1, std::move(model), limits, {.tokens = 3, .confidence = 0});
  ReceiveChannel stop(mpi, 1, Tag::measure, 64);
  int turn = 0;
  wait_politely(
      [&] {
        stop.poll();
        if (stop.receive()) return true;
        server.work([&] { return ++turn % 5 == 0; });
        return false;
      },
      "rank 1", std::chrono::seconds(60));
}

// Waits until the head knows something of the context.
std::vector<DraftGuess> hear(NeuralDrafter& head, const std::vector<TokenId>& context, std::size_t root) {
  std::vector<DraftGuess> guesses;
  wait_politely(
      [&] {
        guesses = head.guess(context, root);
        return !guesses.empty();
      },
      "the draft model", std::chrono::seconds(60));
  return guesses;
}

void ask_drafts(const MpiSession& mpi, DraftModel& model, const FrameLimits& limits) {
  const auto maker = remote_model_drafters(mpi, 0, limits);
  const auto head = maker->make(), other = maker->make();
  std::vector<TokenId> context = {5, 9, 300, 7, 7, 12};
  head->prefetch(context);
  for (int round = 0; round < 6; ++round) {
    const std::size_t root = context.size() - 1;
    expect(same(hear(*head, context, root), model.guess(context)), "the model's own guesses");
    // It goes on with what it thinks likeliest, unasked.
    std::vector<TokenId> path = context;
    path.push_back(model.guess(context).front().token);
    expect(same(hear(*head, path, root), model.guess(path)), "guesses of a drafted path");
    expect(other->guess({context}, root).empty(), "silence for another sequence");
    // The answer goes on as foreseen, otherwise, and a token back.
    context.push_back(round % 2 == 0 ? path.back() : (path.back() + 1) % 300);
    if (round == 3) context.resize(context.size() - 2);
  }
  SendChannel stop(mpi, 0, Tag::measure);
  stop.send({MessageKind::stop, 1, {}});
  flush(stop, 0);
}

void test(const MpiSession& mpi) {
  std::string folder = (fs::temp_directory_path() / "jupiter-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) throw Error(ExitCode::failed, "mkdtemp");
  const Manifest manifest = convert_model(*synth_source(*synth_shape("tiny"), GgufType::q8_0, 3), folder, {});
  ThreadPool pool({.threads = 1, .share_cores = true});
  const FrameLimits limits{64, kContext, manifest.config.vocab_size, 0};
  auto model = std::make_unique<DraftModel>(folder, manifest, manifest, pool, kContext);
  if (mpi.rank() == 0) {
    serve_drafts(mpi, std::move(model), limits);
  } else {
    ask_drafts(mpi, *model, limits);
  }
  fs::remove_all(folder);
}

}  // namespace
}  // namespace jupiter

int main() {
  const jupiter::MpiSession mpi;
  jupiter::test(mpi);
  return jupiter::failures == 0 ? 0 : 1;
}
