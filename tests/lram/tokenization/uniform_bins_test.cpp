#include "lram/tokenization/uniform_bins.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "lram/core/error.h"
#include "lram/core/rng.h"
#include "lram/core/safetensors.h"
#include "tests/support/golden_case.h"

namespace lram::tokenization::uniform_bins_test {
namespace {

TEST(UniformBins, RoundTripIsWithinHalfABin) {
  for (const std::int64_t num_bins : {1, 2, 3, 100, 256, 1024}) {
    const UniformBins bins(num_bins);
    CounterRng rng(5, static_cast<std::uint64_t>(num_bins));
    const double half = 1.0 / static_cast<double>(num_bins);
    for (int i = 0; i < 1000; ++i) {
      const auto value = static_cast<float>(2.0 * rng.uniform() - 1.0);
      const std::int64_t bin = bins.encode(value);
      ASSERT_GE(bin, 0);
      ASSERT_LT(bin, num_bins);
      // float32 sums around 1 round at 6e-8.
      EXPECT_LE(std::abs(bins.decode(bin) - value), half + 2e-7) << num_bins << " bins, " << value;
    }
  }
}

TEST(UniformBins, CentresEncodeToTheirOwnBin) {
  const UniformBins bins(256);
  for (std::int64_t bin = 0; bin < 256; ++bin) EXPECT_EQ(bins.encode(bins.decode(bin)), bin);
}

TEST(UniformBins, RefusesNoBins) { EXPECT_THROW(UniformBins(0), Error); }

template <typename T>
std::vector<T> values(const SafetensorsFile& file, const char* name) {
  const TensorEntry& entry = file.at(name);
  std::vector<T> out(entry.data.size() / sizeof(T));
  std::memcpy(out.data(), entry.data.data(), entry.data.size());
  return out;
}

TEST(Golden, ClassesAndCentresAreThoseOfTheReference) {
  LRAM_SKIP_WITHOUT_GOLDEN("baselines");
  const auto cases = test::golden_cases("baselines", "tokenizer", [](const auto& one) {
    return one.has_tensor("odd_bin") && one.has_tensor("centre");
  });
  for (const auto& one : cases) {
    SCOPED_TRACE(one.name());
    const UniformBins bins(one.config().at("bins"));
    const std::int64_t shift = one.config().at("shift");
    const SafetensorsFile file(one.file());
    const auto x = values<float>(file, "x"), centre = values<float>(file, "centre");
    const auto bin = values<std::int64_t>(file, "bin"), id = values<std::int64_t>(file, "id");
    const auto tolerance = one.tolerance("float32");
    for (std::size_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(bins.encode(x[i]), bin[i]) << "x = " << x[i];
      EXPECT_EQ(bins.encode(x[i]) + shift, id[i]);
      EXPECT_LE(std::abs(bins.decode(bin[i]) - centre[i]),
                tolerance.atol + tolerance.rtol * std::abs(centre[i]));
    }
    const auto odd_x = values<float>(file, "odd_x");
    const auto odd_bin = values<std::int64_t>(file, "odd_bin");
    for (std::size_t i = 0; i < odd_x.size(); ++i)
      EXPECT_EQ(bins.encode(odd_x[i]), odd_bin[i]) << "x = " << odd_x[i];
  }
}

}  // namespace
}  // namespace lram::tokenization::uniform_bins_test
