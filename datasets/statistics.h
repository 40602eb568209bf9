#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "datasets/reader.h"

namespace lram::datasets {

/// What the model's config and `lram data show` want to know about some episodes of a data set.
struct Statistics {
  static constexpr std::array<double, 5> kQuantiles = {0.05, 0.25, 0.5, 0.75, 0.95};

  std::int64_t num_episodes = 0, num_steps = 0;
  std::int64_t min_length = 0, max_length = 0;
  double return_min = 0.0, return_mean = 0.0, return_max = 0.0;
  std::array<double, kQuantiles.size()> return_quantiles{};  ///< linear between order statistics
  float reward_min = 0.0f, reward_max = 0.0f;
  std::vector<double> observation_mean;     ///< [D] over all T + 1 rows of each episode
  std::vector<double> observation_std;      ///< [D] population form, divides by the number of rows
  std::vector<float> action_min;            ///< [A], empty for a discrete task
  std::vector<float> action_max;            ///< [A]
  std::vector<std::int64_t> action_counts;  ///< [num_actions], empty for a continuous task
};

/// Reads every value once or twice. Throws Error(kUsage) where there are no episodes.
Statistics compute_statistics(const TaskSpec& spec, std::span<const EpisodeView> episodes);
/// Over the episodes with these indices, usually the training half of a Split.
Statistics compute_statistics(const Dataset& data, std::span<const std::int64_t> episodes);
/// Over all episodes.
Statistics compute_statistics(const Dataset& data);

}  // namespace lram::datasets
