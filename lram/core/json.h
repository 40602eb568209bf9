#pragma once
#include <iosfwd>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

// nlohmann's parser and writer, compiled once: json::parse() and dump() cost each file that calls
// them 2.5 s of a core.
namespace lram {

/// json::parse(): throws json::exception at a text that is none.
nlohmann::json parse_json(std::string_view text);
nlohmann::json parse_json(std::istream& text);

/// The same, but json's value `discarded` for a text that is none.
nlohmann::json parse_json_or_discard(std::string_view text);

/// json::dump(): on one line, or with members on lines of their own, indented by that many spaces.
std::string json_text(const nlohmann::json& value, int indent = -1);

}  // namespace lram
