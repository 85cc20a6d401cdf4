// A chat completion with an outline: its points are answers of their own, computed at the same time. Each is an
// ordinary answer of the backend, so it survives a failure of the ranks like any other.
#pragma once

#include <memory>
#include <vector>

#include "app/gateway/answers.hpp"
#include "app/gateway/reply.hpp"

namespace jupiter {

// plain: the prompt of the answer where no outline comes about. ApiError (429) where too many answers are under way.
std::shared_ptr<Reply> outlined_reply(const GatewayContext& context, ChatRequest request, std::vector<TokenId> plain);

}  // namespace jupiter
