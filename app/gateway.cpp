// jupiter gateway: the HTTP side of a server. It holds what must outlive the ranks: connections, requests, and the
// tokens that were given.
#include <fmt/format.h>
#include <malloc.h>

#include <csignal>
#include <cstdlib>

#include <filesystem>
#include <iostream>
#include <sstream>

#include "app/command.hpp"
#include "app/gateway/page.hpp"
#include "app/gateway/routes.hpp"
#include "app/prompt.hpp"
#include "app/result_info.hpp"
#include "io/files.hpp"
#include "io/hash.hpp"
#include "io/model/model_files.hpp"

namespace jupiter {

namespace {

struct GatewayOptions {
  void declare(OptionSet& options);

  std::string model, alias, socket, rank_address, host = "127.0.0.1", api_key, api_key_file, cors, template_name;
  bool page = true, raw = false;
  std::int64_t port = 8080, context_tokens = 0, queue = 256, timeout_s = 600, grace_s = 30;
  std::int64_t body_mib = 16, connections = 256;
  SamplingOptions sampling;
  ReasoningUse reasoning = ReasoningUse::show;
};

void GatewayOptions::declare(OptionSet& options) {
  // clang-format off
  options.group("Server");
  options.text("m,model", model, "DIR", "Model folder: its tokenizer and chat template are read");
  options.text("alias", alias, "NAME", "Names of the model for clients, with commas between them (default: the folder's)");
  options.text("socket", socket, "PATH", "Unix socket for the ranks (`jupiter serve`), in a folder of mode 0700");
  options.text("rank-address", rank_address, "ADDRESS", "Ranks may also connect to a port of this address, which whoever starts them is told; they need the token of JUPITER_RANK_TOKEN");
  options.text("host", host, "ADDRESS", "Address to listen at");
  options.number("port", port, {0, 65535}, "N", "Port to listen at; 0: one that is free, printed");
  options.text("api-key", api_key, "KEY", "Clients must send it (Authorization: Bearer KEY); several with commas");
  options.text("api-key-file", api_key_file, "FILE", "Such keys, one a line");
  options.text("cors", cors, "ORIGIN", "Web pages of this origin may ask (* for any; default: none)");
  options.flag("no-page", page, "Do not serve the web page at /");
  options.text("chat-template", template_name, "NAME", "Template to use instead of the model's: " + ChatTemplate::names());
  options.flag("raw", raw, "No chat template: /v1/chat/completions answers with an error");
  declare_reasoning(options, reasoning, "shown, it is the field reasoning_content");
  options.number("c,ctx-size", context_tokens, {1, kMostTokens}, "N", "Context, tokens (default: the model's)");
  options.number("queue", queue, {1, 1 << 20}, "N", "Answers under way at most, waiting ones included; beyond them 429");
  options.number("timeout", timeout_s, {1, INT32_MAX}, "S", "Seconds that an answer may take; then 504, or an error event");
  options.number("grace", grace_s, {0, INT32_MAX}, "S", "Seconds that answers under way get to end after SIGTERM");
  options.number("max-body", body_mib, {1, 1024}, "MIB", "Size of a request's body at most; beyond it 413");
  options.number("connections", connections, {1, 65536}, "N", "Connections at most; beyond them 503");
  // clang-format on
  declare_sampling(options, "Sampling, where a request does not say it", sampling);
}

// Parts that are not empty.
std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, separator);) {
    if (!part.empty() && part.back() == '\r') part.pop_back();
    if (!part.empty()) parts.push_back(part);
  }
  return parts;
}

std::vector<std::string> read_keys(const GatewayOptions& o) {
  std::vector<std::string> keys = split(o.api_key, ',');
  if (!o.api_key_file.empty()) {
    const std::vector<std::string> more = split(read_file(o.api_key_file, 1 << 20), '\n');
    keys.insert(keys.end(), more.begin(), more.end());
    if (keys.empty()) throw FormatError(o.api_key_file, "keys", "at least one line", "none");
  }
  return keys;
}

