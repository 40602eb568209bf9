#include "envs/mujoco/cheetah.h"

#include <algorithm>
#include <utility>

#include "envs/mujoco/tolerance.h"

namespace lram::envs {
namespace {
constexpr double kRunSpeed = 10.0;  // m/s
constexpr int kSettlingSteps = 200;
}  // namespace

Cheetah::Cheetah(std::string id)
    : MujocoEnvironment(
          {.id = std::move(id), .xml = "cheetah.xml", .parts = {{"position", 8}, {"velocity", 9}}}),
      speed_(sensor_address(model(), "torso_subtreelinvel")) {}

void Cheetah::draw_initial_state(Mt19937& rng) {
  for (int joint = 0; joint < model().njnt; ++joint) {
    const mjtNum* range = model().jnt_range + 2 * joint;
    if (model().jnt_limited[joint])
      data().qpos[model().jnt_qposadr[joint]] = rng.uniform(range[0], range[1]);
  }
  // No forward in between: the first of these steps still uses what belongs to the old pose.
  advance(kSettlingSteps);
  data().time = 0.0;
}

void Cheetah::observe(double* out) const {
  out = std::copy_n(data().qpos + 1, 8, out);
  std::copy_n(data().qvel, 9, out);
}

double Cheetah::reward() const {
  return tolerance(data().sensordata[speed_], {kRunSpeed, kInfinity}, kRunSpeed, Sigmoid::kLinear,
                   0.0);
}
}  // namespace lram::envs
