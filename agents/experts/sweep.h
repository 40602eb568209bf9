#pragma once
#include "agents/experts/expert.h"

namespace lram::agents::experts {

/// Searches a grid world without knowing its goal: row by row from the start at the top left, and
/// stays where staying is rewarded; a key is found on the way, and the door behind it if it comes
/// later on the path. Its actions depend on its own observations and rewards alone, so that a
/// recurrent policy can learn to do the same.
class Sweep : public Expert {
 public:
  explicit Sweep(std::string_view task);

  void begin_episode(const envs::Environment& env, std::uint64_t seed) override;
  void act(const envs::Environment& env, std::span<const float> obs,
           std::span<float> action) override;
  void observe(std::span<const float> action, const envs::StepResult& result,
               std::span<const float> obs) override;

 private:
  int width_ = 0, height_ = 0;
  bool stay_ = true;  ///< to see whether staying is rewarded
};

}  // namespace lram::agents::experts