std::string folder_name(const std::string& folder) {
  const std::filesystem::path path = std::filesystem::absolute(folder).lexically_normal();
  return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
}

// None where the model has none, or is to be used without. UsageError where it has one that is not known: its answers
// would be of a form that it was not trained on.
std::optional<ChatTemplate> find_template(const Tokenizer& tokenizer, const GatewayOptions& o) {
  const bool none = o.template_name.empty() && tokenizer.data().chat_template.empty();
  if (!o.raw && !none) return choose_template(tokenizer, o.template_name);
  std::cerr << "gateway: no chat template; /v1/chat/completions answers with an error" << std::endl;
  return std::nullopt;
}

// Every connection has a thread, and with an arena for each the allocator keeps the most that each ever had: in an hour
// of load the gateway grew from 28 to 38 MiB. With two arenas it stays below 22 MiB, and answers as many requests.
void use_few_arenas() {
  ::mallopt(M_ARENA_MAX, 2);
}

// Waits for a signal, then lets answers end.
void end_on_signal(HttpServer& server, Backend& backend, std::chrono::seconds grace, const std::atomic<bool>& ended) {
  while (interrupted_by() == ExitCode::ok && !ended) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  backend.drain(grace);
  // What has ended is still to be written.
  server.wait_until_idle(std::chrono::seconds(2));
  server.stop();
}

}  // namespace

ExitCode gateway_command(const MpiSession& mpi, const Arguments& arguments) {
  GatewayOptions o;
  OptionSet set("gateway", "The HTTP side of a server: OpenAI's API. `jobs/jupiter-serve` starts it, and the ranks.");
  o.declare(set);
  if (!set.parse(mpi, arguments)) return ExitCode::ok;
  expect_one_rank(mpi, "gateway");
  use_few_arenas();
  if (o.model.empty() || o.socket.empty()) throw UsageError("gateway: expected -m DIR and --socket PATH (see --help)");
  const Manifest manifest = read_manifest(o.model);
  const Tokenizer tokenizer(load_tokenizer(o.model, manifest, true));
  const std::optional<ChatTemplate> chat_template = find_template(tokenizer, o);
  const char* token = std::getenv(kTokenVariable);
  Backend backend({o.socket, o.rank_address, token != nullptr ? token : ""}, static_cast<std::size_t>(o.queue));
  GatewayContext context;
  context.model_names = split(o.alias.empty() ? folder_name(o.model) : o.alias, ',');
  context.fingerprint = fmt::format("b{}-{}", JUPITER_VERSION, hex(manifest.hash));
  context.created =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  context.context_tokens =
      o.context_tokens > 0 ? std::min(o.context_tokens, manifest.config.max_seq_len) : manifest.config.max_seq_len;
  context.sampling = o.sampling;
  context.timeout = std::chrono::seconds(o.timeout_s);
  context.tokenizer = &tokenizer;
  context.chat_template = chat_template ? &*chat_template : nullptr;
  if (chat_template) context.reasoning = reasoning_form(tokenizer);
  context.hides_reasoning = o.reasoning == ReasoningUse::hide;
  context.backend = &backend;

  HttpLimits limits;
  limits.connections = static_cast<std::size_t>(o.connections);
  limits.body_bytes = static_cast<std::size_t>(o.body_mib) << 20;
  HttpServer server(limits, read_keys(o), o.cors);
  add_routes(server, context);
  if (o.page) add_page(server);
  const int port = server.bind(o.host, static_cast<int>(o.port));
  std::cout << fmt::format("http://{}:{}", o.host, port) << std::endl;
  std::atomic<bool> ended{false};
  std::thread watcher([&] { end_on_signal(server, backend, std::chrono::seconds(o.grace_s), ended); });
  server.serve();
  ended = true;
  watcher.join();
  return interrupted_by();
}

}  // namespace jupiter
