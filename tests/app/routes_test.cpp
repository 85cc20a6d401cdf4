// The routes of the API against its description (app/gateway/openapi.json).
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>

#include "app/gateway/openapi.hpp"
#include "app/gateway/routes.hpp"
#include "io/json_fields.hpp"

namespace jupiter {
namespace {

// Method and path of each operation.
using Operations = std::vector<std::string>;

// A path is described there, or in a part that it names.
const nlohmann::json& resolved(const nlohmann::json& document, const nlohmann::json& path) {
  if (!path.contains("$ref")) return path;
  return document.at(nlohmann::json::json_pointer(path["$ref"].get<std::string>().substr(1)));
}

Operations described(const nlohmann::json& document) {
  Operations all;
  for (const auto& [path, item] : document["paths"].items()) {
    for (const auto& [method, operation] : resolved(document, item).items()) {
      std::string name = method;
      std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::toupper(c); });
      all.push_back(name + " " + path);
    }
  }
  return all;
}

class Routes : public testing::Test {
 protected:
  Routes() : tokenizer_(data()), server_({}, {}, "") {
    context_.model_names = {"one", "two"};
    context_.tokenizer = &tokenizer_;
    add_routes(server_, context_);
  }
  static TokenizerData data() {
    TokenizerData d;
    d.tokens = {"a", "b", "c"};
    d.types.assign(3, TokenType::normal);
    return d;
  }
  nlohmann::json document(bool has_keys) const {
    return parse_json(openapi_document(context_, has_keys), "openapi.json");
  }

  Tokenizer tokenizer_;
  GatewayContext context_;
  HttpServer server_;
};

TEST_F(Routes, AllAreDescribedAndNoOthers) {
  Operations routes;
  for (const auto& [path, methods] : server_.routes()) {
    for (const std::string& method : methods) routes.push_back(method + " " + path);
  }
  Operations in_document = described(document(false));
  std::sort(routes.begin(), routes.end());
  std::sort(in_document.begin(), in_document.end());
  EXPECT_EQ(in_document, routes);
}

TEST_F(Routes, TheDescriptionIsThisServers) {
  const nlohmann::json open = document(false), closed = document(true);
  EXPECT_EQ(open["components"]["schemas"]["ModelName"]["enum"], nlohmann::json({"", nullptr, "one", "two"}));
  EXPECT_EQ(open["components"]["schemas"]["TokenId"]["maximum"], 2);
  EXPECT_TRUE(open["security"].empty());
  EXPECT_EQ(closed["security"].size(), 1u);
  EXPECT_EQ(open["info"]["version"], JUPITER_VERSION);
}

}  // namespace
}  // namespace jupiter
