#include "envs/mujoco/fish.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "envs/mujoco/tolerance.h"

namespace lram::envs {
namespace {
constexpr const char* kJoints[] = {"tail1",         "tail_twist",     "tail2",
                                   "finright_roll", "finright_pitch", "finleft_roll",
                                   "finleft_pitch"};
}

Fish::Fish(std::string id)
    : MujocoEnvironment({.id = std::move(id),
                         .xml = "fish.xml",
                         .sub_steps = 10,
                         .parts = {{"joint_angles", 7}, {"upright", 1}, {"velocity", 13}},
                         .edits_model = true}),
      torso_(id_of(model(), mjOBJ_BODY, "torso")) {
  std::transform(std::begin(kJoints), std::end(kJoints), joints_.begin(),
                 [this](const char* joint) { return qpos_address(model(), joint); });
  // The target belongs to another task: hidden.
  editable_model().geom_rgba[4 * id_of(model(), mjOBJ_GEOM, "target") + 3] = 0.0f;
}

void Fish::draw_initial_state(Mt19937& rng) {
  mjtNum* orientation = data().qpos + qpos_address(model(), "root") + 3;
  for (int i = 0; i < 4; ++i) orientation[i] = rng.randn();
  // np.linalg.norm on processors with AVX-512: one fused multiply-add per element.
  double square = 0.0;
  for (int i = 0; i < 4; ++i) square = std::fma(orientation[i], orientation[i], square);
  for (int i = 0; i < 4; ++i) orientation[i] /= std::sqrt(square);
  for (const int joint : joints_) data().qpos[joint] = rng.uniform(-0.2, 0.2);
}

void Fish::observe(double* out) const {
  for (const int joint : joints_) *out++ = data().qpos[joint];
  *out++ = data().xmat[9 * torso_ + 8];
  std::copy_n(data().qvel, 13, out);
}

double Fish::reward() const { return tolerance(data().xmat[9 * torso_ + 8], {1.0, 1.0}, 1.0); }

// The true reward is flat where the fish lies on its back.
double Fish::planning_reward(float true_reward) const {
  return 0.5 * (true_reward + data().xmat[9 * torso_ + 8]);
}
}  // namespace lram::envs
