// Every path of the gateway.
#pragma once

#include "app/gateway/answers.hpp"
#include "app/gateway/http_server.hpp"

namespace jupiter {

// context must outlive the server.
void add_routes(HttpServer& server, const GatewayContext& context);

}  // namespace jupiter
