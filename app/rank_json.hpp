// How reports name what each rank did.
#pragma once

#include <nlohmann/json.hpp>

#include "parallel/pipeline/pipeline.hpp"

namespace jupiter {

inline nlohmann::ordered_json rank_json(const RankReport& r) {
  nlohmann::ordered_json j = {{"rank", r.rank},
                              {"host", r.host},
                              {"first_layer", r.first_layer},
                              {"last_layer", r.last_layer},
                              {"weight_bytes", r.weight_bytes},
                              {"kv_bytes", r.kv_bytes},
                              {"peak_rss_bytes", r.peak_rss_bytes},
                              {"compute_s", r.compute_s},
                              {"wait_s", r.wait_s},
                              {"sent_bytes", r.sent_bytes}};
  if (r.gathers > 0) {
    j["gathers"] = r.gathers;
    j["gather_wait_s"] = r.gather_wait_s;
  }
  return j;
}

}  // namespace jupiter
