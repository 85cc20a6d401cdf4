// The description of the API (app/gateway/openapi.json) as this server fills it in.
#pragma once

#include <string>

#include "app/gateway/answers.hpp"

namespace jupiter {

// Version, names of the model, size of the vocabulary, and whether keys are wanted are this server's.
std::string openapi_document(const GatewayContext& context, bool has_keys);

}  // namespace jupiter
