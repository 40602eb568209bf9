#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "envs/environment.h"

namespace lram::agents::experts {

/// Acts in one task without a trained model; data sets are recorded from it. Equal seeds give equal
/// actions, whatever the number of threads. Not thread-safe; every worker has its own.
///   auto env = lram::envs::make(task);
///   auto expert = make_expert("planner", task);
///   env->reset(seed, obs);
///   expert->begin_episode(*env, seed);
///   do {
///     expert->act(*env, obs, action);
///     result = env->step(action, obs);
///     expert->observe(action, result, obs);
///   } while (!result.done());
class Expert {
 public:
  virtual ~Expert() = default;
  /// `env` has just been reset. `seed` feeds the expert's own random numbers.
  virtual void begin_episode(const envs::Environment& env, std::uint64_t seed) = 0;
  /// Fills `action` [spec().action.size] in task units for the current state of `env`, whose latest
  /// observation is `obs` [spec().observation.vector_size].
  virtual void act(const envs::Environment& env, std::span<const float> obs,
                   std::span<float> action) = 0;
  /// The action that was executed, which may differ from what act() gave, and its outcome.
  virtual void observe(std::span<const float> /*action*/, const envs::StepResult& /*result*/,
                       std::span<const float> /*obs*/) {}
  /// Episodes that one expert plays in a row, in the same variant of the task: 1, or the length of
  /// a learner's history.
  virtual std::int64_t history_length() const { return 1; }
  /// What somebody needs to record the same again, e.g. "horizon=100 samples=16"; "" if nothing.
  virtual std::string settings() const { return {}; }
};

struct ExpertOptions {
  /// Changes to the expert's settings for the task, "name=value,name=value".
  std::string settings;
  /// Threads that one expert may use at a time; only the planner takes more than one.
  std::size_t num_threads = 1;
};

/// Builds the expert called `name` for `task`. Throws Error(kUsage) with the nearest known name,
/// and where the expert cannot act in the task.
std::unique_ptr<Expert> make_expert(std::string_view name, std::string_view task,
                                    const ExpertOptions& options = {});

/// Names and one-line descriptions, in the order of the table.
std::vector<std::pair<std::string, std::string>> expert_names();

}  // namespace lram::agents::experts
