#pragma once
#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "lram/core/text.h"

namespace lram {

/// What went wrong, as the caller sees it; the value is the exit code of the command line.
enum class ErrorKind {
  kCheckFailed = 1,  ///< a check ran and failed
  kUsage = 2,        ///< bad option, config or unknown task
  kInput = 3,        ///< a missing, unreadable or wrong file; findings of `validate`
  kResource = 4,     ///< disk, memory, device
  kInternal = 5,     ///< our own bug
};

/// A failure the caller can meet. The text says where, what was found and what was wanted.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& what) : std::runtime_error(what), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

/// Throws an Error with a text in fmt's format:
///   throw_error(ErrorKind::kInput, "{}: /actions has {} columns, wanted {}", path, got, want);
template <typename... Args>
[[noreturn]] void throw_error(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

namespace internal {
[[noreturn]] void throw_check_failed(const char* file, int line, const char* condition,
                                     const std::string& text);

/// "{}" as often as that.
std::string format_of_parts(std::size_t count);

std::string bracketed(const std::string& text);

/// The part itself, but the text "[2, 3]" for a list of numbers.
template <typename Part>
decltype(auto) printable(const Part& part) {
  if constexpr (requires { part.begin() == part.end(); } &&
                !std::is_convertible_v<Part, std::string_view>)
    return bracketed(joined(part));
  else
    return (part);
}

/// Every part by "{}". Not by fmt::format_to(), which would compile all of fmt's formatters into
/// every file.
template <typename... Parts>
std::string join(const Parts&... parts) {
  return [](const auto&... texts) {
    return fmt::vformat(format_of_parts(sizeof...(texts)), fmt::make_format_args(texts...));
  }(printable(parts)...);
}
}  // namespace internal

/// The known name nearest to `name` by edit distance, or "" when none is near.
std::string nearest_name(const std::string& name, const std::vector<std::string>& known);

}  // namespace lram

/// A caller's contract: throws Error(kUsage) with file and line unless `cond` holds.
///   LRAM_CHECK(n > 0, "num_envs is ", n, ", wanted at least 1");
#define LRAM_CHECK(cond, ...)                                                    \
  do {                                                                           \
    if (!(cond)) [[unlikely]]                                                    \
      ::lram::internal::throw_check_failed(__FILE__, __LINE__, #cond,            \
                                           ::lram::internal::join(__VA_ARGS__)); \
  } while (false)
