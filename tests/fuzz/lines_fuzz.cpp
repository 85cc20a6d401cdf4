// What gateway and ranks tell each other: bytes over a socket become lines wherever they are cut, and lines become
// requests, tokens and ends of answers, which are written as they were read.
#include <sys/socket.h>
#include <unistd.h>

#include "app/gateway/generation.hpp"
#include "app/gateway/line_socket.hpp"
#include "fuzz_target.hpp"
#include "io/json_fields.hpp"

namespace jupiter::fuzz {
namespace {

std::vector<std::string> lines_of(std::string_view bytes, std::size_t first) {
  int ends[2];
  expect(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "sockets cannot be made");
  std::vector<std::string> lines;
  LineSocket reader(ends[1]);
  const auto take = [&](std::string_view piece) {
    for (std::size_t at = 0; at < piece.size();) {
      const ssize_t n = ::send(ends[0], piece.data() + at, piece.size() - at, MSG_NOSIGNAL);
      expect(n > 0, "a socket takes nothing");
      at += static_cast<std::size_t>(n);
      reader.poll();
    }
    while (auto line = reader.next_line()) lines.push_back(*std::move(line));
  };
  take(bytes.substr(0, first));
  take(bytes.substr(first));
  ::close(ends[0]);
  return lines;
}

template <typename Read>
void check_line(const nlohmann::json& line, const Read& read) {
  accepted([&] {
    const nlohmann::json written = read(line);
    expect(read(written) == written, "a line does not come back");
  });
}

const Target target("lines",
                    [](Input input) {
                      Pieces pieces(input);
                      const std::size_t first = pieces.below(input.size());
                      const std::string_view bytes = as_text(pieces.rest()).substr(0, 16384);
                      const auto lines = lines_of(bytes, std::min(first, bytes.size()));
                      expect(lines == lines_of(bytes, bytes.size()), "lines depend on how their bytes come");
                      for (const std::string& text : lines) {
                        accepted([&] {
                          const auto line = parse_json(text, "line");
                          check_line(line, [](const nlohmann::json& l) { return to_line(spec_of(l)); });
                          check_line(line, [](const nlohmann::json& l) {
                            const auto [id, token] = token_of(l);
                            return to_line(id, token);
                          });
                          check_line(line, [](const nlohmann::json& l) { return to_line(end_of(l)); });
                        });
                      }
                    },
                    {.times_input = 64, .floor_bytes = 4 << 20});

}  // namespace
}  // namespace jupiter::fuzz
