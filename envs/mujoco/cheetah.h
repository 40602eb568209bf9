#pragma once
#include <string>

#include "envs/mujoco/mujoco_environment.h"

namespace lram::envs {

/// A planar runner with two legs; the reward grows with its speed up to 10 m/s.
class Cheetah final : public MujocoEnvironment {
 public:
  explicit Cheetah(std::string id);
  void observe(double* out) const override;
  double reward() const override;

 private:
  void draw_initial_state(Mt19937& rng) override;

  int speed_;
};

}  // namespace lram::envs
