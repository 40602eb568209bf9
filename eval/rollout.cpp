#include "eval/rollout.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>

#include "lram/core/error.h"
#include "lram/core/interrupt.h"
#include "lram/core/progress.h"

namespace lram::eval {
namespace {
// The seeds of one task that no environment has taken yet.
struct Queue {
  std::size_t place = 0;  // of the task among the tasks
  std::int64_t taken = 0;
};
}  // namespace

RolloutResult rollout(agents::RecurrentAgent& agent, envs::VectorEnv& envs,
                      const RolloutOptions& options) {
  const std::size_t n = envs.size();
  LRAM_CHECK(agent.num_rows() == n, "the agent has ", agent.num_rows(), " rows for ", n,
             " environments");
  LRAM_CHECK(options.episodes >= 1, "episodes is ", options.episodes, ", wanted at least 1");
  const auto start = std::chrono::steady_clock::now();

  const std::size_t obs_width = envs.obs_width(), action_width = envs.action_width();
  std::vector<float> obs(n * obs_width), actions_memory(n * action_width);
  std::vector<envs::StepResult> results(n);
  std::vector<agents::AgentInput> inputs(n);
  std::vector<std::span<float>> actions(n);
  std::vector<Episode> running(n);
  std::map<std::string, Queue> queues;
  std::int64_t max_steps = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const TaskSpec& spec = envs.specs()[i];
    const auto [queue, added] = queues.try_emplace(spec.id, Queue{.place = queues.size()});
    if (added) max_steps += options.episodes * spec.max_episode_steps;
    inputs[i].vector = std::span<const float>(obs).subspan(
        i * obs_width, static_cast<std::size_t>(spec.observation.vector_size));
    actions[i] = std::span(actions_memory)
                     .subspan(i * action_width, static_cast<std::size_t>(spec.action.size));
  }

  // Gives environment i the next seed of its task, or rests it.
  const auto begin_next = [&](std::size_t i) {
    const std::string& task = envs.specs()[i].id;
    Queue& queue = queues.at(task);
    inputs[i].active = inputs[i].first = queue.taken < options.episodes;
    inputs[i].reward = 0.0f;
    if (!inputs[i].active) return false;
    const std::uint64_t seed = options.first_seed + static_cast<std::uint64_t>(queue.taken++);
    envs.reset(i, seed, {.obs = obs});
    running[i] = {.task = task, .seed = seed, .variant = envs.at(i).variant()};
    return true;
  };
  std::size_t active = 0;
  for (std::size_t i = 0; i < n; ++i) {
    // An environment that has nothing to play is stepped all the same.
    if (begin_next(i)) {
      ++active;
    } else {
      envs.reset(i, options.first_seed, {.obs = obs});
    }
  }

  std::unique_ptr<Progress> progress;
  if (options.show_progress) progress = std::make_unique<Progress>("eval", max_steps, "steps");
  RolloutResult result;
  std::int64_t done = 0;  // with the steps that ended episodes did not use
  while (active > 0 && interrupted() == 0) {
    agent.act(inputs, actions);
    envs.step(actions_memory, results, {.obs = obs});
    for (std::size_t i = 0; i < n; ++i) {
      if (!inputs[i].active) continue;
      Episode& episode = running[i];
      ++episode.length;
      episode.episode_return += static_cast<double>(results[i].reward);
      inputs[i].reward = results[i].reward;
      inputs[i].first = false;
      ++done;
      if (!results[i].done()) continue;
      episode.terminated = results[i].terminated;
      done += envs.specs()[i].max_episode_steps - episode.length;
      result.steps += episode.length;
      result.episodes.push_back(std::move(episode));
      active -= !begin_next(i);
    }
    if (progress) progress->update(done);
  }

  std::sort(result.episodes.begin(), result.episodes.end(),
            [&](const Episode& a, const Episode& b) {
              return std::pair(queues.at(a.task).place, a.seed) <
                     std::pair(queues.at(b.task).place, b.seed);
            });
  for (const Episode& episode : result.episodes) result.mean_return += episode.episode_return;
  if (!result.episodes.empty()) result.mean_return /= static_cast<double>(result.episodes.size());
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}
}  // namespace lram::eval
