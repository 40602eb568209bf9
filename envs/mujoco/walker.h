#pragma once
#include <string>

#include "envs/mujoco/mujoco_environment.h"

namespace lram::envs {

/// A planar biped that stands, walks (1 m/s) or runs (8 m/s).
class Walker final : public MujocoEnvironment {
 public:
  enum class Task { kStand, kWalk, kRun };
  Walker(std::string id, Task task);
  void observe(double* out) const override;
  double reward() const override;

 private:
  void draw_initial_state(Mt19937& rng) override;

  Task task_;
  int torso_, speed_;
};

}  // namespace lram::envs
