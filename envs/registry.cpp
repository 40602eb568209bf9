#include <fmt/core.h>

#include <algorithm>

#include "envs/environment.h"
#include "envs/grid/grid_world.h"
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
#include "lram/core/text.h"

namespace lram::envs {
namespace {
using Factory = std::unique_ptr<Environment> (*)(std::string id);

/// Builds a T from its full id and the given arguments.
template <typename T, auto... arguments>
std::unique_ptr<Environment> build(std::string id) {
  return std::make_unique<T>(std::move(id), arguments...);
}

using Reward = GridWorld::Reward;
enum class Key { kNone, kNeeded };

/// A grid world of this size; its goal is fixed where the id says so.
template <int width, int height, int max_steps, Reward reward, Key key>
std::unique_ptr<Environment> build_grid(std::string id) {
  const GridWorld::Options options = {.width = width,
                                      .height = height,
                                      .max_steps = max_steps,
                                      .reward = reward,
                                      .with_key = key == Key::kNeeded,
                                      .fixed_goal = split_grid_id(id).goal};
  return std::make_unique<GridWorld>(std::move(id), options);
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
    // Grid worlds; "_goal_X_Y" behind these ids fixes the goal, "_key_X_Y_goal_X_Y" the key too.
    {"grid/dark_room_10x10_dark", build_grid<10, 10, 100, Reward::kDark, Key::kNone>},
    {"grid/dark_room_10x10_sparse", build_grid<10, 10, 100, Reward::kSparse, Key::kNone>},
    {"grid/dark_room_10x10_dense", build_grid<10, 10, 100, Reward::kDense, Key::kNone>},
    {"grid/dark_room_17x17_dark", build_grid<17, 17, 100, Reward::kDark, Key::kNone>},
    {"grid/dark_room_17x17_sparse", build_grid<17, 17, 100, Reward::kSparse, Key::kNone>},
    {"grid/dark_room_17x17_dense", build_grid<17, 17, 100, Reward::kDense, Key::kNone>},
    {"grid/dark_room_20x20_dark", build_grid<20, 20, 400, Reward::kDark, Key::kNone>},
    {"grid/dark_room_20x20_sparse", build_grid<20, 20, 400, Reward::kSparse, Key::kNone>},
    {"grid/dark_room_20x20_dense", build_grid<20, 20, 400, Reward::kDense, Key::kNone>},
    {"grid/dark_room_40x20_dark", build_grid<40, 20, 800, Reward::kDark, Key::kNone>},
    {"grid/dark_room_40x20_sparse", build_grid<40, 20, 800, Reward::kSparse, Key::kNone>},
    {"grid/dark_room_40x20_dense", build_grid<40, 20, 800, Reward::kDense, Key::kNone>},
    {"grid/dark_key_door_10x10_dense", build_grid<10, 10, 100, Reward::kDense, Key::kNeeded>},
    {"grid/dark_key_door_17x17_dense", build_grid<17, 17, 100, Reward::kDense, Key::kNeeded>},
    {"grid/dark_key_door_20x20_dense", build_grid<20, 20, 400, Reward::kDense, Key::kNeeded>},
    {"grid/dark_key_door_40x20_dense", build_grid<40, 20, 800, Reward::kDense, Key::kNeeded>},
};

std::string_view last_part(std::string_view id) { return id.substr(id.find('/') + 1); }
}  // namespace

std::vector<std::string> task_ids() {
  std::vector<std::string> ids;
  for (const Row& row : kTable) ids.emplace_back(row.id);
  return ids;
}

std::unique_ptr<Environment> make(std::string_view name) {
  const auto [base, goal] = split_grid_id(name);
  std::vector<const Row*> fits;
  for (const Row& row : kTable) {
    const std::string_view id = row.id;
    if (goal && !id.starts_with("grid/")) continue;
    if (id == base) return row.factory(std::string(name));
    if (last_part(id) == base) fits.push_back(&row);
  }
  if (fits.size() == 1)
    return fits[0]->factory(fits[0]->id + std::string(name.substr(base.size())));

  const std::vector<std::string> known = task_ids();
  std::vector<std::string> short_names;
  for (const std::string& id : known) short_names.emplace_back(last_part(id));
  std::string near = nearest_name(std::string(base), known);
  if (near.empty()) near = nearest_name(std::string(base), short_names);
  throw_error(ErrorKind::kUsage, "unknown task '{}'{}; known tasks: {}", name,
              near.empty() ? "" : fmt::format(", did you mean '{}'?", near), joined(known));
}
}  // namespace lram::envs
