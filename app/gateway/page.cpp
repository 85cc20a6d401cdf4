// Browsers may keep the files, and ask each time whether they have changed.
#include "app/gateway/page.hpp"

#include "app/gateway/embedded.hpp"
#include "io/error.hpp"
#include "io/hash.hpp"

namespace jupiter {

namespace {

// Everything comes from this server, and no other page may show this one in a frame. Nothing inline runs, so a text
// that slipped into the page as HTML would do nothing.
constexpr const char* kPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'";

const char* content_type(std::string_view extension) {
  if (extension == ".html") return "text/html; charset=utf-8";
  if (extension == ".css") return "text/css; charset=utf-8";
  if (extension == ".js") return "text/javascript; charset=utf-8";
  if (extension == ".svg") return "image/svg+xml";
  throw RunError("page: no content type for files that end in " + std::string(extension));
}

// "gzip" among the encodings, and not with a weight of zero.
bool takes_gzip(const httplib::Request& request) {
  const std::string accepted = request.get_header_value("Accept-Encoding");
  const std::size_t at = accepted.find("gzip");
  if (at == std::string::npos) return false;
  const std::string weight = accepted.substr(at + 4, accepted.find(',', at) - (at + 4));
  return weight.find("q=0") == std::string::npos || weight.find_first_of("123456789") != std::string::npos;
}

void answer(const EmbeddedFile& file, const std::string& etag, const httplib::Request& request,
            httplib::Response& response) {
  response.set_header("ETag", etag);
  response.set_header("Cache-Control", "no-cache");
  response.set_header("Vary", "Accept-Encoding");
  response.set_header("Content-Security-Policy", kPolicy);
  response.set_header("X-Content-Type-Options", "nosniff");
  response.set_header("Referrer-Policy", "no-referrer");
  if (request.get_header_value("If-None-Match").find(etag) != std::string::npos) {
    response.status = 304;
    return;
  }
  const bool compressed = takes_gzip(request);
  if (compressed) response.set_header("Content-Encoding", "gzip");
  const std::string_view bytes = compressed ? file.gzip : file.plain;
  // A provider, because cpp-httplib would compress a text by itself once more.
  response.set_content_provider(bytes.size(), content_type(file.extension),
                                [bytes](std::size_t offset, std::size_t length, httplib::DataSink& sink) {
                                  return sink.write(bytes.data() + offset, length);
                                });
}

}  // namespace

void add_page(HttpServer& server) {
  for (const EmbeddedFile& file : page_files()) {
    const std::string path = file.name == "index.html" ? "/" : "/page/" + std::string(file.name);
    const std::string etag = '"' + hex(hash_bytes(file.plain)) + '"';
    server.get(
        path, [&file, etag](const httplib::Request& q, httplib::Response& r) { answer(file, etag, q, r); }, true);
  }
}

}  // namespace jupiter
