#include "agents/experts/sweep.h"

#include "envs/grid/grid_world.h"
#include "lram/core/error.h"

namespace lram::agents::experts {
namespace {
enum Action { kNorth, kEast, kSouth, kWest, kStay };
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
  forward_ = true;
  stay_ = true;
}

// The path runs east on even rows and west on odd ones.
void Sweep::act(const envs::Environment& /*env*/, std::span<const float> obs,
                std::span<float> action) {
  const auto row = static_cast<int>(obs[0]);
  const auto column = static_cast<int>(obs[1]);
  const bool east = row % 2 == 0;
  const int row_end = east ? width_ - 1 : 0, row_start = width_ - 1 - row_end;
  if (forward_ && row == height_ - 1 && column == row_end) forward_ = false;
  if (!forward_ && row == 0 && column == 0) forward_ = true;

  Action next = kStay;
  if (stay_)
    next = kStay;
  else if (forward_)
    next = column == row_end ? kSouth : east ? kEast : kWest;
  else
    next = column == row_start ? kNorth : east ? kWest : kEast;
  action[0] = static_cast<float>(next);
}

void Sweep::observe(std::span<const float> /*action*/, const envs::StepResult& result,
                    std::span<const float> /*obs*/) {
  stay_ = result.reward > 0.0f;
}

}  // namespace lram::agents::experts
