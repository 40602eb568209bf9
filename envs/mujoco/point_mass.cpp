#include "envs/mujoco/point_mass.h"

#include <algorithm>
#include <utility>

#include "envs/mujoco/tolerance.h"

namespace lram::envs {
PointMass::PointMass(std::string id)
    : MujocoEnvironment({.id = std::move(id),
                         .xml = "point_mass.xml",
                         .parts = {{"position", 2}, {"velocity", 2}}}),
      mass_(id_of(model(), mjOBJ_GEOM, "pointmass")),
      target_(id_of(model(), mjOBJ_GEOM, "target")) {}

void PointMass::observe(double* out) const {
  out = std::copy_n(data().qpos, 2, out);
  std::copy_n(data().qvel, 2, out);
}

double PointMass::reward() const {
  const double size = model().geom_size[3 * target_];
  const double distance = mju_dist3(data().geom_xpos + 3 * target_, data().geom_xpos + 3 * mass_);
  return tolerance(distance, {0.0, size}, size) * (small_control(model(), data()) + 4.0) / 5.0;
}

// Slopes towards the target where the true reward is flat.
double PointMass::planning_reward(float true_reward) const {
  return true_reward -
         2.0 * mju_dist3(data().geom_xpos + 3 * target_, data().geom_xpos + 3 * mass_);
}
}  // namespace lram::envs
