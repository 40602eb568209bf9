#include "envs/mujoco/pendulum.h"

#include <cmath>
#include <numbers>
#include <utility>

#include "envs/mujoco/tolerance.h"

namespace lram::envs {
namespace {
const double kCosineOf8Degrees = std::cos(8.0 * std::numbers::pi / 180.0);
}

Pendulum::Pendulum(std::string id)
    : MujocoEnvironment({.id = std::move(id),
                         .xml = "pendulum.xml",
                         .parts = {{"orientation", 2}, {"velocity", 1}}}),
      pole_(id_of(model(), mjOBJ_BODY, "pole")) {}

void Pendulum::draw_initial_state(Mt19937& rng) {
  data().qpos[0] = rng.uniform(-std::numbers::pi, std::numbers::pi);
}

void Pendulum::observe(double* out) const {
  const mjtNum* frame = data().xmat + 9 * pole_;
  out[0] = frame[8];  // zz
  out[1] = frame[2];  // xz
  out[2] = data().qvel[0];
}

double Pendulum::reward() const {
  return tolerance(data().xmat[9 * pole_ + 8], {kCosineOf8Degrees, 1.0});
}

// Rises with the pole.
double Pendulum::planning_reward(float true_reward) const {
  return 0.5 * (true_reward + data().xmat[9 * pole_ + 8]);
}
}  // namespace lram::envs
