// Steps a task with the installed libraries.
#include <cstdio>
#include <vector>

#include "envs/environment.h"

int main() {
  const auto env = lram::envs::make("dmcontrol/cartpole_swingup");
  std::vector<float> obs(static_cast<std::size_t>(env->spec().observation.vector_size));
  env->reset(7, {.vector = obs});
  const std::vector<float> action(static_cast<std::size_t>(env->spec().action.size), 0.5f);
  int steps = 1;
  while (!env->step(action, {.vector = obs}).done()) ++steps;
  std::printf("%d steps\n", steps);
  return steps == 1000 ? 0 : 1;
}
