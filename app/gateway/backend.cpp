// One thread talks to the ranks; readers wait on their own answers.
#include "app/gateway/backend.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>

#include "io/error.hpp"
#include "io/json_fields.hpp"

namespace jupiter {

namespace {
constexpr int kPollMs = 200, kVisitorsPollMs = 10;
constexpr std::chrono::milliseconds kTellEvery{200};
// Of a connection that has not said the token.
constexpr std::size_t kMostStrangers = 16, kMostStrangeBytes = 256;
constexpr std::chrono::seconds kStrangerLimit{10};

bool is_about_boards(const std::string& line) {
  try {
    return parse_json(line, "Unix socket").value("type", "") == kLineBoards;
  } catch (const std::exception&) {
    return true;  // nobody's: take_line() says what is wrong with it
  }
}
}  // namespace

std::vector<GivenToken> Generation::wait(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, limit, [&] { return !unread_.empty() || end_.has_value(); });
  std::vector<GivenToken> taken(std::make_move_iterator(unread_.begin()), std::make_move_iterator(unread_.end()));
  unread_.clear();
  return taken;
}

std::optional<GenerationEnd> Generation::end() const {
  const std::lock_guard lock(mutex_);
  return unread_.empty() ? end_ : std::nullopt;
}

Backend::Backend(const Places& places, std::size_t most_open)
    : listener_(places.socket_path), token_(places.token), most_open_(most_open) {
  if (!places.address.empty()) {
    if (token_.empty()) throw UsageError(std::string("gateway: expected a token in ") + kTokenVariable);
    tcp_listener_.emplace(LineListener::tcp(places.address));
  }
  if (::pipe2(wake_, O_CLOEXEC | O_NONBLOCK) != 0) throw RunError("gateway: cannot make a pipe");
  thread_ = std::thread([this] { run(); });
}

Backend::~Backend() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake();
  thread_.join();
  for (const int descriptor : wake_) ::close(descriptor);
}

void Backend::wake() const {
  const char byte = 0;
  [[maybe_unused]] const ssize_t full_is_fine = ::write(wake_[1], &byte, 1);
}

std::shared_ptr<Generation> Backend::submit(GenerationSpec spec) {
  GenerationPtr g;
  {
    const std::lock_guard lock(mutex_);
    if (draining_ || open_.size() >= most_open_) return nullptr;
    if (open_.empty()) heard_ = Clock::now();
    spec.id = next_id_++;
    outbox_.push_back(to_line(spec).dump());
    g = std::make_shared<Generation>(std::move(spec));
    open_.emplace(g->id(), g);
    ++status_.requests;
  }
  wake();
  return g;
}

void Backend::cancel(const GenerationPtr& g) {
  {
    const std::lock_guard lock(mutex_);
    if (open_.erase(g->id()) == 0) return;  // it has ended
    if (open_.empty()) quiet_since_ = Clock::now();
    outbox_.push_back(nlohmann::json{{"type", kLineCancel}, {"id", g->id()}}.dump());
    ++status_.cancelled;
  }
  changed_.notify_all();
  wake();
}

BackendStatus Backend::status() const {
  const std::lock_guard lock(mutex_);
  BackendStatus s = status_;
  s.open = open_.size();
  s.ending = draining_;
  return s;
}

bool Backend::wait_until_ready(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, limit, [&] { return !status_.ready.is_null(); });
}

void Backend::drain(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  changed_.wait_for(lock, limit, [&] { return open_.empty(); });
  drained_ = true;
  // Their readers would wait until the timeout.
  while (!open_.empty()) {
    const auto [id, g] = *open_.begin();
    end(g, {id, false, "the gateway ended before it", {}, {}});
  }
  outbox_.push_back(nlohmann::json{{"type", kLineStop}}.dump());
  lock.unlock();
  wake();
}

void Backend::run() {
  char bytes[64];
  for (;;) {
    const bool all_known = std::all_of(visitors_.begin(), visitors_.end(), [](const Visitor& v) { return v.known; });
    const int limit = all_known ? kPollMs : kVisitorsPollMs;
    wait_for_sockets({listener_.descriptor(), tcp_listener_ ? tcp_listener_->descriptor() : -1},
                     ranks_ ? &*ranks_ : nullptr, wake_[0], limit);
    while (::read(wake_[0], bytes, sizeof bytes) > 0) continue;
    take_visitors();
    hear_visitors();
    tell_visitors();
    send_outbox();
    if (ranks_) {
      ranks_->poll();
      while (const auto line = ranks_->next_line()) take_line(*line);
      if (ranks_->closed()) {
        ranks_.reset();
        {
          const std::lock_guard lock(mutex_);
          status_.connected = status_.loaded = false;
        }
        told_ = {};  // whoever starts the ranks need not wait until mpirun notices
        tell_visitors();
      }
    }
    const std::lock_guard lock(mutex_);
    if (stopping_ && (!ranks_ || !ranks_->has_output())) return;
  }
}

void Backend::take_visitors() {
  if (auto socket = listener_.accept()) visitors_.push_back({std::move(*socket)});
  if (!tcp_listener_) return;
  auto socket = tcp_listener_->accept();
  if (socket && visitors_.size() < kMostStrangers) visitors_.push_back({std::move(*socket), token_});
}

