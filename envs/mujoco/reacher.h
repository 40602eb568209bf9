#pragma once
#include <string>

#include "envs/mujoco/mujoco_environment.h"

namespace lram::envs {

/// A planar arm of two links whose tip is to be in a target drawn anew for every episode.
class Reacher final : public MujocoEnvironment {
 public:
  enum class Task { kEasy, kHard };
  Reacher(std::string id, Task task);
  void observe(double* out) const override;
  double reward() const override;
  double planning_reward(float true_reward) const override;

 private:
  void draw_initial_state(Mt19937& rng) override;

  int finger_, target_;
};

}  // namespace lram::envs
