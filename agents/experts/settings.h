#pragma once
#include <charconv>
#include <string>
#include <vector>

#include "lram/core/error.h"
#include "lram/core/options.h"
#include "lram/core/text.h"

namespace lram::agents::experts {
// A config struct takes part by a function for_each_setting(config, visit) that calls
// visit(name, member) for every setting, in the order of the struct.

/// "name=value,name=value" of every setting.
template <typename Config>
std::string settings_text(Config config) {
  std::string text;
  for_each_setting(config, [&](const char* name, const auto& value) {
    text += fmt::format("{}{}={}", text.empty() ? "" : ",", name, value);
  });
  return text;
}

/// Applies `changes`, text of the same form. Throws Error(kUsage) on an unknown name, with the
/// nearest known one, and on a value that is no number.
template <typename Config>
void change_settings(Config& config, const std::string& changes) {
  if (changes.empty()) return;
  for (const std::string& change : split_list(changes, "--settings")) {
    const auto equals = change.find('=');
    const std::string wanted = change.substr(0, equals);
    const std::string text = equals == std::string::npos ? "" : change.substr(equals + 1);
    std::vector<std::string> known;
    bool found = false;
    for_each_setting(config, [&](const char* name, auto& value) {
      known.push_back(name);
      if (wanted != name) return;
      found = true;
      const char* last = text.data() + text.size();
      const auto [end, error] = std::from_chars(text.data(), last, value);
      if (error != std::errc() || end != last)
        throw_error(ErrorKind::kUsage, "--settings {}: '{}' is no value, wanted {}=NUMBER", wanted,
                    text, wanted);
    });
    if (found) continue;
    const std::string near = nearest_name(wanted, known);
    throw_error(ErrorKind::kUsage, "--settings: unknown setting '{}', {}", wanted,
                near.empty() ? fmt::format("known are {}", joined(known))
                             : fmt::format("did you mean '{}'?", near));
  }
}

/// Throws Error(kUsage) unless `holds`; `wanted` says what a setting must satisfy.
inline void require_setting(bool holds, const char* wanted) {
  if (!holds) throw_error(ErrorKind::kUsage, "--settings: wanted {}", wanted);
}

}  // namespace lram::agents::experts
