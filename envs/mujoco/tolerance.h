#pragma once
#include <cmath>
#include <limits>

namespace lram::envs {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// How a reward falls off outside its bounds.
enum class Sigmoid { kGaussian, kLinear, kQuadratic };

struct Bounds {
  double low = 0.0, high = 0.0;
};

/// dm_control's reward shape (utils/rewards.py): 1 inside the bounds, outside a sigmoid of the
/// distance in margins, which has come down to `value_at_margin` at distance `margin`; with
/// margin 0 a step function. The linear and quadratic forms reach 0 and stay there.
inline double tolerance(double x, Bounds bounds, double margin = 0.0,
                        Sigmoid sigmoid = Sigmoid::kGaussian, double value_at_margin = 0.1) {
  if (bounds.low <= x && x <= bounds.high) return 1.0;
  if (margin == 0.0) return 0.0;
  const double distance = (x < bounds.low ? bounds.low - x : x - bounds.high) / margin;
  switch (sigmoid) {
    case Sigmoid::kGaussian: {
      const double scaled = distance * std::sqrt(-2.0 * std::log(value_at_margin));
      return std::exp(-0.5 * (scaled * scaled));
    }
    case Sigmoid::kLinear: {
      const double scaled = distance * (1.0 - value_at_margin);
      return std::abs(scaled) < 1.0 ? 1.0 - scaled : 0.0;
    }
    case Sigmoid::kQuadratic: {
      const double scaled = distance * std::sqrt(1.0 - value_at_margin);
      return std::abs(scaled) < 1.0 ? 1.0 - scaled * scaled : 0.0;
    }
  }
  return 0.0;
}

}  // namespace lram::envs
