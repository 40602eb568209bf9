#pragma once
#include <array>
#include <string>

#include "envs/mujoco/mujoco_environment.h"

namespace lram::envs {

/// A fish in water that turns its back up.
class Fish final : public MujocoEnvironment {
 public:
  explicit Fish(std::string id);
  void observe(double* out) const override;
  double reward() const override;
  double planning_reward(float true_reward) const override;

 private:
  void draw_initial_state(Mt19937& rng) override;

  int torso_;
  std::array<int, 7> joints_;  ///< addresses in qpos
};

}  // namespace lram::envs
