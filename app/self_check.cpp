// Generation through the same path that `run` takes.
#include "app/self_check.hpp"

#include "io/hash.hpp"
#include "parallel/generate.hpp"

namespace jupiter {

namespace {
constexpr std::int64_t kNewTokens = 16;
constexpr std::int64_t kChunkAlone = 64;  // not the default, so that one rank also checks its chunks
}  // namespace

std::vector<CheckAnswer> answer_prompts(Pipeline& pipeline, const Engine& engine,
                                        const std::vector<std::vector<TokenId>>& prompts) {
  std::vector<CheckAnswer> answers;
  for (const auto& prompt : prompts) {
    Generator generator(pipeline, {}, engine.context_tokens());
    GenerateOptions g;
    g.max_new_tokens = kNewTokens;
    g.chunks = [&](std::int64_t n) { return engine.chunks(n); };
    const Generated made = generator.generate(prompt, g, [](TokenId) { return true; });
    answers.push_back({made.tokens, hex(generator.close())});
  }
  return answers;
}

std::vector<CheckAnswer> answer_alone(const MpiSession& mpi, const EngineOptions& options,
                                      const std::vector<std::vector<TokenId>>& prompts) {
  MpiSession one = MpiSession::alone(mpi);
  EngineOptions o = options;
  o.plan.clear();
  o.chunk_tokens = kChunkAlone;
  Engine engine(one, o, [](const Manifest&) {});
  Pipeline pipeline(one, engine.stage(), engine.pool(), engine.trace(), {.deadline = o.timeout});
  return answer_prompts(pipeline, engine, prompts);
}

bool promises_bits(const Manifest& manifest, bool exact) {
  if (exact) return true;
  for (const FileInfo& file : manifest.files) {
    for (const DatasetInfo& d : file.datasets) {
      if (d.kind == DatasetInfo::Kind::matrix && is_float(d.format)) return false;
    }
  }
  return true;
}

nlohmann::ordered_json to_json(const std::vector<CheckAnswer>& answers) {
  auto list = nlohmann::ordered_json::array();
  for (const CheckAnswer& a : answers) list.push_back({{"tokens", a.tokens}, {"logits_hash", a.logits_hash}});
  return list;
}

}  // namespace jupiter
