#include "envs/mujoco/finger.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

namespace lram::envs {
namespace {
constexpr double kSpinVelocity = 15.0;  // rad/s
constexpr double kNear = 0.12;          // m from fingertip to the spinner's hinge: in contact
constexpr double kSpinDamping = 0.03, kEasyRadius = 0.07, kHardRadius = 0.03;

std::vector<ObservationPart> parts(Finger::Task task) {
  if (task == Finger::Task::kSpin) return {{"position", 4}, {"velocity", 3}, {"touch", 2}};
  return {{"position", 4},
          {"velocity", 3},
          {"touch", 2},
          {"target_position", 2},
          {"dist_to_target", 1}};
}
}  // namespace

Finger::Finger(std::string id, Task task)
    : MujocoEnvironment({.id = std::move(id),
                         .xml = "finger.xml",
                         .sub_steps = 2,
                         .parts = parts(task),
                         .edits_model = true}),
      task_(task),
      target_(id_of(model(), mjOBJ_SITE, "target")),
      fingertip_(id_of(model(), mjOBJ_SITE, "touchtop")) {
  const auto address = [this](const char* name) { return sensor_address(model(), name); };
  sensor_ = {.proximal = address("proximal"),
             .distal = address("distal"),
             .proximal_velocity = address("proximal_velocity"),
             .distal_velocity = address("distal_velocity"),
             .hinge_velocity = address("hinge_velocity"),
             .tip = address("tip"),
             .target = address("target"),
             .spinner = address("spinner"),
             .touch_top = address("touchtop"),
             .touch_bottom = address("touchbottom")};
  mjModel& edited = editable_model();
  if (task == Task::kSpin) {
    edited.site_rgba[4 * target_ + 3] = 0.0f;
    edited.site_rgba[4 * id_of(edited, mjOBJ_SITE, "tip") + 3] = 0.0f;
    edited.dof_damping[edited.jnt_dofadr[id_of(edited, mjOBJ_JOINT, "hinge")]] = kSpinDamping;
  } else {
    edited.site_size[3 * target_] = task == Task::kTurnEasy ? kEasyRadius : kHardRadius;
    track_edits(edited.site_pos + 3 * target_, 3);
  }
}

void Finger::draw_initial_state(Mt19937& rng) {
  if (task_ != Task::kSpin) {
    const double angle = rng.uniform(-std::numbers::pi, std::numbers::pi);
    const mjtNum* anchor = data().xanchor + 3 * id_of(model(), mjOBJ_JOINT, "hinge");
    const mjtNum* cap = model().geom_size + 3 * id_of(model(), mjOBJ_GEOM, "cap1");
    const double radius = cap[0] + cap[1] + cap[2];
    mjtNum* target = editable_model().site_pos + 3 * target_;
    target[0] = anchor[0] + radius * std::sin(angle);
    target[2] = anchor[2] + radius * std::cos(angle);
  }
  draw_until_free([&] { draw_joints(rng); });
}

void Finger::observe(double* out) const {
  const mjtNum* sensors = data().sensordata;
  const mjtNum* spinner = sensors + sensor_.spinner;
  const mjtNum* tip = sensors + sensor_.tip;
  *out++ = sensors[sensor_.proximal];
  *out++ = sensors[sensor_.distal];
  *out++ = tip[0] - spinner[0];
  *out++ = tip[2] - spinner[2];
  *out++ = sensors[sensor_.proximal_velocity];
  *out++ = sensors[sensor_.distal_velocity];
  *out++ = sensors[sensor_.hinge_velocity];
  *out++ = std::log1p(sensors[sensor_.touch_top]);
  *out++ = std::log1p(sensors[sensor_.touch_bottom]);
  if (task_ == Task::kSpin) return;
  const mjtNum* target = sensors + sensor_.target;
  *out++ = target[0] - spinner[0];
  *out++ = target[2] - spinner[2];
  *out++ = distance_to_target();
}

double Finger::distance_to_target() const {
  // Both positions relative to the spinner first, as dm_control subtracts them.
  const mjtNum* spinner = data().sensordata + sensor_.spinner;
  const mjtNum* tip = data().sensordata + sensor_.tip;
  const mjtNum* target = data().sensordata + sensor_.target;
  const double x = (target[0] - spinner[0]) - (tip[0] - spinner[0]);
  const double z = (target[2] - spinner[2]) - (tip[2] - spinner[2]);
  return std::sqrt(x * x + z * z) - model().site_size[3 * target_];
}

double Finger::reward() const {
  const bool reached = task_ == Task::kSpin
                           ? data().sensordata[sensor_.hinge_velocity] <= -kSpinVelocity
                           : distance_to_target() <= 0.0;
  return reached ? 1.0 : 0.0;
}

// Rises with the speed, or falls with the distance to the target; and keeps the fingertip near the
// spinner, where alone it can do something.
double Finger::planning_reward(float true_reward) const {
  const double reach =
      mju_dist3(data().site_xpos + 3 * fingertip_, data().sensordata + sensor_.spinner);
  const double too_far = std::max(0.0, reach - kNear);
  if (task_ != Task::kSpin)
    return true_reward - 4.0 * std::max(0.0, distance_to_target()) - too_far;
  const double speed = -data().sensordata[sensor_.hinge_velocity] / kSpinVelocity;
  return true_reward + std::clamp(speed, -1.0, 1.2) - too_far;
}
}  // namespace lram::envs
