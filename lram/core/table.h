#pragma once
#include <fmt/core.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace lram {

/// Rows under a header, two spaces apart; a column whose cells all begin like numbers is aligned to
/// the right.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  /// As many cells as the header has.
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

  std::string text() const {
    std::string out;
    for (const auto& row : rows_) {
      std::string line;
      for (std::size_t i = 0; i < row.size(); ++i) {
        const std::size_t width = column_width(i);
        line += is_number_column(i) ? fmt::format("{:>{}}  ", row[i], width)
                                    : fmt::format("{:<{}}  ", row[i], width);
      }
      out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
    }
    return out;
  }

 private:
  std::size_t column_width(std::size_t i) const {
    std::size_t width = 0;
    for (const auto& row : rows_) width = std::max(width, row[i].size());
    return width;
  }
  bool is_number_column(std::size_t i) const {
    return std::all_of(rows_.begin() + 1, rows_.end(), [&](const auto& row) {
      return !row[i].empty() &&
             std::string_view("-0123456789").find(row[i][0]) != std::string::npos;
    });
  }

  std::vector<std::vector<std::string>> rows_;
};

/// "812 B", "1.4 MB".
inline std::string format_bytes(std::uint64_t bytes) {
  if (bytes < 1000) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / 1000.0;
  for (const char* unit : {"kB", "MB", "GB"}) {
    if (value < 999.95) return fmt::format("{:.1f} {}", value, unit);
    value /= 1000.0;
  }
  return fmt::format("{:.1f} TB", value);
}

}  // namespace lram
