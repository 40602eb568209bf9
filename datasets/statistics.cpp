#include "datasets/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "lram/core/error.h"

namespace lram::datasets {
namespace {
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Between order statistics, as numpy's default; `sorted` is not empty.
double quantile(const std::vector<double>& sorted, double q) {
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(at);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], at - static_cast<double>(below));
}

// Calls visit(column, value) for every value of `array`, [rows, width].
template <typename Visit>
void for_each_value(std::span<const float> array, std::size_t width, Visit visit) {
  for (std::size_t row = 0; row < array.size(); row += width)
    for (std::size_t column = 0; column < width; ++column) visit(column, array[row + column]);
}

// Mean, then spread around it: two passes lose no digits to a large mean.
void observation_moments(std::span<const EpisodeView> episodes, std::size_t width,
                         Statistics& out) {
  out.observation_mean.assign(width, 0.0);
  out.observation_std.assign(width, 0.0);
  if (width == 0) return;
  const auto rows = static_cast<double>(out.num_steps + out.num_episodes);
  for (const EpisodeView& episode : episodes)
    for_each_value(episode.observations, width,
                   [&](std::size_t column, float value) { out.observation_mean[column] += value; });
  for (double& mean : out.observation_mean) mean /= rows;
  for (const EpisodeView& episode : episodes)
    for_each_value(episode.observations, width, [&](std::size_t column, float value) {
      const double distance = value - out.observation_mean[column];
      out.observation_std[column] += distance * distance;
    });
  for (double& spread : out.observation_std) spread = std::sqrt(spread / rows);
}

void action_ranges(std::span<const EpisodeView> episodes, const ActionSpec& spec, Statistics& out) {
  if (spec.discrete) {
    out.action_counts.assign(static_cast<std::size_t>(spec.num_actions), 0);
    for (const EpisodeView& episode : episodes)
      for (const std::int32_t action : episode.discrete_actions)
        if (action >= 0 && action < spec.num_actions)
          ++out.action_counts[static_cast<std::size_t>(action)];
    return;
  }
  const auto width = static_cast<std::size_t>(spec.size);
  out.action_min.assign(width, kInfinity);
  out.action_max.assign(width, -kInfinity);
  for (const EpisodeView& episode : episodes)
    for_each_value(episode.actions, width, [&](std::size_t column, float value) {
      out.action_min[column] = std::min(out.action_min[column], value);
      out.action_max[column] = std::max(out.action_max[column], value);
    });
}
}  // namespace

Statistics compute_statistics(const TaskSpec& spec, std::span<const EpisodeView> episodes) {
  LRAM_CHECK(!episodes.empty(), "statistics of no episodes of '", spec.id, "'");
  Statistics out;
  out.num_episodes = std::ssize(episodes);
  out.min_length = out.max_length = episodes[0].length();
  out.reward_min = kInfinity;
  out.reward_max = -kInfinity;
  std::vector<double> returns;
  for (const EpisodeView& episode : episodes) {
    out.num_steps += episode.length();
    out.min_length = std::min(out.min_length, episode.length());
    out.max_length = std::max(out.max_length, episode.length());
    for (const float reward : episode.rewards) {
      out.reward_min = std::min(out.reward_min, reward);
      out.reward_max = std::max(out.reward_max, reward);
    }
    returns.push_back(episode.episode_return);
  }
  std::ranges::sort(returns);
  out.return_min = returns.front();
  out.return_max = returns.back();
  out.return_mean =
      std::accumulate(returns.begin(), returns.end(), 0.0) / static_cast<double>(returns.size());
  for (std::size_t i = 0; i < Statistics::kQuantiles.size(); ++i)
    out.return_quantiles[i] = quantile(returns, Statistics::kQuantiles[i]);
  observation_moments(episodes, static_cast<std::size_t>(spec.observation.vector_size), out);
  action_ranges(episodes, spec.action, out);
  return out;
}

Statistics compute_statistics(const Dataset& data, std::span<const std::int64_t> episodes) {
  std::vector<EpisodeView> views;
  for (const std::int64_t episode : episodes) views.push_back(data.episode(episode));
  return compute_statistics(data.spec(), views);
}

Statistics compute_statistics(const Dataset& data) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(data.num_episodes()));
  std::iota(all.begin(), all.end(), 0);
  return compute_statistics(data, all);
}
}  // namespace lram::datasets
