#include "lram/weights/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace lram::weights::statistics_test {
namespace {

template <typename Value>
TensorStatistics statistics(Dtype dtype, const std::vector<Value>& values) {
  return compute_statistics({"a", dtype, {std::ssize(values)}, std::as_bytes(std::span(values))});
}

TEST(Statistics, OfFloats) {
  const TensorStatistics s = statistics<float>(Dtype::kF32, {1.0f, -3.0f, 8.0f});
  EXPECT_EQ(s.count, 3u);
  EXPECT_EQ(s.non_finite, 0u);
  EXPECT_EQ(s.min, -3.0);
  EXPECT_EQ(s.max, 8.0);
  EXPECT_EQ(s.mean, 2.0);
}

TEST(Statistics, LeaveOutWhatIsNotFinite) {
  const double inf = std::numeric_limits<double>::infinity();
  const TensorStatistics s = statistics<double>(Dtype::kF64, {inf, NAN, 4.0, -inf});
  EXPECT_EQ(s.non_finite, 3u);
  EXPECT_EQ(s.min, 4.0);
  EXPECT_EQ(s.mean, 4.0);
}

TEST(Statistics, OfHalves) {
  // 1, -2, 65504, smallest subnormal 2^-24, infinity, NaN.
  const TensorStatistics s =
      statistics<std::uint16_t>(Dtype::kF16, {0x3c00, 0xc000, 0x7bff, 0x0001, 0x7c00, 0x7e00});
  EXPECT_EQ(s.non_finite, 2u);
  EXPECT_EQ(s.min, -2.0);
  EXPECT_EQ(s.max, 65504.0);
  EXPECT_EQ(s.mean, (1.0 - 2.0 + 65504.0 + std::ldexp(1.0, -24)) / 4.0);
  // bfloat16: 1, -0.5, infinity.
  const TensorStatistics b = statistics<std::uint16_t>(Dtype::kBF16, {0x3f80, 0xbf00, 0x7f80});
  EXPECT_EQ(b.non_finite, 1u);
  EXPECT_EQ(b.min, -0.5);
  EXPECT_EQ(b.mean, 0.25);
}

TEST(Statistics, OfIntegersAndOfNothing) {
  const TensorStatistics s = statistics<std::int64_t>(Dtype::kI64, {-5, 7, std::int64_t{1} << 40});
  EXPECT_EQ(s.min, -5.0);
  EXPECT_EQ(s.max, std::ldexp(1.0, 40));
  const TensorStatistics none = statistics<float>(Dtype::kF32, {});
  EXPECT_EQ(none.count, 0u);
  EXPECT_EQ(none.min, 0.0);
  EXPECT_EQ(none.mean, 0.0);
}

}  // namespace
}  // namespace lram::weights::statistics_test
