#pragma once
#include <cstdint>

namespace lram::training {

/// Learning rate over micro-steps, as LRAM counts it (lram.md 0, golden/baselines `adamw`): a line
/// up to `peak`, then a cosine from the end of the warm-up down to `floor`, and `floor` for ever.
struct Schedule {
  double peak = 1e-4;
  double floor = 1e-6;
  std::int64_t warmup = 4000;    ///< W micro-steps; step j < W has the rate peak (j + 1) / W
  std::int64_t cosine = 200000;  ///< micro-steps of the half cosine, counted from the warm-up's end

  double rate(std::int64_t micro_step) const;
};

}  // namespace lram::training
