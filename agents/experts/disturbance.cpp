#include "agents/experts/disturbance.h"

#include <algorithm>
#include <cmath>

namespace lram::agents::experts {
namespace {
constexpr std::uint64_t kStream = 0x64697374;  // apart from the experts' own numbers
}

Disturbance::Disturbance(const ActionSpec& spec, double strength, double share, double correlation,
                         std::uint64_t seed)
    : spec_(spec),
      strength_(strength),
      share_(share),
      correlation_(correlation),
      rng_(seed, kStream),
      noise_(static_cast<std::size_t>(spec.size)) {}

void Disturbance::apply(std::span<float> action) {
  if (strength_ <= 0.0) return;
  if (step_++ % kBlock == 0) {
    active_ = rng_.uniform() < share_;
    std::fill(noise_.begin(), noise_.end(), 0.0);
  }
  if (!active_) return;
  if (spec_.discrete) {
    if (rng_.uniform() < strength_)
      action[0] = static_cast<float>(rng_.below(static_cast<std::uint64_t>(spec_.num_actions)));
    return;
  }
  for (std::size_t i = 0; i < action.size(); ++i) {
    noise_[i] = correlation_ * noise_[i] +
                std::sqrt(1.0 - correlation_ * correlation_) * strength_ * rng_.normal();
    const double half_range = 0.5 * (spec_.high[i] - spec_.low[i]);
    action[i] = static_cast<float>(
        std::clamp(action[i] + half_range * noise_[i], spec_.low[i], spec_.high[i]));
  }
}

}  // namespace lram::agents::experts
