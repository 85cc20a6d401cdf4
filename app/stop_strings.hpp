// Ends an answer at a stop string without ever showing a part of it.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/begun_marker.hpp"

namespace jupiter {

class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // The part of the text so far that can be shown; what might be the beginning of a stop string is held back.
  std::string push(std::string_view text) {
    held_ += text;
    std::size_t cut = held_.size();
    for (const std::string& stop : stops_) {
      if (const std::size_t at = held_.find(stop); at != std::string::npos && (!found_ || at < cut)) {
        found_ = true;
        cut = at;
      }
    }
    if (!found_) cut = held_.size() - longest_partial();
    std::string shown = held_.substr(0, cut);
    held_ = found_ ? std::string() : held_.substr(cut);
    return shown;
  }
  bool found() const { return found_; }
  // What was held back, once no more text comes.
  std::string finish() { return std::exchange(held_, {}); }

 private:
  // Length of the longest end of the text that begins a stop string.
  std::size_t longest_partial() const {
    std::size_t longest = 0;
    for (const std::string& stop : stops_) longest = std::max(longest, begun_marker(held_, stop));
    return longest;
  }
  std::vector<std::string> stops_;  // none empty
  std::string held_;
  bool found_ = false;
};

}  // namespace jupiter
