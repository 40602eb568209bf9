#include "lram/tokenization/uniform_bins.h"

#include "lram/core/error.h"

namespace lram::tokenization {

UniformBins::UniformBins(std::int64_t num_bins)
    : num_bins_(num_bins), width_(2.0f / static_cast<float>(num_bins)) {
  LRAM_CHECK(num_bins >= 1, "num_bins is ", num_bins, ", wanted at least 1");
}

std::int64_t UniformBins::encode(float value) const {
  const float position = (value + 1.0f) / width_;
  // Compared before the cast, which is undefined beyond int64; NaN fails the first comparison.
  if (!(position >= 1.0f)) return 0;
  if (position >= static_cast<float>(num_bins_)) return num_bins_ - 1;
  return static_cast<std::int64_t>(position);
}

float UniformBins::decode(std::int64_t bin) const {
  return -1.0f + width_ * (static_cast<float>(bin) + 0.5f);
}

}  // namespace lram::tokenization
