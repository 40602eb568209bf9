#pragma once
#include <array>

#include "agents/experts/expert.h"

namespace lram::agents::experts {

/// Feedback laws of control theory for the tasks that have one: energy shaping and LQR for the
/// swing-ups and the balance, PD for the point mass, damped Jacobian transpose for the reacher. The
/// action is a smooth function of the observation alone and costs nothing to compute, which makes
/// these episodes the easiest to imitate. Angles are 0 where the pole stands upright.
class Controller : public Expert {
 public:
  /// Throws Error(kUsage) that lists the tasks with a law.
  explicit Controller(std::string_view task);

  void begin_episode(const envs::Environment& env, std::uint64_t seed) override;
  void act(const envs::Environment& env, std::span<const float> obs,
           std::span<float> action) override;

 private:
  void (*law_)(std::span<const float> obs, std::span<float> action);
};

}  // namespace lram::agents::experts
