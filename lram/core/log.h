#pragma once
#include <fmt/core.h>

#include <cstdio>
#include <string>

namespace lram {
namespace internal {
/// Writes one line to stderr, above a progress bar if one is shown. Thread-safe.
void log_line(const std::string& line);

template <typename Value, typename... Rest>
void append_pairs(std::string& line, const char* key, const Value& value, const Rest&... rest) {
  line += fmt::format(" {}={}", key, value);
  if constexpr (sizeof...(rest) > 0) append_pairs(line, rest...);
}
inline void append_pairs(std::string&) {}
}  // namespace internal

/// One line of key=value pairs on stderr: log_info("train", "step", 10, "loss", 0.5).
template <typename... Pairs>
void log_info(const char* where, const Pairs&... pairs) {
  std::string line(where);
  internal::append_pairs(line, pairs...);
  internal::log_line(line);
}

/// The same with "warning:" in front; the first value is usually a sentence.
template <typename... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  internal::log_line("warning: " + fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace lram
