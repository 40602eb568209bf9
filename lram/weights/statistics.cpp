#include "lram/weights/statistics.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "lram/core/error.h"

namespace lram::weights {
namespace {
/// IEEE half precision -> float, exact.
double half_value(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const double mantissa = bits & 1023;
  double value = 0.0;
  if (exponent == 31)
    value = mantissa == 0.0 ? std::numeric_limits<double>::infinity()
                            : std::numeric_limits<double>::quiet_NaN();
  else if (exponent == 0)
    value = std::ldexp(mantissa, -24);
  else
    value = std::ldexp(mantissa + 1024.0, exponent - 25);
  return (bits & 0x8000) != 0 ? -value : value;
}

double bfloat_value(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

/// Calls visit(double) for every value; the data may be unaligned.
template <typename Stored, typename Convert, typename Visit>
void each(std::span<const std::byte> data, const Convert& convert, const Visit& visit) {
  for (std::size_t at = 0; at + sizeof(Stored) <= data.size(); at += sizeof(Stored)) {
    Stored value;
    std::memcpy(&value, data.data() + at, sizeof(Stored));
    visit(static_cast<double>(convert(value)));
  }
}

template <typename Visit>
void each_value(const TensorEntry& tensor, const Visit& visit) {
  const auto as_is = [](auto value) { return value; };
  switch (tensor.dtype) {
    case Dtype::kBool:
    case Dtype::kU8:
      return each<std::uint8_t>(tensor.data, as_is, visit);
    case Dtype::kI8:
      return each<std::int8_t>(tensor.data, as_is, visit);
    case Dtype::kI16:
      return each<std::int16_t>(tensor.data, as_is, visit);
    case Dtype::kU16:
      return each<std::uint16_t>(tensor.data, as_is, visit);
    case Dtype::kF16:
      return each<std::uint16_t>(tensor.data, half_value, visit);
    case Dtype::kBF16:
      return each<std::uint16_t>(tensor.data, bfloat_value, visit);
    case Dtype::kI32:
      return each<std::int32_t>(tensor.data, as_is, visit);
    case Dtype::kU32:
      return each<std::uint32_t>(tensor.data, as_is, visit);
    case Dtype::kF32:
      return each<float>(tensor.data, as_is, visit);
    case Dtype::kF64:
      return each<double>(tensor.data, as_is, visit);
    case Dtype::kI64:
      return each<std::int64_t>(tensor.data, as_is, visit);
    case Dtype::kU64:
      return each<std::uint64_t>(tensor.data, as_is, visit);
  }
  throw_error(ErrorKind::kInternal, "tensor '{}' has no known type", tensor.name);
}
}  // namespace

TensorStatistics compute_statistics(const TensorEntry& tensor) {
  TensorStatistics out;
  out.min = std::numeric_limits<double>::infinity();
  out.max = -out.min;
  double sum = 0.0;
  each_value(tensor, [&](double value) {
    ++out.count;
    if (!std::isfinite(value)) {
      ++out.non_finite;
      return;
    }
    out.min = std::min(out.min, value);
    out.max = std::max(out.max, value);
    sum += value;
  });
  const std::uint64_t finite = out.count - out.non_finite;
  if (finite == 0)
    out.min = out.max = 0.0;
  else
    out.mean = sum / static_cast<double>(finite);
  return out;
}

std::uint64_t count_non_finite(const TensorEntry& tensor) {
  std::uint64_t count = 0;
  if (is_floating(tensor.dtype))
    each_value(tensor, [&](double value) { count += std::isfinite(value) ? 0 : 1; });
  return count;
}

}  // namespace lram::weights
