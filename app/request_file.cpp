// JSONL in and out.
#include "app/request_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
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

void read_request(const JsonObject& o, BatchRequest& r) {
  if (o.has("prompt") == o.has("messages")) o.fail("prompt", "either prompt or messages", "both or none");
  if (o.has("prompt")) {
    r.prompt = o.string("prompt");
    if (r.prompt.empty()) o.fail("prompt", "a text", "nothing");
  } else {
    r.messages = read_messages(o, r.answered);
  }
  r.answered = !r.messages.empty() && r.messages.back().role == "assistant";
  // More than any context is to the end of the context.
  if (const auto most = o.find_int("max_tokens", 1, INT64_MAX)) r.max_tokens = std::min(*most, kMostTokens);
  read_sampling(o, r.sampling);
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
    r.grammar = read_output_format(o, parse_json<nlohmann::ordered_json>(text, where));
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
      r.fault =
          fmt::format("{}: line {}: id: expected one that no line before has, found {}", file, line, shortened(r.id));
      r.id.clear();  // the answer of that id is the first line's
    }
    requests.push_back(std::move(r));
  }
  return requests;
}

namespace {

// Fields of the lines that this program writes: batch's answers and errors, train-draft's answers.
const std::set<std::string, std::less<>> kAnswerFields = {
    "id",      "text",  "prompt_token_ids", "generated_token_ids", "finish_reason", "ttft_s",
    "total_s", "steps", "logits_hash",      "model_hash",          "error"};

// An object that was cut off somewhere: what precedes the last comma between its fields, or nothing.
struct CutObject {
  std::string_view whole_fields;
  bool open = true;  // it does not end
  bool inside_string = false;
};
CutObject scan_object(std::string_view text) {
  CutObject cut;
  std::int64_t depth = 0;
  for (std::size_t i = 0; i < text.size() && cut.open; ++i) {
    const char c = text[i];
    if (cut.inside_string) {
      if (c == '\\') ++i;
      cut.inside_string = c != '"';
    } else if (c == ',' && depth == 1) {
      cut.whole_fields = text.substr(0, i);
    } else {
      cut.inside_string = c == '"';
      depth += (c == '{' || c == '[') - (c == '}' || c == ']');
      cut.open = depth > 0;
    }
  }
  return cut;
}

// Whether the text may be the beginning of one more field of ours: `"KEY":VALUE`, or less of it.
bool begins_field(std::string_view text, const nlohmann::ordered_json& fields) {
  return std::any_of(kAnswerFields.begin(), kAnswerFields.end(), [&](const std::string& key) {
    const std::string begin = "\"" + key + "\":";
    return !fields.contains(key) && (begin.starts_with(text) || text.starts_with(begin));
  });
}

// Whether the text is the beginning of a line that write() was given, and not all of it. Its whole fields, written
// again as we write them, must be what stands there byte for byte; the rest must begin a field of ours.
bool is_cut_answer(std::string_view text) {
  constexpr std::string_view kBegin = "{\"id\":";
  if (kBegin.starts_with(text)) return true;
  const CutObject cut = scan_object(text);
  if (!text.starts_with(kBegin) || !cut.open) return false;
  const std::string_view whole = cut.whole_fields, id = text.substr(kBegin.size());
  const std::string object = std::string(whole) + "}";
  try {
    if (whole.empty() && id.front() != '"') return id.find_first_not_of("-0123456789") == std::string_view::npos;
    if (whole.empty()) return cut.inside_string || parse_json(id, "").is_string();
    const auto fields = parse_json<nlohmann::ordered_json>(object, "");
    for (const auto& [key, value] : fields.items()) {
      if (!kAnswerFields.contains(key)) return false;
    }
    return fields.dump() == object && begins_field(text.substr(whole.size() + 1), fields);
  } catch (const std::exception&) {  // no JSON, or no UTF-8
    return false;
  }
}

// File systems without locks pass.
void lock(int fd, const std::string& path) {
  while (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno == EWOULDBLOCK) {
      throw RunError(fmt::format("{}: expected that no other batch writes it, found one that does", path));
    }
    if (errno == ENOTSUP || errno == ENOSYS || errno == ENOLCK || errno == EINVAL) return;
    throw RunError(fmt::format("{}: cannot be locked: {}", path, std::strerror(errno)));
  }
}

}  // namespace

AnswerFile::AnswerFile(const std::string& path, bool resume, const std::string& model_hash, const std::string& input)
    : path_(path) {
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) throw RunError(fmt::format("{}: cannot be written: {}", path, std::strerror(errno)));
  try {
    if (!input.empty() && same_file(path, input)) {
      throw UsageError(fmt::format("{}: expected a file of its own for the answers, found the input", path));
    }
    // Ranks of a batch whose mpirun was killed live on for a moment, and may still write.
    lock(fd_, path);
    end_ = ::lseek(fd_, 0, SEEK_END);
    if (end_ > 0 && !resume) {
      throw UsageError(fmt::format("{}: expected a new file, found {} bytes (--resume goes on with it)", path, end_));
    }
    if (end_ > 0) read_done(model_hash);
    sync_folder_of(path);  // it may be new
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

AnswerFile::~AnswerFile() {
  ::close(fd_);
}

// One answer or error that is there already.
void AnswerFile::read_line(const JsonObject& o, const std::string& model_hash) {
  if (o.string("model_hash") != model_hash) {
    o.fail("model_hash", model_hash + " (this model's)", o.string("model_hash"));
  }
  const auto* id = o.find("id");
  if (id == nullptr || !(id->is_string() || id->is_number_integer())) {
    o.fail("id", "the request's", id == nullptr ? "none" : json_text(*id));
  }
  if (const auto error = o.find_string("error")) {
    failed_[id->dump()] = *error;
  } else {
    o.ints("generated_token_ids");
    done_.insert(id->dump());
    failed_.erase(id->dump());
  }
}

// Nothing is changed before the whole file is known to be ours.
void AnswerFile::read_done(const std::string& model_hash) {
  const std::string text = read_file(path_, std::uint64_t{64} << 30);
  bool lacks_end = false;
  for (std::int64_t line = 1, at = 0; at < end_; ++line) {
    const std::size_t found = text.find('\n', static_cast<std::size_t>(at));
    lacks_end = found == std::string::npos;
    const auto end = lacks_end ? std::ssize(text) : static_cast<std::int64_t>(found);
    const std::string one = text.substr(static_cast<std::size_t>(at), static_cast<std::size_t>(end - at));
    if (lacks_end && is_cut_answer(one)) {  // its request is answered again
      end_ = at;
      break;
    }
    read_line(parse_json_object(one, fmt::format("{}: line {}", path_, line)), model_hash);
    at = end + 1;
  }
  if (end_ == std::ssize(text)) {
    if (lacks_end) write("");
  } else if (::ftruncate(fd_, end_) != 0) {
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
