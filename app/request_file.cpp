// JSONL in and out.
#include "app/request_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "io/files.hpp"
#include "io/json_fields.hpp"

namespace jupiter {

namespace {

std::vector<ChatMessage> read_messages(const JsonObject& o, bool may_be_answered) {
  std::vector<ChatMessage> messages;
  for (const auto& m : o.array_or_empty("messages")) {
    const JsonObject message(m, o.where() + ": messages");
    messages.push_back({message.string("role"), message.string("content")});
  }
  const bool answered = may_be_answered && messages.size() > 1 && messages.back().role == "assistant" &&
                        messages[messages.size() - 2].role == "user";
  if (!answered && (messages.empty() || messages.back().role != "user")) {
    o.fail("messages", "a list that ends with a message of the role user", "another");
  }
  return messages;
}

std::vector<std::string> read_stops(const JsonObject& o) {
  const auto* value = o.find("stop");
  std::vector<std::string> stops;
  if (value->is_string()) {
    stops.push_back(value->get<std::string>());
  } else {
    for (const auto& s : o.array_or_empty("stop")) {
      if (!s.is_string()) o.fail("stop", "texts", json_text(s));
      stops.push_back(s.get<std::string>());
    }
  }
  for (const std::string& s : stops) {
    if (s.empty()) o.fail("stop", "a text", "nothing");
  }
  return stops;
}

SamplingOptions read_line_sampling(const JsonObject& o, SamplingOptions s) {
  const auto number = [&](const char* key, float fallback) {
    return static_cast<float>(o.find_number(key).value_or(fallback));
  };
  s.temperature = number("temperature", s.temperature);
  s.top_p = number("top_p", s.top_p);
  s.min_p = number("min_p", s.min_p);
  s.repeat_penalty = number("repeat_penalty", s.repeat_penalty);
  s.top_k = static_cast<std::int32_t>(o.find_int("top_k").value_or(s.top_k));
  s.seed = static_cast<std::uint64_t>(o.find_int("seed").value_or(static_cast<std::int64_t>(s.seed)));
  check_sampling(s, o.where() + ": ", ExitCode::invalid_file);
  return s;
}

void read_request(const JsonObject& o, BatchRequest& r) {
  if (o.has("prompt") == o.has("messages")) o.fail("prompt", "either prompt or messages", "both or none");
  if (o.has("prompt")) {
    r.prompt = o.string("prompt");
    if (r.prompt.empty()) o.fail("prompt", "a text", "nothing");
  } else {
    r.messages = read_messages(o, r.answered);
  }
  r.answered = !r.messages.empty() && r.messages.back().role == "assistant";
  r.max_tokens = o.find_int("max_tokens").value_or(r.max_tokens);
  if (o.has("max_tokens") && r.max_tokens < 1) o.fail("max_tokens", "a positive number", std::to_string(r.max_tokens));
  r.sampling = read_line_sampling(o, r.sampling);
  if (o.has("stop")) r.stops = read_stops(o);
}

BatchRequest read_line(const std::string& text, const std::string& where, BatchRequest r) {
  try {
    check_utf8(text, where, ExitCode::invalid_file);
    const JsonObject o = parse_json_object(text, where);
    const auto* id = o.find("id");
    if (id == nullptr || !(id->is_string() || id->is_number_integer())) {
      o.fail("id", "a text or a whole number", id == nullptr ? "none" : json_text(*id));
    }
    r.id = id->dump();
    read_request(o, r);
  } catch (const Error& e) {
    r.fault = e.what();
  }
  return r;
}

}  // namespace

std::vector<BatchRequest> read_requests(const std::string& text, const std::string& file,
                                        const BatchRequest& defaults) {
  std::vector<BatchRequest> requests;
  std::set<std::string> ids;
  std::int64_t line = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string one = text.substr(at, end - at);
    at = end + 1;
    ++line;
    if (one.find_first_not_of(" \t\r") == std::string::npos) continue;
    BatchRequest start = defaults;
    start.line = line;
    BatchRequest r = read_line(one, fmt::format("{}: line {}", file, line), start);
    if (!r.id.empty() && !ids.insert(r.id).second) {
      r.fault = fmt::format("{}: line {}: id: expected one that no line before has, found {}", file, line, r.id);
      r.id.clear();  // the answer of that id is the first line's
    }
    requests.push_back(std::move(r));
  }
  return requests;
}

AnswerFile::AnswerFile(const std::string& path, bool resume, const std::string& model_hash) : path_(path) {
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) throw RunError(fmt::format("{}: cannot be written: {}", path, std::strerror(errno)));
  try {
    // Ranks of a batch whose mpirun was killed live on for a moment, and may still write.
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      throw RunError(fmt::format("{}: expected that no other batch writes it, found one that does", path));
    }
    end_ = ::lseek(fd_, 0, SEEK_END);
    if (end_ > 0 && !resume) {
      throw UsageError(fmt::format("{}: expected a new file, found {} bytes (--resume goes on with it)", path, end_));
    }
    if (end_ > 0) read_done(model_hash);
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

AnswerFile::~AnswerFile() {
  ::close(fd_);
}

void AnswerFile::read_done(const std::string& model_hash) {
  const std::string text = read_file(path_, std::uint64_t{64} << 30);
  std::size_t at = 0;
  for (std::int64_t line = 1; at < text.size(); ++line) {
    const std::size_t end = text.find('\n', at);
    if (end == std::string::npos) break;  // cut off in the middle: its request is answered again
    const JsonObject o = parse_json_object(text.substr(at, end - at), fmt::format("{}: line {}", path_, line));
    if (o.string("model_hash") != model_hash) {
      o.fail("model_hash", model_hash + " (this model's)", o.string("model_hash"));
    }
    if (!o.has("id")) o.fail("id", "the request's", "none");
    done_.insert(o.find("id")->dump());
    at = end + 1;
  }
  end_ = static_cast<std::int64_t>(at);
  if (::ftruncate(fd_, end_) != 0) {
    throw RunError(fmt::format("{}: cannot be cut to {} bytes: {}", path_, end_, std::strerror(errno)));
  }
}

void AnswerFile::write(const std::string& line) {
  const std::string whole = line + "\n";
  for (std::size_t at = 0; at < whole.size();) {
    const ssize_t n = ::pwrite(fd_, whole.data() + at, whole.size() - at, end_ + static_cast<std::int64_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      const int reason = n < 0 ? errno : ENOSPC;
      (void)!::ftruncate(fd_, end_);
      throw RunError(fmt::format("{}: cannot be written: {}", path_, std::strerror(reason)));
    }
    at += static_cast<std::size_t>(n);
  }
  if (::fdatasync(fd_) != 0 && errno != EINVAL && errno != EROFS) {
    throw RunError(fmt::format("{}: cannot be written: {}", path_, std::strerror(errno)));
  }
  end_ += static_cast<std::int64_t>(whole.size());
}

}  // namespace jupiter
