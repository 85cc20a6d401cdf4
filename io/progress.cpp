// One line, rewritten in place.
#include "io/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace jupiter {

bool is_terminal(Stream stream) {
  if (const char* told = std::getenv("JUPITER_TERMINALS")) {
    return std::strchr(told, "ioe"[static_cast<int>(stream)]) != nullptr;
  }
  return ::isatty(static_cast<int>(stream)) != 0;
}

ProgressBar::ProgressBar(std::string label, std::string unit, double unit_size)
    : label_(std::move(label)), unit_(std::move(unit)), unit_size_(unit_size), visible_(is_terminal(Stream::err)) {}

ProgressBar::~ProgressBar() {
  if (visible_ && drawn_ != Clock::time_point{}) std::fputs("\r\033[K", stderr);
}

void ProgressBar::update(std::uint64_t done, std::uint64_t total) {
  const auto now = Clock::now();
  if (!visible_ || total == 0 || now - drawn_ < std::chrono::milliseconds(100)) return;
  drawn_ = now;
  const double fraction = static_cast<double>(done) / static_cast<double>(total);
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double rate = seconds > 0 ? static_cast<double>(done) / unit_size_ / seconds : 0;
  const double left = fraction > 0 ? seconds * (1 - fraction) / fraction : 0;
  const int filled = static_cast<int>(fraction * 30);
  const std::string line = fmt::format("\r{} [{:=<{}}{: <{}}] {:3.0f} %  {:.1f} {}/s  {:.0f} s left\033[K", label_, "",
                                       filled, "", 30 - filled, fraction * 100, rate, unit_, left);
  std::fputs(line.c_str(), stderr);
}

}  // namespace jupiter