// Whether a connection has said the token, or may still say it.
bool Backend::may_stay(Visitor& v) {
  if (v.token.empty()) return true;
  if (const auto line = v.socket.next_line()) {
    const bool right = *line == v.token;
    v.token.clear();
    return right;
  }
  return v.socket.unread_bytes() <= kMostStrangeBytes && Clock::now() - v.came < kStrangerLimit;
}

// A connection is what its first line says: `boards` comes from whoever starts the ranks, everything else from ranks.
void Backend::hear_visitors() {
  for (auto it = visitors_.begin(); it != visitors_.end();) {
    it->socket.poll();
    if (!may_stay(*it)) {
      it = visitors_.erase(it);
      continue;
    }
    bool are_ranks = false;
    while (const auto line = are_ranks || !it->token.empty() ? std::nullopt : it->socket.next_line()) {
      it->known = true;
      are_ranks = !is_about_boards(*line);
      if (are_ranks) take_connection(std::move(it->socket));
      take_line(*line);
    }
    it = are_ranks || it->socket.closed() ? visitors_.erase(it) : std::next(it);
  }
}

// Whoever starts the ranks wants to know when nobody waits, when the ranks hang, and when they are gone.
void Backend::tell_visitors() {
  const Clock::time_point now = Clock::now();
  if (visitors_.empty() || now - told_ < kTellEvery) return;
  told_ = now;
  nlohmann::json line{{"type", kLineAnswers}};
  {
    const auto seconds = [&](Clock::time_point since) { return std::chrono::duration<double>(now - since).count(); };
    const std::lock_guard lock(mutex_);
    line["open"] = open_.size();
    line["quiet_s"] = open_.empty() ? seconds(quiet_since_) : 0;
    line["stalled_s"] = !open_.empty() && status_.loaded ? seconds(heard_) : 0;
    line["loaded"] = status_.loaded;
    line["starts"] = status_.starts;
    line["gone"] = status_.starts > 0 && !status_.connected && !drained_;
    if (tcp_listener_) line["port"] = tcp_listener_->port();
  }
  const std::string text = line.dump();
  for (Visitor& v : visitors_) {
    if (!v.known) continue;
    v.socket.send(text);
    v.socket.poll();
  }
}

// New ranks: they get every open answer, with the tokens that it has. What was meant for the ranks before them is void.
void Backend::take_connection(LineSocket&& socket) {
  ranks_.emplace(std::move(socket));
  const std::lock_guard lock(mutex_);
  status_.connected = true;
  status_.loaded = false;
  ++status_.starts;
  outbox_.clear();
  for (const auto& [id, g] : open_) {
    const std::lock_guard of_one(g->mutex_);
    outbox_.push_back(to_line(g->spec_).dump());
  }
  if (drained_) outbox_.push_back(nlohmann::json{{"type", kLineStop}}.dump());
}

// Without ranks lines wait only as part of the answers that are open.
void Backend::send_outbox() {
  std::deque<std::string> lines;
  {
    const std::lock_guard lock(mutex_);
    lines.swap(outbox_);
  }
  if (!ranks_) return;
  for (const std::string& line : lines) ranks_->send(line);
}

void Backend::take_line(const std::string& text) {
  try {
    const auto line = parse_json(text, "ranks");
    const std::string type = line.value("type", "");
    const std::lock_guard lock(mutex_);
    heard_ = Clock::now();
    const auto find = [&](std::uint64_t id) {
      const auto it = open_.find(id);
      return it == open_.end() ? nullptr : it->second;
    };
    if (type == kLineToken) {
      auto [id, token] = token_of(line);
      const GenerationPtr g = find(id);
      if (!g) return;
      ++status_.given_tokens;
      const std::lock_guard of_one(g->mutex_);
      g->spec_.given.push_back(token.token);
      g->unread_.push_back(std::move(token));
      g->changed_.notify_all();
    } else if (type == kLineEnd) {
      GenerationEnd e = end_of(line);
      if (const GenerationPtr g = find(e.id)) end(g, std::move(e));
    } else if (type == kLineReady) {
      status_.ready = line;
      status_.loaded = true;
      changed_.notify_all();
    } else if (type == kLineStatus) {
      status_.status = line;
    } else if (type == kLineBoards) {
      const JsonObject told(line, "boards");
      status_.boards = told.array_or_empty("boards");
    }
  } catch (const std::exception& e) {
    std::cerr << "gateway: a line of the ranks: " << e.what() << std::endl;
  }
}

void Backend::end(const GenerationPtr& g, GenerationEnd&& e) {
  status_.prompt_tokens += static_cast<std::uint64_t>(e.times.prompt_tokens);
  status_.shared_tokens += static_cast<std::uint64_t>(e.times.shared_tokens);
  status_.drafted_tokens += static_cast<std::uint64_t>(e.times.drafted);
  status_.accepted_tokens += static_cast<std::uint64_t>(e.times.accepted);
  ++(e.error.empty() ? status_.finished : status_.failed);
  open_.erase(e.id);
  if (open_.empty()) quiet_since_ = Clock::now();
  {
    const std::lock_guard of_one(g->mutex_);
    g->end_ = std::move(e);
    g->changed_.notify_all();
  }
  changed_.notify_all();
}

}  // namespace jupiter
