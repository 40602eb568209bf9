#include "agents/experts/q_learning.h"

#include <algorithm>

#include "agents/experts/settings.h"
#include "lram/core/error.h"

namespace lram::agents::experts {
template <typename Visit>
void for_each_setting(QLearningConfig& config, Visit visit) {
  visit("history", config.history);
  visit("learning_rate", config.learning_rate);
  visit("discount", config.discount);
  visit("initial_value", config.initial_value);
  visit("first_epsilon", config.first_epsilon);
  visit("last_epsilon", config.last_epsilon);
}

QLearningConfig q_learning_config(const std::string& changes) {
  QLearningConfig c;
  change_settings(c, changes);
  const auto share = [](double value) { return value >= 0.0 && value <= 1.0; };
  require_setting(c.history >= 1, "history >= 1");
  require_setting(share(c.learning_rate) && c.learning_rate > 0.0, "0 < learning_rate <= 1");
  require_setting(share(c.discount) && c.discount < 1.0, "0 <= discount < 1");
  require_setting(share(c.first_epsilon) && share(c.last_epsilon), "0 <= epsilon <= 1");
  return c;
}

QLearning::QLearning(std::string_view task, const QLearningConfig& config) : config_(config) {
  const TaskSpec spec = envs::make(task)->spec();
  if (!spec.action.discrete || spec.observation.has_image())
    throw_error(ErrorKind::kUsage,
                "agent 'q_learning' cannot act in task '{}': it wants discrete actions and a "
                "vector observation",
                spec.id);
  num_actions_ = static_cast<std::size_t>(spec.action.num_actions);
}

std::string QLearning::settings() const { return settings_text(config_); }

void QLearning::begin_episode(const envs::Environment& /*env*/, std::uint64_t seed) {
  ++episode_;
  rng_ = CounterRng(seed, static_cast<std::uint64_t>(episode_));
  const double progress =
      std::min(1.0, static_cast<double>(episode_) /
                        std::max(1.0, 0.5 * static_cast<double>(config_.history)));
  epsilon_ = config_.first_epsilon + progress * (config_.last_epsilon - config_.first_epsilon);
  rewarded_ = false;
}

QLearning::Values& QLearning::values(std::span<const float> obs) {
  std::vector<float> key(obs.begin(), obs.end());
  key.push_back(rewarded_ ? 1.0f : 0.0f);
  return table_.try_emplace(std::move(key), num_actions_, config_.initial_value).first->second;
}

void QLearning::act(const envs::Environment& /*env*/, std::span<const float> obs,
                    std::span<float> action) {
  current_ = &values(obs);
  std::size_t chosen = 0;
  if (rng_.uniform() < epsilon_) {
    chosen = rng_.below(num_actions_);
  } else {
    const double best = *std::max_element(current_->begin(), current_->end());
    const auto ties = std::count(current_->begin(), current_->end(), best);
    auto pick = rng_.below(static_cast<std::uint64_t>(ties));
    while ((*current_)[chosen] != best || pick-- > 0) ++chosen;
  }
  action[0] = static_cast<float>(chosen);
}

// A cut by the time limit is no end of the task: what follows is still worth something.
void QLearning::observe(std::span<const float> action, const envs::StepResult& result,
                        std::span<const float> obs) {
  double& value = (*current_)[static_cast<std::size_t>(action[0])];
  rewarded_ = rewarded_ || result.reward > 0.0f;
  double target = result.reward;
  if (!result.terminated) {
    const Values& next = values(obs);
    target += config_.discount * *std::max_element(next.begin(), next.end());
  }
  value += config_.learning_rate * (target - value);
}

}  // namespace lram::agents::experts
