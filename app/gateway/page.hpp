// The web page, whose files (app/gateway/page) are part of the program.
#pragma once

#include "app/gateway/http_server.hpp"

namespace jupiter {

// index.html at "/", everything else below "/page/". They need no key: the page asks its user for one.
void add_page(HttpServer& server);

}  // namespace jupiter
