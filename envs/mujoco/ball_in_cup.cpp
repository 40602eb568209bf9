#include "envs/mujoco/ball_in_cup.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace lram::envs {
BallInCup::BallInCup(std::string id)
    : MujocoEnvironment({.id = std::move(id),
                         .xml = "ball_in_cup.xml",
                         .sub_steps = 10,
                         .parts = {{"position", 4}, {"velocity", 4}}}),
      ball_body_(id_of(model(), mjOBJ_BODY, "ball")),
      ball_geom_(id_of(model(), mjOBJ_GEOM, "ball")),
      target_(id_of(model(), mjOBJ_SITE, "target")) {}

void BallInCup::draw_initial_state(Mt19937& rng) {
  mjtNum& x = data().qpos[qpos_address(model(), "ball_x")];
  mjtNum& z = data().qpos[qpos_address(model(), "ball_z")];
  draw_until_free([&] {
    x = rng.uniform(-0.2, 0.2);
    z = rng.uniform(0.2, 0.5);
  });
}

void BallInCup::observe(double* out) const {
  out = std::copy_n(data().qpos, 4, out);
  std::copy_n(data().qvel, 4, out);
}

double BallInCup::reward() const {
  const double radius = model().geom_size[3 * ball_geom_];
  for (const int axis : {0, 2}) {
    const double distance =
        std::abs(data().site_xpos[3 * target_ + axis] - data().xpos[3 * ball_body_ + axis]);
    if (!(distance < model().site_size[3 * target_ + axis] - radius)) return 0.0;
  }
  return 1.0;
}

// Draws the ball towards the cup and up, and keeps the cup away from the ends of its travel, where
// it would hang on below a ball that cannot come closer.
double BallInCup::planning_reward(float true_reward) const {
  const mjtNum* target = data().site_xpos + 3 * target_;
  const mjtNum* ball = data().xpos + 3 * ball_body_;
  const double off_centre = std::abs(data().qpos[0]) + std::abs(data().qpos[1]);
  return true_reward - mju_dist3(target, ball) + 0.5 * std::min(ball[2] - target[2], 0.05) -
         0.1 * off_centre;
}
}  // namespace lram::envs
