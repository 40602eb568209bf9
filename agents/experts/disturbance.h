#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "lram/core/rng.h"
#include "lram/core/spec.h"

namespace lram::agents::experts {

/// Pushes an expert off its way now and then, so that its data also shows how it comes back. Time
/// is cut into blocks of 25 steps; a disturbed block adds slowly varying Gaussian noise to
/// continuous actions, or replaces discrete ones at random. A function of (seed, step).
class Disturbance {
 public:
  static constexpr std::int64_t kBlock = 25;

  /// `strength`: standard deviation in half action ranges, or the probability of a random discrete
  /// action; 0 = none. `share` of the blocks are disturbed.
  /// `correlation` of the noise from step to step: pushes that last leave the beaten track, while
  /// white noise keeps a policy with memory from predicting an action by the one before.
  Disturbance(const ActionSpec& spec, double strength, double share, double correlation,
              std::uint64_t seed);

  /// Changes `action` [spec.size], in task units and within its bounds, and goes on to the next
  /// step.
  void apply(std::span<float> action);

 private:
  const ActionSpec spec_;
  double strength_, share_, correlation_;
  CounterRng rng_;
  std::int64_t step_ = 0;
  bool active_ = false;
  std::vector<double> noise_;  ///< [spec.size], half ranges
};

}  // namespace lram::agents::experts
