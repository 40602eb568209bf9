#pragma once
#include <string>

#include "envs/mujoco/mujoco_environment.h"

namespace lram::envs {

/// A mass in the plane, driven into a small target at the centre.
class PointMass final : public MujocoEnvironment {
 public:
  explicit PointMass(std::string id);
  void observe(double* out) const override;
  double reward() const override;
  double planning_reward(float true_reward) const override;

 private:
  void draw_initial_state(Mt19937& rng) override { draw_joints(rng); }

  int mass_, target_;
};

}  // namespace lram::envs
