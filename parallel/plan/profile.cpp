// Cost curves and the profile's JSON.
#include "parallel/plan/profile.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "io/json_fields.hpp"

namespace jupiter {

using nlohmann::ordered_json;

double CostCurve::at(std::int64_t n) const {
  if (rows.empty() || n <= 0) return 0;
  if (rows.size() == 1) return seconds[0] * static_cast<double>(n) / static_cast<double>(rows[0]);
  std::size_t hi = 1;
  while (hi + 1 < rows.size() && rows[hi] < n) ++hi;
  const double x0 = static_cast<double>(rows[hi - 1]), x1 = static_cast<double>(rows[hi]);
  const double t = (static_cast<double>(n) - x0) / (x1 - x0);
  return std::max(seconds[hi - 1] + t * (seconds[hi] - seconds[hi - 1]), 0.0);
}

double LayerCost::at(std::int64_t n, std::int64_t context) const {
  const auto c = static_cast<double>(context);
  return base.at(n) + c * (per_context_s + per_row_context_s * static_cast<double>(n));
}

double BoardProfile::slice_s(double share, std::int64_t n, std::int64_t context) const {
  const double whole = layer.base.at(n), of_context = layer.at(n, context) - whole;
  const double half = half_layer.empty() ? whole / 2 : std::min(half_layer.at(n), whole);
  return std::max(whole - (1 - share) * 2 * (whole - half), 0.0) + share * of_context;
}

std::optional<GatherCost> Profile::gather_of(int n) const {
  if (gathers.empty()) return std::nullopt;
  return *std::min_element(gathers.begin(), gathers.end(), [&](const GatherCost& a, const GatherCost& b) {
    return std::abs(a.boards - n) < std::abs(b.boards - n);
  });
}

LinkProfile Profile::hop_into(int board) const {
  std::vector<double> latencies, rates;
  for (const LinkProfile& l : links) {
    if (l.to != board) continue;
    latencies.push_back(l.latency_s);
    rates.push_back(l.bytes_per_s);
  }
  if (latencies.empty()) return {-1, board, 0, 1e12};
  const auto middle = static_cast<std::ptrdiff_t>(latencies.size() / 2);
  std::nth_element(latencies.begin(), latencies.begin() + middle, latencies.end());
  std::nth_element(rates.begin(), rates.begin() + middle, rates.end());
  return {-1, board, latencies[middle], rates[middle]};
}

namespace {

constexpr std::size_t kMostBoards = 1024;  // each is compared with every other

ordered_json curve_json(const CostCurve& c) {
  return {{"rows", c.rows}, {"seconds", c.seconds}};
}

CostCurve read_curve(const JsonObject& j) {
  CostCurve c{j.values<std::int64_t>("rows"), j.values<double>("seconds")};
  if (c.rows.size() != c.seconds.size()) {
    j.fail("seconds", std::to_string(c.rows.size()) + " values", std::to_string(c.seconds.size()));
  }
  for (std::size_t i = 0; i < c.rows.size(); ++i) {
    const bool ascending = c.rows[i] > (i == 0 ? 0 : c.rows[i - 1]);
    if (!ascending || !(c.seconds[i] >= 0) || !(c.seconds[i] < 1e6)) {
      j.fail("rows", "ascending rows with times", std::to_string(c.rows[i]));
    }
  }
  return c;
}

ordered_json transfer_json(const TransferCost& c) {
  return {{"message_s", c.message_s}, {"byte_s", c.byte_s}};
}

TransferCost read_transfer(const JsonObject& j) {
  return {j.within<double>("message_s", 0, 10), j.within<double>("byte_s", 0, 1)};
}

ordered_json board_json(const BoardProfile& b) {
  return {{"host", b.host},
          {"slot", b.slot},
          {"threads", b.threads},
          {"kernels", b.kernels},
          {"memory_bytes", b.memory_bytes},
          {"spread", b.spread},
          {"layer",
           {{"base", curve_json(b.layer.base)},
            {"per_context_s", b.layer.per_context_s},
            {"per_row_context_s", b.layer.per_row_context_s},
            {"fit_error", b.layer.fit_error}}},
          {"half_layer", curve_json(b.half_layer)},
          {"embedding", curve_json(b.embedding)},
          {"head", curve_json(b.output_head)},
          {"score_s", b.score_s},
          {"send", transfer_json(b.send)},
          {"receive", transfer_json(b.receive)},
          {"wake_s", b.wake_s}};
}

BoardProfile read_board(const JsonObject& j) {
  BoardProfile b;
  b.host = j.string("host");
  b.slot = j.within<int>("slot", 0, 4096);
  b.threads = j.within<int>("threads", 1, 4096);
  b.kernels = j.string("kernels");
  b.memory_bytes = j.within<std::uint64_t>("memory_bytes", 0, std::uint64_t{1} << 50);
  b.spread = j.within<double>("spread", 0, 1e6);
  const JsonObject layer = j.object("layer");
  b.layer.base = read_curve(layer.object("base"));
  b.layer.per_context_s = layer.within<double>("per_context_s", 0, 10);
  b.layer.per_row_context_s = layer.within<double>("per_row_context_s", 0, 10);
  b.layer.fit_error = layer.within<double>("fit_error", 0, 1e6);
  if (b.layer.base.empty()) j.fail("layer", "measured times", "none");
  b.half_layer = read_curve(j.object("half_layer"));
  b.embedding = read_curve(j.object("embedding"));
  b.output_head = read_curve(j.object("head"));
  b.score_s = j.within<double>("score_s", 0, 10);
  b.send = read_transfer(j.object("send"));
  b.receive = read_transfer(j.object("receive"));
  b.wake_s = j.within<double>("wake_s", 0, 10);
  return b;
}

}  // namespace

std::string to_json(const Profile& p) {
  ordered_json boards = ordered_json::array(), links = ordered_json::array(), gathers = ordered_json::array();
  for (const GatherCost& g : p.gathers) {
    gathers.push_back({{"boards", g.boards}, {"latency_s", g.latency_s}, {"byte_s", g.byte_s}});
  }
  for (const BoardProfile& b : p.boards) boards.push_back(board_json(b));
  for (const LinkProfile& l : p.links) {
    links.push_back({{"from", l.from}, {"to", l.to}, {"latency_s", l.latency_s}, {"bytes_per_s", l.bytes_per_s}});
  }
  const ordered_json all = {{"creator", "jupiter"}, {"kind", "profile"},          {"format", kProfileFormat},
                            {"version", p.version}, {"model_hash", p.model_hash}, {"boards", boards},
                            {"links", links},       {"gathers", gathers}};
  return all.dump(1) + "\n";
}

Profile parse_profile(const std::string& text, const std::string& file) {
  const JsonObject j = parse_json_object(text, file);
  if (j.string("kind") != "profile") {
    throw FormatError(file, "kind", "profile (jupiter profile writes it)", j.string("kind"));
  }
  const std::int64_t format = j.find_int("format").value_or(1);
  if (format != kProfileFormat) {
    throw FormatError(file, "format", fmt::format("{} (measure again with this jupiter profile)", kProfileFormat),
                      std::to_string(format));
  }
  Profile p;
  p.version = j.string("version");
  p.model_hash = j.string("model_hash");
  for (const JsonObject& b : j.objects("boards")) p.boards.push_back(read_board(b));
  if (p.boards.size() > kMostBoards) {
    throw FormatError(file, "boards", fmt::format("at most {}", kMostBoards), std::to_string(p.boards.size()));
  }
  const int n = static_cast<int>(p.boards.size());
  if (n == 0) throw FormatError(file, "boards", "at least one", "none");
  for (int a = 0; a < n; ++a) {
    for (int b = 0; b < a; ++b) {
      if (p.boards[a].host == p.boards[b].host && p.boards[a].slot == p.boards[b].slot) {
        throw FormatError(file, "boards", "every host and slot once", p.boards[a].host + " twice");
      }
    }
  }
  for (const JsonObject& l : j.objects("links")) {
    p.links.push_back({l.within<int>("from", 0, n - 1), l.within<int>("to", 0, n - 1),
                       l.within<double>("latency_s", 0, 1e3), l.within<double>("bytes_per_s", 1, 1e15)});
  }
  if (std::ssize(p.links) > std::int64_t{n} * n) {
    throw FormatError(file, "links", fmt::format("at most {}, one for each pair", std::int64_t{n} * n),
                      std::to_string(p.links.size()));
  }
  for (const JsonObject& g : j.objects("gathers")) {
    p.gathers.push_back(
        {g.within<int>("boards", 2, 4096), g.within<double>("latency_s", 0, 1e3), g.within<double>("byte_s", 0, 1)});
  }
  if (n > 1) {
    for (int b = 0; b < n; ++b) {
      if (p.hop_into(b).bytes_per_s >= 1e12)
        throw FormatError(file, "links", "links to every board", "none to " + p.boards[b].host);
    }
  }
  return p;
}

std::size_t leave_out(Profile& profile, const std::string& host) {
  std::vector<int> place;  // after this, by place before; -1: out
  std::vector<BoardProfile> kept;
  for (const BoardProfile& b : profile.boards) {
    place.push_back(b.host == host ? -1 : static_cast<int>(kept.size()));
    if (b.host != host) kept.push_back(b);
  }
  std::vector<LinkProfile> links;
  for (LinkProfile l : profile.links) {
    l.from = place[l.from];
    l.to = place[l.to];
    if (l.from >= 0 && l.to >= 0) links.push_back(l);
  }
  const std::size_t removed = profile.boards.size() - kept.size();
  profile.boards = std::move(kept);
  profile.links = std::move(links);
  return removed;
}

}  // namespace jupiter
