#pragma once
#include <cstdint>
#include <vector>

#include "agents/recurrent_agent.h"
#include "envs/vector_env.h"
#include "eval/evaluation.h"

namespace lram::eval {

struct RolloutOptions {
  std::int64_t episodes = 10;                          ///< of every task
  std::uint64_t first_seed = envs::kFirstHeldOutSeed;  ///< episode e has first_seed + e
  bool show_progress = false;                          ///< a bar on stderr
};

struct RolloutResult {
  std::vector<Episode> episodes;  ///< by task in the order of the environments, then by seed
  double mean_return = 0.0;       ///< over all episodes
  std::int64_t steps = 0;
  double seconds = 0.0;  ///< wall clock
};

/// Lets the agent play whole episodes, all environments of a task sharing its seeds; row i of the
/// agent acts in environment i. An episode depends on its seed alone: not on the number of
/// environments or threads, nor on which episodes run beside it (tests/eval/rollout_test.cpp).
/// After catch_interrupts() a signal ends it early, with the episodes that have ended.
/// Throws Error(kUsage) when agent and environments differ in number.
RolloutResult rollout(agents::RecurrentAgent& agent, envs::VectorEnv& envs,
                      const RolloutOptions& options = {});

}  // namespace lram::eval
