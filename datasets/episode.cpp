#include "datasets/episode.h"

#include "lram/core/error.h"

namespace lram::datasets {
double undiscounted_return(std::span<const float> rewards) {
  double sum = 0.0;
  for (const float reward : rewards) sum += reward;
  return sum;
}

EpisodeView view(const Episode& episode) {
  return {episode.observations,     episode.images,  episode.actions,
          episode.discrete_actions, episode.rewards, episode.terminated,
          episode.truncated,        episode.seed,    undiscounted_return(episode.rewards),
          episode.variant};
}

void check_shapes(const EpisodeView& episode, const TaskSpec& spec) {
  const std::int64_t steps = episode.length();
  const auto check = [&](const char* array, std::int64_t found, std::int64_t wanted) {
    if (found != wanted)
      throw_error(ErrorKind::kUsage, "episode of '{}': {} has {} values, {} steps want {}", spec.id,
                  array, found, steps, wanted);
  };
  if (steps < 1)
    throw_error(ErrorKind::kUsage, "episode of '{}': 0 steps, wanted at least 1", spec.id);
  check("observations", std::ssize(episode.observations),
        (steps + 1) * spec.observation.vector_size);
  check("images", std::ssize(episode.images), (steps + 1) * spec.observation.image_size());
  check("actions", std::ssize(episode.actions),
        spec.action.discrete ? 0 : steps * spec.action.size);
  check("discrete_actions", std::ssize(episode.discrete_actions), spec.action.discrete ? steps : 0);
  check("terminated", std::ssize(episode.terminated), steps);
  check("truncated", std::ssize(episode.truncated), steps);
  if (episode.variant.find('\0') != std::string_view::npos)
    throw_error(ErrorKind::kUsage, "episode of '{}': the variant holds a null byte", spec.id);
}
}  // namespace lram::datasets
