#pragma once
#include <string>

#include "envs/mujoco/mujoco_environment.h"

namespace lram::envs {

/// A pole on a cart: kept upright from near the top, or swung up from hanging.
class Cartpole final : public MujocoEnvironment {
 public:
  enum class Task { kBalance, kSwingup };
  Cartpole(std::string id, Task task);
  void observe(double* out) const override;
  double reward() const override;

 private:
  void draw_initial_state(Mt19937& rng) override;

  Task task_;
  int slider_, pole_;
};

}  // namespace lram::envs
