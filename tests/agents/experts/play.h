#pragma once
#include <string>
#include <vector>

#include "agents/experts/expert.h"

namespace lram::test {

struct Played {
  std::vector<float> actions, observations, rewards;
  std::string variant;
  double episode_return() const {
    double sum = 0.0;
    for (const float reward : rewards) sum += reward;
    return sum;
  }
};

/// One episode of `expert`, cut after `max_steps`.
inline Played play(agents::experts::Expert& expert, const std::string& task, std::uint64_t seed,
                   std::size_t max_steps = 1'000'000) {
  const auto env = envs::make(task);
  std::vector<float> obs(static_cast<std::size_t>(env->spec().observation.vector_size));
  std::vector<float> action(static_cast<std::size_t>(env->spec().action.size));
  Played played;
  env->reset(seed, {.vector = obs});
  expert.begin_episode(*env, seed);
  played.variant = env->variant();
  envs::StepResult result;
  while (!result.done() && played.rewards.size() < max_steps) {
    expert.act(*env, obs, action);
    result = env->step(action, {.vector = obs});
    expert.observe(action, result, obs);
    played.actions.insert(played.actions.end(), action.begin(), action.end());
    played.observations.insert(played.observations.end(), obs.begin(), obs.end());
    played.rewards.push_back(result.reward);
  }
  return played;
}

}  // namespace lram::test
