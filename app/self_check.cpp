// Generation through the same path that `run` takes.
#include "app/self_check.hpp"

#include "io/hash.hpp"
#include "parallel/comm/collectives.hpp"

namespace jupiter {

namespace {
constexpr std::int64_t kNewTokens = 16;
constexpr std::int64_t kChunkAlone = 64;  // not the default, so that one rank also checks its chunks
}  // namespace

std::vector<CheckAnswer> answer_prompts(Scheduler& scheduler, const DecodeOptions& decode,
                                        const std::vector<std::vector<TokenId>>& prompts) {
  std::vector<CheckAnswer> answers(prompts.size());
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    Request r;
    r.prompt = prompts[i];
    r.decode = decode;
    r.max_new_tokens = kNewTokens;
    r.on_done = [&answers, i](Generated&& g) { answers[i] = {std::move(g.tokens), hex(g.logits_digest)}; };
    scheduler.add(std::move(r));
  }
  scheduler.run();
  return answers;
}

std::vector<CheckAnswer> answer_alone(const MpiSession& mpi, const EngineOptions& options,
                                      const std::vector<std::vector<TokenId>>& prompts) {
  EngineOptions o = options;
  o.plan.clear();
  o.chunk_tokens = kChunkAlone;
  o.decoding.decode = {};  // plain
  Engine engine(mpi.alone(), o, [](const Manifest&, const MpiSession&) {});
  std::vector<CheckAnswer> answers;
  engine.drive([&](Pipeline&, Scheduler& scheduler) {
    answers = answer_prompts(scheduler, o.decoding.decode, prompts);
    return interrupted_by();
  });
  return answers;
}

nlohmann::ordered_json to_json(const std::vector<CheckAnswer>& answers) {
  auto list = nlohmann::ordered_json::array();
  for (const CheckAnswer& a : answers) list.push_back({{"tokens", a.tokens}, {"logits_hash", a.logits_hash}});
  return list;
}

}  // namespace jupiter
