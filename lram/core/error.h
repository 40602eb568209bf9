#pragma once
#include <fmt/ostream.h>
#include <fmt/ranges.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

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

template <typename... Parts>
std::string join(const Parts&... parts) {
  std::string text;
  (fmt::format_to(std::back_inserter(text), "{}", parts), ...);
  return text;
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
