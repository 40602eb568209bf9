#include "envs/mujoco/walker.h"

#include <algorithm>
#include <utility>

#include "envs/mujoco/tolerance.h"

namespace lram::envs {
namespace {
constexpr double kStandHeight = 1.2;                 // m
constexpr double kWalkSpeed = 1.0, kRunSpeed = 8.0;  // m/s
}  // namespace

Walker::Walker(std::string id, Task task)
    : MujocoEnvironment({.id = std::move(id),
                         .xml = "walker.xml",
                         .sub_steps = 10,
                         .parts = {{"orientations", 14}, {"height", 1}, {"velocity", 9}}}),
      task_(task),
      torso_(id_of(model(), mjOBJ_BODY, "torso")),
      speed_(sensor_address(model(), "torso_subtreelinvel")) {}

void Walker::draw_initial_state(Mt19937& rng) { draw_joints(rng); }

void Walker::observe(double* out) const {
  for (int body = 1; body < model().nbody; ++body) {
    *out++ = data().xmat[9 * body];      // xx
    *out++ = data().xmat[9 * body + 2];  // xz
  }
  *out++ = data().xpos[3 * torso_ + 2];
  std::copy_n(data().qvel, 9, out);
}

double Walker::reward() const {
  const double standing =
      tolerance(data().xpos[3 * torso_ + 2], {kStandHeight, kInfinity}, kStandHeight / 2.0);
  const double upright = (1.0 + data().xmat[9 * torso_ + 8]) / 2.0;
  const double stand = (3.0 * standing + upright) / 4.0;
  if (task_ == Task::kStand) return stand;
  const double speed = task_ == Task::kWalk ? kWalkSpeed : kRunSpeed;
  const double moving =
      tolerance(data().sensordata[speed_], {speed, kInfinity}, speed / 2.0, Sigmoid::kLinear, 0.5);
  return stand * (5.0 * moving + 1.0) / 6.0;
}
}  // namespace lram::envs
