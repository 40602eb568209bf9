#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "eval/latency.h"
#include "lram/model/policy.h"

namespace lram::eval {

/// One model at one context length.
struct LatencyCase {
  std::string model;  ///< "xlstm" or "transformer"
  std::shared_ptr<model::Policy> policy;
  std::string task;          ///< of the policy's table; its observations and actions are timed
  std::int64_t context = 0;  ///< environment steps seen before the first timed one
};

struct LatencyOptions {
  std::int64_t steps = 2000;  ///< timed, per case
  int threads = 0;            ///< of LibTorch; 0 = one or all cores, whichever is faster here
  bool show_progress = false;
};

/// Times RecurrentAgent::act() for one environment: from the observation in memory (normalising and
/// placing it, the three tokens through the policy, the argmax) to the action in memory. The
/// environment is not in it.
/// - A case is timed in blocks of 10 steps, each behind exactly `context` steps that are not timed:
///   the last three of them, the warm-up, are taken before each block, the others once. The cases
///   take turns block by block, so that a slow spell of the machine meets all.
/// - Subnormal numbers are flushed to zero, as the agent's programs do.
std::vector<LatencyRow> measure_step_latency(const std::vector<LatencyCase>& cases,
                                             const LatencyOptions& options);

/// Weights of a policy without its table of positions, which grows with the longest episode alone
/// and costs a step one look-up.
std::int64_t count_parameters(const model::Policy& policy);

/// The Transformer whose count_parameters() is nearest to `parameters` (within a few percent): the
/// width of `like` if some number of blocks fits, else another width. It attends over
/// `context_length` steps and has positions for `max_episode_steps`.
model::PolicyConfig transformer_of_size(const model::PolicyConfig& like, std::int64_t parameters,
                                        std::int64_t context_length,
                                        std::int64_t max_episode_steps);

}  // namespace lram::eval
