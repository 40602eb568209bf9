#include "lram/core/json.h"

#include <istream>
#include <nlohmann/json.hpp>

namespace lram {
using nlohmann::json;

json parse_json(std::string_view text) { return json::parse(text); }

json parse_json(std::istream& text) { return json::parse(text); }

json parse_json_or_discard(std::string_view text) {
  return json::parse(text, nullptr, /*allow_exceptions=*/false);
}

std::string json_text(const json& value, int indent) { return value.dump(indent); }

}  // namespace lram
