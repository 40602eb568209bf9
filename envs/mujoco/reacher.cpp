#include "envs/mujoco/reacher.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "envs/mujoco/tolerance.h"

namespace lram::envs {
Reacher::Reacher(std::string id, Task task)
    : MujocoEnvironment({.id = std::move(id),
                         .xml = "reacher.xml",
                         .parts = {{"position", 2}, {"to_target", 2}, {"velocity", 2}},
                         .edits_model = true}),
      finger_(id_of(model(), mjOBJ_GEOM, "finger")),
      target_(id_of(model(), mjOBJ_GEOM, "target")) {
  editable_model().geom_size[3 * target_] = task == Task::kEasy ? 0.05 : 0.015;
  track_edits(editable_model().geom_pos + 3 * target_, 2);
}

void Reacher::draw_initial_state(Mt19937& rng) {
  draw_joints(rng);
  const double angle = rng.uniform(0.0, 2.0 * std::numbers::pi);
  const double radius = rng.uniform(0.05, 0.20);
  mjtNum* target = editable_model().geom_pos + 3 * target_;
  target[0] = radius * std::sin(angle);
  target[1] = radius * std::cos(angle);
}

void Reacher::observe(double* out) const {
  const mjtNum* target = data().geom_xpos + 3 * target_;
  const mjtNum* finger = data().geom_xpos + 3 * finger_;
  out = std::copy_n(data().qpos, 2, out);
  *out++ = target[0] - finger[0];
  *out++ = target[1] - finger[1];
  std::copy_n(data().qvel, 2, out);
}

double Reacher::reward() const {
  const mjtNum* target = data().geom_xpos + 3 * target_;
  const mjtNum* finger = data().geom_xpos + 3 * finger_;
  const double x = target[0] - finger[0], y = target[1] - finger[1];
  const double radii = model().geom_size[3 * target_] + model().geom_size[3 * finger_];
  return tolerance(std::sqrt(x * x + y * y), {0.0, radii});
}

// Draws the finger to the target's centre from afar.
double Reacher::planning_reward(float true_reward) const {
  return true_reward -
         2.0 * mju_dist3(data().geom_xpos + 3 * target_, data().geom_xpos + 3 * finger_);
}
}  // namespace lram::envs
