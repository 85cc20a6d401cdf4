// Files that are part of the program; app/gateway/page/embed.cmake writes these functions when it is built.
#pragma once

#include <span>
#include <string_view>

namespace jupiter {

struct EmbeddedFile {
  std::string_view name;       // in its folder
  std::string_view extension;  // ".html"
  std::string_view plain;
  std::string_view gzip;  // the same, compressed
};

std::span<const EmbeddedFile> page_files();  // of app/gateway/page
std::span<const EmbeddedFile> api_files();   // openapi.json

}  // namespace jupiter
