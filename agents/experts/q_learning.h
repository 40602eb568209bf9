#pragma once
#include <map>
#include <string>
#include <vector>

#include "agents/experts/expert.h"
#include "lram/core/rng.h"

namespace lram::agents::experts {

struct QLearningConfig {
  int history = 200;  ///< episodes in a row in one variant of the task
  double learning_rate = 0.5;
  double discount = 0.95;
  double initial_value = 1.0;  ///< of untried actions; above what is known, it drives exploration
  double first_epsilon = 0.3;  ///< share of random actions in the first episode
  double last_epsilon = 0.01;  ///< and from the middle of the history on; linear between
};

/// The default settings changed by `changes`. Throws Error(kUsage).
QLearningConfig q_learning_config(const std::string& changes);

/// Tabular Q-learning (Watkins 1989) over the observations of a task with discrete actions; whether
/// the episode has been rewarded yet counts as part of the state, so that a picked-up key is seen.
/// One object learns through one history; the episodes in their order are what is worth recording.
class QLearning : public Expert {
 public:
  QLearning(std::string_view task, const QLearningConfig& config);

  void begin_episode(const envs::Environment& env, std::uint64_t seed) override;
  void act(const envs::Environment& env, std::span<const float> obs,
           std::span<float> action) override;
  void observe(std::span<const float> action, const envs::StepResult& result,
               std::span<const float> obs) override;
  std::int64_t history_length() const override { return config_.history; }
  std::string settings() const override;

 private:
  using Values = std::vector<double>;  ///< one per action
  Values& values(std::span<const float> obs);

  QLearningConfig config_;
  std::size_t num_actions_;
  std::map<std::vector<float>, Values> table_;  ///< by observation and `rewarded_`
  Values* current_ = nullptr;                   ///< values where the last action was chosen
  bool rewarded_ = false;
  std::int64_t episode_ = -1;
  double epsilon_ = 0.0;
  CounterRng rng_{0};
};

}  // namespace lram::agents::experts
