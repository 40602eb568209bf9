#pragma once
#include "agents/experts/expert.h"
#include "lram/core/rng.h"

namespace lram::agents::experts {

/// Uniform actions within the task's bounds: the floor of normalised scores.
class Random : public Expert {
 public:
  explicit Random(std::string_view task);

  void begin_episode(const envs::Environment& env, std::uint64_t seed) override;
  void act(const envs::Environment& env, std::span<const float> obs,
           std::span<float> action) override;

 private:
  ActionSpec spec_;
  CounterRng rng_{0};
};

}  // namespace lram::agents::experts
