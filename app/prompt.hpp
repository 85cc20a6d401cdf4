// From what a user wrote to tokens and sampling options: shared by run and batch.
#pragma once

#include <optional>

#include "app/command.hpp"
#include "io/tokenizer/chat_template.hpp"
#include "kernels/sampler.hpp"

namespace jupiter {

void add_sampling_options(cxxopts::OptionAdder add);
SamplingOptions read_sampling(const cxxopts::ParseResult& args);
// -n: new tokens at most; more than any context is to the end of the context. 0: not given.
std::int64_t predict_option(const cxxopts::ParseResult& args);
// Error(code) that names `source` where a value is outside its range.
void check_sampling(const SamplingOptions& sampling, const std::string& prefix, ExitCode code);

// Error(code) at the first byte that is not UTF-8.
void check_utf8(const std::string& text, const std::string& source, ExitCode code);

// The same for a text on the command line, which all ranks have: CollectiveError (usage).
void check_utf8_option(const std::string& text, const std::string& option);

// The template of that name, or the model's own where it is empty; UsageError where there is none.
ChatTemplate choose_template(const Tokenizer& tokenizer, const std::string& name);

}  // namespace jupiter
