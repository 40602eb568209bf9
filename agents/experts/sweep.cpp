#include "agents/experts/sweep.h"

#include "envs/grid/grid_world.h"
#include "lram/core/error.h"

namespace lram::agents::experts {
namespace {
enum Action { kEast = 1, kSouth = 2, kWest = 3, kStay = 4 };
}  // namespace

Sweep::Sweep(std::string_view task) {
  const auto env = envs::make(task);
  const auto* grid = dynamic_cast<const envs::GridWorld*>(env.get());
  if (grid == nullptr)
    throw_error(ErrorKind::kUsage, "agent 'sweep' cannot act in task '{}': it wants a grid world",
                env->spec().id);
  width_ = grid->options().width;
  height_ = grid->options().height;
}

void Sweep::begin_episode(const envs::Environment& /*env*/, std::uint64_t /*seed*/) {
  stay_ = true;
}

// The path runs east on even rows and west on odd ones, and ends in the last row.
void Sweep::act(const envs::Environment& /*env*/, std::span<const float> obs,
                std::span<float> action) {
  const int row = static_cast<int>(obs[0]), column = static_cast<int>(obs[1]);
  const bool east = row % 2 == 0;
  const bool row_ends = column == (east ? width_ - 1 : 0);
  Action next = east ? kEast : kWest;
  if (row_ends) next = row == height_ - 1 ? kStay : kSouth;
  if (stay_) next = kStay;
  action[0] = static_cast<float>(next);
}

void Sweep::observe(std::span<const float> /*action*/, const envs::StepResult& result,
                    std::span<const float> /*obs*/) {
  stay_ = result.reward > 0.0f;
}

}  // namespace lram::agents::experts
