// From what a user wrote to tokens and sampling options: shared by run and batch.
#pragma once

#include <optional>

#include "app/command.hpp"
#include "io/chat_template.hpp"
#include "kernels/sampler.hpp"

namespace jupiter {

void add_sampling_options(cxxopts::OptionAdder add);
SamplingOptions read_sampling(const cxxopts::ParseResult& args);
// Error(code) that names `source` where a value is outside its range.
void check_sampling(const SamplingOptions& sampling, const std::string& prefix, ExitCode code);

// Error(code) at the first byte that is not UTF-8.
void check_utf8(const std::string& text, const std::string& source, ExitCode code);

// The template of that name, or the model's own where it is empty; UsageError where there is none.
ChatTemplate choose_template(const Tokenizer& tokenizer, const std::string& name);

}  // namespace jupiter
