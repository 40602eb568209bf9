#pragma once
#include <span>

#include "lram/core/spec.h"

namespace lram::envs {

/// What every environment refuses in step(): a wrong number of entries, a non-finite one, a
/// discrete index outside the range. Throws Error(kUsage) with task, entry and value.
void check_action(const TaskSpec& spec, std::span<const float> action);

/// Throws Error(kUsage) for a step() without an episode under way.
[[noreturn]] void throw_not_in_episode(const TaskSpec& spec);

/// Throws Error(kUsage) unless `got`, the length of an observation buffer, is the task's or 0.
void check_observation_size(const TaskSpec& spec, std::size_t got);

}  // namespace lram::envs
