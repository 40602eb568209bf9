#pragma once
#include <string>

#include "envs/mujoco/mujoco_environment.h"

namespace lram::envs {

/// A cup that swings a ball on a string into itself. The reward is 1 inside, else 0.
class BallInCup final : public MujocoEnvironment {
 public:
  explicit BallInCup(std::string id);
  void observe(double* out) const override;
  double reward() const override;
  double planning_reward(float true_reward) const override;

 private:
  void draw_initial_state(Mt19937& rng) override;

  int ball_body_, ball_geom_, target_;
};

}  // namespace lram::envs
