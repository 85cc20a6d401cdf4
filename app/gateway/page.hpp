// The web page, whose files (app/gateway/page) are part of the program.
#pragma once

#include <span>
#include <string_view>

#include "app/gateway/http_server.hpp"

namespace jupiter {

struct PageFile {
  std::string_view name;       // in its folder
  std::string_view extension;  // ".html"
  std::string_view plain;
  std::string_view gzip;  // the same, compressed
};

// All files; app/gateway/page/embed.cmake writes this function when the program is built.
std::span<const PageFile> page_files();

// index.html at "/", everything else below "/page/". They need no key: the page asks its user for one.
void add_page(HttpServer& server);

}  // namespace jupiter
