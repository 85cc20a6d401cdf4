#include "app/gateway/openapi.hpp"

#include "app/gateway/embedded.hpp"
#include "io/json_fields.hpp"

namespace jupiter {

std::string openapi_document(const GatewayContext& context, bool has_keys) {
  const EmbeddedFile& file = api_files().front();
  auto document = parse_json<nlohmann::ordered_json>(file.plain, file.name);
  document["info"]["version"] = JUPITER_VERSION;
  auto& schemas = document["components"]["schemas"];
  auto& names = schemas["ModelName"]["enum"] = {"", nullptr};
  for (const std::string& name : context.model_names) names.push_back(name);
  schemas["TokenId"]["maximum"] = context.tokenizer->vocab_size() - 1;
  if (!has_keys) document["security"] = nlohmann::ordered_json::array();
  return document.dump();
}

}  // namespace jupiter
