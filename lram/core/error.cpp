#include "lram/core/error.h"

#include <algorithm>
#include <numeric>
#include <string_view>

namespace lram {
namespace internal {
std::string format_of_parts(std::size_t count) {
  std::string format;
  for (std::size_t i = 0; i < count; ++i) format += "{}";
  return format;
}

std::string bracketed(const std::string& text) { return "[" + text + "]"; }

void throw_check_failed(const char* file, int line, const char* condition,
                        const std::string& text) {
  std::string_view path(file);
  // Builds compile with absolute paths; what a reader needs starts at the source root.
  for (const char* top : {"/lram/", "/envs/", "/datasets/", "/agents/", "/eval/", "/kernels/"}) {
    if (auto at = path.rfind(top); at != std::string_view::npos) {
      path.remove_prefix(at + 1);
      break;
    }
  }
  throw_error(ErrorKind::kUsage, "{} ({}:{}: {})", text, path, line, condition);
}
}  // namespace internal

namespace {
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}
}  // namespace

std::string nearest_name(const std::string& name, const std::vector<std::string>& known) {
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(2, name.size() / 2) + 1;
  for (const std::string& candidate : known) {
    const std::size_t distance = edit_distance(name, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}
}  // namespace lram
