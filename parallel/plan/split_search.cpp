// For a cap on max_r v_r, dynamic programming over (boards looked at, ends of the pipeline taken, layers dealt out)
// gives the least sum_r u_r:
//   sum(b + 1, ends + role, done + k) = min over role and k of sum(b, ends, done) + u_b(role, k)  where v_b(role, k) <=
//   cap.
// The least sum falls as the cap rises. So the least sum of the highest cap of an interval bounds the cost of the whole
// interval from below. The interval with the least bound is halved until none can beat the best split that was found.
#include "parallel/plan/split_search.hpp"

#include <algorithm>
#include <limits>
#include <queue>

namespace jupiter {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::size_t kEnds = 4;  // sets of the pipeline's ends that are taken, as bits of a Role
constexpr std::size_t kBothEnds = 3;

class SplitSearch {
 public:
  SplitSearch(std::span<const BoardCost> boards, std::int64_t n_layers, double weight)
      : boards_(boards),
        n_layers_(n_layers),
        weight_(weight),
        table_((boards.size() + 1) * kEnds * static_cast<std::size_t>(n_layers + 1)) {}

  std::optional<FoundSplit> run() {
    const std::vector<double> caps = all_caps();
    if (caps.empty()) return std::nullopt;
    const Solution free = solve(caps.back());
    if (free.sum == kInfinity) return std::nullopt;
    std::priority_queue<Interval> open;
    const auto add = [&](std::size_t first, std::size_t end, double least_sum) {
      if (first >= end) return;
      const Interval i{first, end, least_sum, least_sum + weight_ * caps[first]};
      if (i.bound < best_.cost) open.push(i);
    };
    const auto place = [&](double cap) {
      return static_cast<std::size_t>(std::lower_bound(caps.begin(), caps.end(), cap) - caps.begin());
    };
    add(0, place(free.max), free.sum);  // a larger cap than the slowest stage needs changes nothing
    while (!open.empty() && open.top().bound < best_.cost) {
      const Interval i = open.top();
      open.pop();
      const std::size_t middle = (i.first + i.end) / 2;
      const Solution s = solve(caps[middle]);
      if (s.sum < kInfinity) add(i.first, std::min(middle, place(s.max)), s.sum);
      add(middle + 1, i.end, i.least_sum);
    }
    return best_;
  }

 private:
  struct Step {
    double sum = kInfinity;
    std::int32_t layers = 0;  // that the board took; 0 where it stays out
    Role role = Role::between;
  };
  struct Solution {
    double sum = kInfinity;
    double max = 0;  // of its stages' v
  };
  // Caps with indices [first, end), which are not solved yet. None of them allows a smaller sum than least_sum.
  struct Interval {
    std::size_t first, end;
    double least_sum, bound;
    bool operator<(const Interval& other) const { return bound > other.bound; }  // the least bound on top
  };

  std::vector<double> all_caps() const {
    std::vector<double> caps;
    for (const BoardCost& b : boards_) {
      for (const BoardCost::Standing& s : b.roles) {
        for (std::int64_t k = 1; k <= std::min(s.most_layers, n_layers_); ++k) caps.push_back(s.max.at(k));
      }
    }
    std::sort(caps.begin(), caps.end());
    caps.erase(std::unique(caps.begin(), caps.end()), caps.end());
    return caps;
  }

  Step* row(std::size_t board, std::size_t ends) {
    return &table_[(board * kEnds + ends) * static_cast<std::size_t>(n_layers_ + 1)];
  }

  // Layers that the board may take without passing the cap.
  std::int64_t most_under(const BoardCost::Standing& s, double cap) const {
    std::int64_t low = 0, high = std::min(s.most_layers, n_layers_);
    while (low < high) {
      const std::int64_t k = (low + high + 1) / 2;
      if (s.max.at(k) <= cap) {
        low = k;
      } else {
        high = k - 1;
      }
    }
    return low;
  }

  void take(std::size_t board, std::size_t ends, Role role, double cap) {
    const BoardCost::Standing& s = boards_[board].as(role);
    const std::int64_t most = most_under(s, cap);
    const Step* from = row(board, ends);
    Step* to = row(board + 1, ends | index_of(role));
    for (std::int64_t done = 0; done < n_layers_; ++done) {
      if (from[done].sum == kInfinity) continue;
      const std::int64_t end = std::min(most, n_layers_ - done);
      for (std::int64_t k = role == Role::alone ? n_layers_ : 1; k <= end; ++k) {
        const double sum = from[done].sum + s.sum.at(k);
        if (sum < to[done + k].sum) to[done + k] = {sum, static_cast<std::int32_t>(k), role};
      }
    }
  }

  // The least sum with no stage over the cap. Its split becomes the best one so far if it costs less.
  Solution solve(double cap) {
    std::fill(table_.begin(), table_.end(), Step{});
    row(0, 0)[0].sum = 0;
    for (std::size_t b = 0; b < boards_.size(); ++b) {
      for (std::size_t ends = 0; ends < kEnds; ++ends) {
        if (!boards_[b].needed) {
          for (std::int64_t done = 0; done <= n_layers_; ++done) {
            Step& to = row(b + 1, ends)[done];
            const double sum = row(b, ends)[done].sum;
            if (sum < to.sum) to = {sum, 0, Role::between};
          }
        }
        for (const Role role : {Role::between, Role::last, Role::first, Role::alone}) {
          if ((ends & index_of(role)) == 0) take(b, ends, role, cap);
        }
      }
    }
    ++best_.solved;
    Solution s{row(boards_.size(), kBothEnds)[n_layers_].sum, 0};
    if (s.sum == kInfinity) return s;
    const Split split = trace_back(s.max);
    if (s.sum + weight_ * s.max < best_.cost) {
      best_.cost = s.sum + weight_ * s.max;
      best_.split = split;
    }
    return s;
  }

  Split trace_back(double& slowest) {
    Split between;
    int first = -1, last = -1;
    std::int64_t first_layers = 0, last_layers = 0;
    std::size_t ends = kBothEnds;
    std::int64_t done = n_layers_;
    for (std::size_t b = boards_.size(); b-- > 0;) {
      const Step step = row(b + 1, ends)[done];
      if (step.layers == 0) continue;
      slowest = std::max(slowest, boards_[b].as(step.role).max.at(step.layers));
      done -= step.layers;
      ends &= ~static_cast<std::size_t>(step.role);
      const int board = static_cast<int>(b);
      if (step.role == Role::alone) return {{board}, {step.layers}};
      if (step.role == Role::first) {
        first = board;
        first_layers = step.layers;
      } else if (step.role == Role::last) {
        last = board;
        last_layers = step.layers;
      } else {
        between.boards.push_back(board);
        between.layers.push_back(step.layers);
      }
    }
    Split split{{first}, {first_layers}};
    split.boards.insert(split.boards.end(), between.boards.rbegin(), between.boards.rend());
    split.layers.insert(split.layers.end(), between.layers.rbegin(), between.layers.rend());
    split.boards.push_back(last);
    split.layers.push_back(last_layers);
    return split;
  }

  std::span<const BoardCost> boards_;
  std::int64_t n_layers_;
  double weight_;
  std::vector<Step> table_;  // [boards + 1][kEnds][layers + 1]
  FoundSplit best_{{}, kInfinity, 0};
};

}  // namespace

std::optional<FoundSplit> search_split(std::span<const BoardCost> boards, std::int64_t n_layers, double weight) {
  return SplitSearch(boards, n_layers, weight).run();
}

}  // namespace jupiter
