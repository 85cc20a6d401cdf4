// The part of a model's Jinja chat template that opens the reply, computed without Jinja.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace jupiter {

// What the template puts after the last message for add_generation_prompt, with the settings that transformers uses
// (trim_blocks, lstrip_blocks) and every option that people may set left undefined. Empty text: nothing. None: it
// depends on more than that, or is written in a way that is not understood here.
std::optional<std::string> generation_prompt(std::string_view jinja);

}  // namespace jupiter
