#include "envs/action_check.h"

#include <cmath>

#include "lram/core/error.h"

namespace lram::envs {
void check_action(const TaskSpec& spec, std::span<const float> action) {
  if (std::ssize(action) != spec.action.size)
    throw_error(ErrorKind::kUsage, "{}: action has {} entries, wanted {}", spec.id, action.size(),
                spec.action.size);
  for (std::size_t i = 0; i < action.size(); ++i)
    if (!std::isfinite(action[i]))
      throw_error(ErrorKind::kUsage, "{}: action[{}] is {}, wanted a finite number", spec.id, i,
                  action[i]);
  if (!spec.action.discrete) return;
  const float index = action[0];
  if (index != std::floor(index) || index < 0.0f ||
      index >= static_cast<float>(spec.action.num_actions))
    throw_error(ErrorKind::kUsage, "{}: action is {}, wanted an index from 0 to {}", spec.id, index,
                spec.action.num_actions - 1);
}

void throw_not_in_episode(const TaskSpec& spec) {
  throw_error(ErrorKind::kUsage, "{}: step() without an episode under way, wanted reset() first",
              spec.id);
}

void check_observation_size(const TaskSpec& spec, std::size_t got) {
  if (got != 0 && static_cast<std::int64_t>(got) != spec.observation.vector_size)
    throw_error(ErrorKind::kUsage, "{}: observation buffer has {} values, wanted {}", spec.id, got,
                spec.observation.vector_size);
}
}  // namespace lram::envs
