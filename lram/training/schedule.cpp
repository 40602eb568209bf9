#include "lram/training/schedule.h"

#include <cmath>
#include <numbers>

namespace lram::training {

double Schedule::rate(std::int64_t micro_step) const {
  if (micro_step < warmup)
    return peak * static_cast<double>(micro_step + 1) / static_cast<double>(warmup);
  const std::int64_t done = micro_step - warmup;
  if (done >= cosine) return floor;
  const double angle = std::numbers::pi * static_cast<double>(done) / static_cast<double>(cosine);
  return floor + (peak - floor) * (1.0 + std::cos(angle)) / 2.0;
}
}  // namespace lram::training
