#pragma once
#include <string>

#include "envs/mujoco/mujoco_environment.h"

namespace lram::envs {

/// A planar one-legged robot that stands up from a random pose.
class Hopper final : public MujocoEnvironment {
 public:
  explicit Hopper(std::string id);
  void observe(double* out) const override;
  double reward() const override;
  double planning_reward(float true_reward) const override;

 private:
  void draw_initial_state(Mt19937& rng) override;

  int torso_, foot_, toe_, heel_;
};

}  // namespace lram::envs
