#include <fmt/format.h>

#include <algorithm>

#include "envs/environment.h"
#include "envs/mujoco/ball_in_cup.h"
#include "envs/mujoco/cartpole.h"
#include "envs/mujoco/cheetah.h"
#include "envs/mujoco/finger.h"
#include "envs/mujoco/fish.h"
#include "envs/mujoco/hopper.h"
#include "envs/mujoco/pendulum.h"
#include "envs/mujoco/point_mass.h"
#include "envs/mujoco/reacher.h"
#include "envs/mujoco/walker.h"
#include "lram/core/error.h"

namespace lram::envs {
namespace {
using Factory = std::unique_ptr<Environment> (*)(std::string id);

/// Builds a T from its full id and the given arguments.
template <typename T, auto... arguments>
std::unique_ptr<Environment> build(std::string id) {
  return std::make_unique<T>(std::move(id), arguments...);
}

struct Row {
  const char* id;
  Factory factory;
};

const Row kTable[] = {
    // LRAM's 11 training tasks of dm_control's suite ...
    {"dmcontrol/ball_in_cup_catch", build<BallInCup>},
    {"dmcontrol/cartpole_swingup", build<Cartpole, Cartpole::Task::kSwingup>},
    {"dmcontrol/cheetah_run", build<Cheetah>},
    {"dmcontrol/finger_spin", build<Finger, Finger::Task::kSpin>},
    {"dmcontrol/finger_turn_easy", build<Finger, Finger::Task::kTurnEasy>},
    {"dmcontrol/fish_upright", build<Fish>},
    {"dmcontrol/hopper_stand", build<Hopper>},
    {"dmcontrol/point_mass_easy", build<PointMass>},
    {"dmcontrol/reacher_easy", build<Reacher, Reacher::Task::kEasy>},
    {"dmcontrol/walker_run", build<Walker, Walker::Task::kRun>},
    {"dmcontrol/walker_stand", build<Walker, Walker::Task::kStand>},
    // ... and its 5 held-out ones.
    {"dmcontrol/cartpole_balance", build<Cartpole, Cartpole::Task::kBalance>},
    {"dmcontrol/finger_turn_hard", build<Finger, Finger::Task::kTurnHard>},
    {"dmcontrol/pendulum_swingup", build<Pendulum>},
    {"dmcontrol/reacher_hard", build<Reacher, Reacher::Task::kHard>},
    {"dmcontrol/walker_walk", build<Walker, Walker::Task::kWalk>},
};

std::string_view last_part(std::string_view id) { return id.substr(id.find('/') + 1); }
}  // namespace

std::vector<std::string> task_ids() {
  std::vector<std::string> ids;
  for (const Row& row : kTable) ids.emplace_back(row.id);
  return ids;
}

std::unique_ptr<Environment> make(std::string_view name) {
  std::vector<const Row*> fits;
  for (const Row& row : kTable) {
    if (row.id == name) return row.factory(row.id);
    if (last_part(row.id) == name) fits.push_back(&row);
  }
  if (fits.size() == 1) return fits[0]->factory(fits[0]->id);

  const std::vector<std::string> known = task_ids();
  std::vector<std::string> short_names;
  for (const std::string& id : known) short_names.emplace_back(last_part(id));
  std::string near = nearest_name(std::string(name), known);
  if (near.empty()) near = nearest_name(std::string(name), short_names);
  throw_error(ErrorKind::kUsage, "unknown task '{}'{}; known tasks: {}", name,
              near.empty() ? "" : fmt::format(", did you mean '{}'?", near),
              fmt::join(known, ", "));
}
}  // namespace lram::envs
