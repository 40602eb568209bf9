#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lram/core/spec.h"

namespace lram::envs {

/// Seeds from here on are for evaluation: a task whose episodes differ by a hidden goal draws from
/// the held-out goals, and data sets take their seeds from below.
inline constexpr std::uint64_t kFirstHeldOutSeed = 1'000'000;

/// Caller-owned memory for one observation; TaskSpec says which parts are used and how long.
struct ObservationView {
  std::span<float> vector = {};
  std::span<std::uint8_t> image = {};  ///< [height, width, channels], row-major
};

struct StepResult {
  float reward = 0.0f;
  bool terminated = false;  ///< the task ended: nothing follows to be valued
  bool truncated = false;   ///< the time limit cut in: the episode could have gone on
  bool done() const { return terminated || truncated; }
};

/// One task, one episode at a time. Not thread-safe; VectorEnv gives each worker its own.
///   auto env = lram::envs::make("dmcontrol/cartpole_swingup");
///   std::vector<float> obs(env->spec().observation.vector_size);
///   env->reset(/*seed=*/7, {.vector = obs});
///   while (!env->step(policy(obs), {.vector = obs}).done()) {}
class Environment {
 public:
  virtual ~Environment() = default;
  virtual const TaskSpec& spec() const = 0;
  /// Begins an episode. Equal seeds and actions give bit-equal episodes in any process; without a
  /// seed the task's generator goes on from the last episode.
  virtual void reset(std::optional<std::uint64_t> seed, ObservationView obs) = 0;
  /// Advances one control step. `action` has spec().action.size entries in task units; a discrete
  /// action is its index. Throws lram::Error before the first reset() and on a non-finite action.
  virtual StepResult step(std::span<const float> action, ObservationView obs) = 0;
  /// Everything a later step depends on, as bytes: simulator, generator, step count, model edits.
  virtual std::vector<std::byte> save_state() const = 0;
  virtual void load_state(std::span<const std::byte> state) = 0;

  /// What differs between episodes of this task and an observation may hide, such as the goal of a
  /// grid world ("goal_3_7"); "" where nothing does. Valid after reset().
  virtual std::string variant() const { return {}; }
  /// Reward that guides a planner at the current state; by default the true reward of the last
  /// step. Never recorded as data.
  virtual double planning_reward(float true_reward) const { return true_reward; }
};

/// Builds the task called `name`. Throws lram::Error that lists the known names.
std::unique_ptr<Environment> make(std::string_view name);

/// Full ids of all registered tasks, in the order of the table.
std::vector<std::string> task_ids();

}  // namespace lram::envs
