#pragma once
#include <string>

#include "envs/mujoco/mujoco_environment.h"

namespace lram::envs {

/// A finger of two links at a free body on a hinge: to spin it fast, or to turn its tip into a
/// target drawn anew for every episode.
class Finger final : public MujocoEnvironment {
 public:
  enum class Task { kSpin, kTurnEasy, kTurnHard };
  Finger(std::string id, Task task);
  void observe(double* out) const override;
  double reward() const override;
  double planning_reward(float true_reward) const override;

 private:
  void draw_initial_state(Mt19937& rng) override;

  double distance_to_target() const;

  Task task_;
  int target_, fingertip_;
  struct {
    int proximal, distal, proximal_velocity, distal_velocity, hinge_velocity;
    int tip, target, spinner, touch_top, touch_bottom;
  } sensor_;  ///< addresses in sensordata
};

}  // namespace lram::envs
