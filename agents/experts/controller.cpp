#include "agents/experts/controller.h"

#include <algorithm>
#include <cmath>

#include "lram/core/error.h"
#include "lram/core/text.h"

namespace lram::agents::experts {
namespace {
constexpr double kGravity = 9.81;

void put(std::span<float> action, std::size_t index, double value) {
  action[index] = static_cast<float>(std::clamp(value, -1.0, 1.0));
}

// The pole is a rod of 1 m on a cart of 1 kg, 10 times heavier, whose acceleration `a` drives it:
// angular acceleration = 1.5 (g sin(angle) - a cos(angle)). Its energy, per inertia and 0 upright,
// changes by -1.5 a cos(angle) velocity (Astrom and Furuta 2000, "Swinging up a pendulum by energy
// control").
void cartpole(std::span<const float> obs, std::span<float> action) {
  const double x = obs[0], cosine = obs[1], sine = obs[2], speed = obs[3], spin = obs[4];
  const double angle = std::atan2(sine, cosine);
  const double energy = 0.5 * spin * spin + 1.5 * kGravity * (cosine - 1.0);
  // LQR at the top with weights 1, 10, 1, 1 on the squares of (x, angle, speed, spin), 5 on action.
  const double balance = 0.415 * x + 5.71 * angle + 0.751 * speed + 1.49 * spin;
  // Gentle at small spins: a clone that has to switch sharply there never gets going.
  // Energy grows with the spin that is there, so that a pole at rest needs a push first: one that a
  // clone, which sees no spin of 0.01, can repeat.
  const double at_rest = std::clamp(-10.0 * cosine - 9.0, 0.0, 1.0) * std::exp(-4.0 * spin * spin);
  const double swing = 0.7 * std::tanh(0.1 * energy * spin * cosine) + 0.5 * at_rest - 0.25 * x -
                       0.15 * speed;
  const bool near_top = cosine > 0.85 && std::abs(spin) < 4.0;
  put(action, 0, near_top ? balance : swing);
}

// A mass of 1 kg on a massless rod of 0.5 m, with a fifth of the torque that holds it level.
void pendulum(std::span<const float> obs, std::span<float> action) {
  const double cosine = obs[0], sine = obs[1], spin = obs[2];
  const double angle = std::atan2(sine, cosine);
  const double energy = 0.5 * spin * spin + 2.0 * kGravity * (cosine - 1.0);
  const double balance = -(12.0 * angle + 3.0 * spin);
  const double swing = -std::tanh(2.0 * energy * spin);
  put(action, 0, cosine > 0.97 && std::abs(spin) < 2.0 ? balance : swing);
}

void point_mass(std::span<const float> obs, std::span<float> action) {
  for (std::size_t axis = 0; axis < 2; ++axis)
    put(action, axis, -(12.0 * obs[axis] + 4.0 * obs[2 + axis]));
}

// Two links of 0.12 m; obs: shoulder, wrist, vector from finger to target, angular velocities.
void reacher(std::span<const float> obs, std::span<float> action) {
  constexpr double kLink = 0.12, kDamping = 0.03;
  const double shoulder = obs[0], both = obs[0] + obs[1];
  const double fx = -kLink * std::sin(both), fy = kLink * std::cos(both);
  const double sx = fx - kLink * std::sin(shoulder), sy = fy + kLink * std::cos(shoulder);
  // Damped least squares: J^T (J J^T + damping^2)^-1 to_target.
  const double a = sx * sx + fx * fx + kDamping * kDamping, b = sx * sy + fx * fy;
  const double c = sy * sy + fy * fy + kDamping * kDamping, determinant = a * c - b * b;
  const double ex = (c * obs[2] - b * obs[3]) / determinant;
  const double ey = (a * obs[3] - b * obs[2]) / determinant;
  put(action, 0, 1.0 * (sx * ex + sy * ey) - 0.25 * obs[4]);
  put(action, 1, 1.0 * (fx * ex + fy * ey) - 0.25 * obs[5]);
}

struct Law {
  std::string_view task;
  void (*law)(std::span<const float> obs, std::span<float> action);
};

constexpr Law kLaws[] = {
    {"dmcontrol/cartpole_balance", cartpole}, {"dmcontrol/cartpole_swingup", cartpole},
    {"dmcontrol/pendulum_swingup", pendulum}, {"dmcontrol/point_mass_easy", point_mass},
    {"dmcontrol/reacher_easy", reacher},      {"dmcontrol/reacher_hard", reacher},
};
}  // namespace

Controller::Controller(std::string_view task) {
  const std::string id = envs::make(task)->spec().id;
  std::vector<std::string_view> known;
  for (const Law& law : kLaws) {
    known.push_back(law.task);
    if (law.task == id) {
      law_ = law.law;
      return;
    }
  }
  throw_error(ErrorKind::kUsage, "agent 'controller' has no law for task '{}', only for {}", id,
              joined(known));
}

void Controller::begin_episode(const envs::Environment& /*env*/, std::uint64_t /*seed*/) {}

void Controller::act(const envs::Environment& /*env*/, std::span<const float> obs,
                     std::span<float> action) {
  law_(obs, action);
}

}  // namespace lram::agents::experts
