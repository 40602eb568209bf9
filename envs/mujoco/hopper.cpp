#include "envs/mujoco/hopper.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "envs/mujoco/tolerance.h"

namespace lram::envs {
namespace {
constexpr Bounds kStandHeight = {0.6, 2.0};  // m, torso over foot
}

Hopper::Hopper(std::string id)
    : MujocoEnvironment({.id = std::move(id),
                         .xml = "hopper.xml",
                         .sub_steps = 4,
                         .parts = {{"position", 6}, {"velocity", 7}, {"touch", 2}}}),
      torso_(id_of(model(), mjOBJ_BODY, "torso")),
      foot_(id_of(model(), mjOBJ_BODY, "foot")),
      toe_(sensor_address(model(), "touch_toe")),
      heel_(sensor_address(model(), "touch_heel")) {}

void Hopper::draw_initial_state(Mt19937& rng) { draw_joints(rng); }

void Hopper::observe(double* out) const {
  out = std::copy_n(data().qpos + 1, 6, out);
  out = std::copy_n(data().qvel, 7, out);
  *out++ = std::log1p(data().sensordata[toe_]);
  *out++ = std::log1p(data().sensordata[heel_]);
}

double Hopper::reward() const {
  const double height = data().xipos[3 * torso_ + 2] - data().xipos[3 * foot_ + 2];
  return tolerance(height, kStandHeight) * ((small_control(model(), data()) + 4.0) / 5.0);
}

// Rises with torso and height and keeps the centre of mass over the foot, without which the hopper
// stands up only to fall.
double Hopper::planning_reward(float true_reward) const {
  const double height = data().xipos[3 * torso_ + 2] - data().xipos[3 * foot_ + 2];
  const double upright = data().xmat[9 * torso_ + 8];
  const double off_balance = std::abs(data().subtree_com[3 * torso_] - data().xipos[3 * foot_]);
  return true_reward + tolerance(height, {0.65, 2.0}, 1.0, Sigmoid::kLinear, 0.0) + 0.3 * upright -
         0.5 * std::min(off_balance, 1.0);
}
}  // namespace lram::envs
