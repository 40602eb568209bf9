#pragma once
#include <string>

#include "envs/mujoco/mujoco_environment.h"

namespace lram::envs {

/// A pendulum too weak to lift its mass at once, swung up and held within 8 degrees of the top.
class Pendulum final : public MujocoEnvironment {
 public:
  explicit Pendulum(std::string id);
  void observe(double* out) const override;
  double reward() const override;
  double planning_reward(float true_reward) const override;

 private:
  void draw_initial_state(Mt19937& rng) override;

  int pole_;
};

}  // namespace lram::envs
