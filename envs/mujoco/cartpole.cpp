#include "envs/mujoco/cartpole.h"

#include <numbers>
#include <utility>

#include "envs/mujoco/tolerance.h"

namespace lram::envs {
Cartpole::Cartpole(std::string id, Task task)
    : MujocoEnvironment({.id = std::move(id),
                         .xml = "cartpole.xml",
                         .parts = {{"position", 3}, {"velocity", 2}}}),
      task_(task),
      slider_(qpos_address(model(), "slider")),
      pole_(id_of(model(), mjOBJ_BODY, "pole_1")) {}

void Cartpole::draw_initial_state(Mt19937& rng) {
  const int hinge = qpos_address(model(), "hinge_1");
  if (task_ == Task::kSwingup) {
    data().qpos[slider_] = 0.01 * rng.randn();
    data().qpos[hinge] = std::numbers::pi + 0.01 * rng.randn();
  } else {
    data().qpos[slider_] = rng.uniform(-0.1, 0.1);
    data().qpos[hinge] = rng.uniform(-0.034, 0.034);
  }
  for (int i = 0; i < model().nv; ++i) data().qvel[i] = 0.01 * rng.randn();
}

void Cartpole::observe(double* out) const {
  const mjtNum* frame = data().xmat + 9 * pole_;
  out[0] = data().qpos[slider_];
  out[1] = frame[8];  // zz, cosine of the pole's angle
  out[2] = frame[2];  // xz, its sine
  out[3] = data().qvel[0];
  out[4] = data().qvel[1];
}

double Cartpole::reward() const {
  const double upright = (data().xmat[9 * pole_ + 8] + 1.0) / 2.0;
  const double centered = (1.0 + tolerance(data().qpos[slider_], {}, 2.0)) / 2.0;
  const double calm_control = (4.0 + small_control(model(), data())) / 5.0;
  const double calm_pole = (1.0 + tolerance(data().qvel[1], {}, 5.0)) / 2.0;
  return upright * calm_control * calm_pole * centered;
}
}  // namespace lram::envs
