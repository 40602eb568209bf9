// The functions of the fmt that lies in LibTorch's wheel as headers alone. With FMT_HEADER_ONLY every file that throws
// an Error would compile all of them again, 4 to 6 s of a core.
#include <fmt/format-inl.h>

namespace fmt {
template auto locale_ref::get<std::locale>() const -> std::locale;
namespace detail {
template auto thousands_sep_impl<char>(locale_ref) -> thousands_sep_result<char>;
template auto decimal_point_impl(locale_ref) -> char;
template auto dragonbox::to_decimal(float) noexcept -> dragonbox::decimal_fp<float>;
template auto dragonbox::to_decimal(double) noexcept -> dragonbox::decimal_fp<double>;
}  // namespace detail
}  // namespace fmt
