#pragma once
#include <string>
#include <string_view>
#include <type_traits>

namespace lram {

/// The elements' texts with `between` between them: "2, 3, 4". What fmt::join() gives for strings
/// and whole numbers, without compiling fmt's formatters into the file that asks.
template <typename Range>
std::string joined(const Range& range, std::string_view between = ", ") {
  std::string text;
  bool first = true;
  for (const auto& element : range) {
    if (!first) text += between;
    first = false;
    if constexpr (std::is_convertible_v<decltype(element), std::string_view>)
      text += std::string_view(element);
    else
      text += std::to_string(element);
  }
  return text;
}

}  // namespace lram
