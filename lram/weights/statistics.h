#pragma once
#include <cstdint>

#include "lram/core/safetensors.h"

namespace lram::weights {

struct TensorStatistics {
  std::uint64_t count = 0;       ///< values
  std::uint64_t non_finite = 0;  ///< NaN and infinities among them, which the rest leaves out
  double min = 0.0, max = 0.0;   ///< 0 where nothing is left
  double mean = 0.0;             ///< summed in float64
};

/// One pass over the values; types of 16 to 64 bits and bool alike.
TensorStatistics compute_statistics(const TensorEntry& tensor);

/// Values that are NaN or infinite; 0 for integers.
std::uint64_t count_non_finite(const TensorEntry& tensor);

}  // namespace lram::weights
