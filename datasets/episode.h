#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lram/core/spec.h"

namespace lram::datasets {
// T steps, D observation.vector_size, H W C image sizes, A action.size of the TaskSpec.

/// One episode in memory, as a collector fills it. Row t of the observations is what the agent saw
/// before step t; row T is what the last step led to.
struct Episode {
  std::vector<float> observations;             ///< [T + 1, D], empty where the task has no vector
  std::vector<std::uint8_t> images;            ///< [T + 1, H, W, C], empty where it has no image
  std::vector<float> actions;                  ///< [T, A] task units, continuous tasks only
  std::vector<std::int32_t> discrete_actions;  ///< [T], discrete tasks only
  std::vector<float> rewards;                  ///< [T]
  std::vector<std::uint8_t> terminated;        ///< [T] 0 or 1
  std::vector<std::uint8_t> truncated;         ///< [T] 0 or 1
  std::uint64_t seed = 0;                      ///< what the environment was reset with
  std::string variant;                         ///< Environment::variant(), such as the goal

  std::int64_t length() const { return std::ssize(rewards); }
};

/// The same episode read in place: the spans point into a mapped file, or into an Episode, and live
/// as long as that does. Fields are those of Episode.
struct EpisodeView {
  std::span<const float> observations;
  std::span<const std::uint8_t> images;
  std::span<const float> actions;
  std::span<const std::int32_t> discrete_actions;
  std::span<const float> rewards;
  std::span<const std::uint8_t> terminated;
  std::span<const std::uint8_t> truncated;
  std::uint64_t seed = 0;
  double episode_return = 0.0;  ///< sum of the rewards, as undiscounted_return() gives it
  std::string_view variant;

  std::int64_t length() const { return std::ssize(rewards); }
};

/// Sum of the rewards in double precision, first to last.
double undiscounted_return(std::span<const float> rewards);

EpisodeView view(const Episode& episode);

/// Throws Error(kUsage) that names the array unless the sizes are those of `spec` and there is at
/// least one step. Values are not looked at; `lram data validate` does that.
void check_shapes(const EpisodeView& episode, const TaskSpec& spec);

}  // namespace lram::datasets
