#include "agents/experts/random.h"

#include <cmath>

#include "lram/core/error.h"

namespace lram::agents::experts {

Random::Random(std::string_view task) {
  const TaskSpec spec = envs::make(task)->spec();
  spec_ = spec.action;
  for (std::size_t i = 0; i < spec_.low.size(); ++i)
    if (!std::isfinite(spec_.low[i]) || !std::isfinite(spec_.high[i]))
      throw_error(ErrorKind::kUsage,
                  "agent 'random' cannot act in task '{}': action {} has no finite bounds", spec.id,
                  i);
}

void Random::begin_episode(const envs::Environment& /*env*/, std::uint64_t seed) {
  rng_ = CounterRng(seed);
}

void Random::act(const envs::Environment& /*env*/, std::span<const float> /*obs*/,
                 std::span<float> action) {
  if (spec_.discrete) {
    action[0] = static_cast<float>(rng_.below(static_cast<std::uint64_t>(spec_.num_actions)));
    return;
  }
  for (std::size_t i = 0; i < action.size(); ++i)
    action[i] = static_cast<float>(spec_.low[i] + (spec_.high[i] - spec_.low[i]) * rng_.uniform());
}

}  // namespace lram::agents::experts
