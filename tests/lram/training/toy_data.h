#pragma once
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "datasets/writer.h"
#include "lram/core/rng.h"
#include "lram/model/config.h"
#include "lram/training/config.h"

namespace lram::test {}
namespace lram::training::test {
using namespace lram::test;  // so that test:: means both in a file with others

/// A continuous task whose action follows from the observation. Entries of the action lie in
/// [-2, 3], those of the observation in [-1, 1].
inline TaskSpec continuous_task(const std::string& id, std::int64_t obs, std::int64_t actions) {
  TaskSpec spec;
  spec.id = id;
  spec.observation.parts = {{"sensor", obs}};
  spec.observation.vector_size = obs;
  spec.action.size = actions;
  const auto width = static_cast<std::size_t>(actions);
  spec.action.low.assign(width, -2.0);
  spec.action.high.assign(width, 3.0);
  spec.max_episode_steps = 40;
  spec.reward_scale = 10.0;
  return spec;
}

/// A task with three actions.
inline TaskSpec discrete_task(const std::string& id, std::int64_t obs) {
  TaskSpec spec = continuous_task(id, obs, 1);
  spec.action = {.discrete = true, .size = 1, .num_actions = 3, .low = {}, .high = {}};
  spec.reward_scale = 1.0;
  return spec;
}

inline datasets::Episode toy_episode(const TaskSpec& spec, std::uint64_t seed) {
  CounterRng rng(seed);
  datasets::Episode episode;
  episode.seed = seed;
  const auto length = 5 + static_cast<std::int64_t>(rng.below(36));
  for (std::int64_t t = 0; t <= length; ++t)
    for (std::int64_t i = 0; i < spec.observation.vector_size; ++i)
      episode.observations.push_back(static_cast<float>(2.0 * rng.uniform() - 1.0));
  for (std::int64_t t = 0; t < length; ++t) {
    const float first =
        episode.observations[static_cast<std::size_t>(t * spec.observation.vector_size)];
    for (std::int64_t a = 0; !spec.action.discrete && a < spec.action.size; ++a)
      episode.actions.push_back(std::clamp(0.5f + 2.0f * first, -2.0f, 3.0f));
    if (spec.action.discrete) episode.discrete_actions.push_back(first < 0.0f ? 0 : 2);
    episode.rewards.push_back(static_cast<float>(rng.uniform()));
    episode.terminated.push_back(0);
    episode.truncated.push_back(t + 1 == length ? 1 : 0);
  }
  return episode;
}

inline std::string write_task(const std::filesystem::path& folder, const TaskSpec& spec,
                              std::uint64_t first_seed, int episodes = 12) {
  const std::string path = folder / (spec.name() + ".h5");
  datasets::DatasetWriter writer(path, spec, {"toy", "1"});
  for (int i = 0; i < episodes; ++i)
    writer.append(toy_episode(spec, first_seed + static_cast<std::uint64_t>(i)));
  writer.finish();
  return path;
}

/// Three tasks in two domains: toy/reach, toy/push (continuous), grid/turn (discrete).
inline DataConfig write_toy_data(const std::filesystem::path& folder) {
  DataConfig config;
  config.files = write_task(folder, continuous_task("toy/reach", 3, 2), 100) + "," +
                 write_task(folder, discrete_task("grid/turn", 2), 200) + "," +
                 write_task(folder, continuous_task("toy/push", 4, 1), 300);
  return config;
}

inline model::PolicyConfig tiny_policy() {
  model::PolicyConfig config;
  config.embed_dim = 16;
  config.num_blocks = 2;
  config.num_heads = 2;
  config.slstm_at = "1";
  config.context_length = 8;
  config.state_dim = 6;
  config.action_slots = 2;
  return config;
}

inline TrainConfig tiny_training() {
  TrainConfig config;
  config.steps = 200;
  config.batch_size = 4;
  config.peak_lr = 3e-3;
  config.warmup_steps = 10;
  config.log_every = 7;
  config.validate_every = 50;
  config.validation_batches = 2;
  config.checkpoint_every = 60;
  return config;
}

}  // namespace lram::training::test
