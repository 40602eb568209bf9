#include "eval/scores.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "eval/lram_references.h"
#include "lram/core/crc32c.h"
#include "lram/core/error.h"
#include "lram/core/rng.h"

namespace lram::eval {
namespace {
double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

Estimate estimate(double value, std::vector<double> resampled) {
  const double low = quantile(resampled, 0.025);
  return {value, low, quantile(resampled, 0.975)};
}

// A task's draws do not depend on which other tasks were evaluated.
std::uint64_t stream_of(const TaskEvaluation& task) {
  const std::string name = task.task + " " + task.mode;
  return crc32c(std::as_bytes(std::span(name)));
}

// Sums of normalised scores over the tasks of one domain and mode, per resample.
struct Sum {
  std::size_t tasks = 0;
  double value = 0.0;
  std::vector<double> resampled;

  void add(double raw, const std::vector<double>& means, double low, double high) {
    if (low == high) return;
    resampled.resize(means.size());
    for (std::size_t i = 0; i < means.size(); ++i) resampled[i] += (means[i] - low) / (high - low);
    value += (raw - low) / (high - low);
    ++tasks;
  }
  std::optional<Estimate> mean() const {
    if (tasks == 0) return std::nullopt;
    std::vector<double> means = resampled;
    const auto n = static_cast<double>(tasks);
    for (double& entry : means) entry /= n;
    return estimate(value / n, std::move(means));
  }
};

struct DomainSums {
  std::string domain, mode;
  std::size_t tasks = 0;
  Sum ratio, data, lram;
};

DomainSums& sums_of(std::vector<DomainSums>& all, const TaskEvaluation& task) {
  const std::string domain = task.task.substr(0, task.task.find('/'));
  for (DomainSums& sums : all)
    if (sums.domain == domain && sums.mode == task.mode) return sums;
  all.push_back({.domain = domain, .mode = task.mode, .ratio = {}, .data = {}, .lram = {}});
  return all.back();
}
}  // namespace

std::vector<double> bootstrap_means(std::span<const double> values, std::uint64_t stream,
                                    std::size_t resamples) {
  LRAM_CHECK(!values.empty(), "no values to resample");
  CounterRng rng(/*seed=*/0, stream);
  std::vector<double> means(resamples);
  for (double& mean : means) {
    for (std::size_t i = 0; i < values.size(); ++i) mean += values[rng.below(values.size())];
    mean /= static_cast<double>(values.size());
  }
  return means;
}

double quantile(std::vector<double>& values, double level) {
  LRAM_CHECK(!values.empty() && level >= 0.0 && level <= 1.0, "quantile ", level, " of ",
             values.size(), " values");
  const double place = level * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::ptrdiff_t>(place);
  std::nth_element(values.begin(), values.begin() + below, values.end());
  const double low = values[static_cast<std::size_t>(below)];
  const double part = place - static_cast<double>(below);
  if (part == 0.0) return low;
  return low + part * (*std::min_element(values.begin() + below + 1, values.end()) - low);
}

Estimate mean_estimate(std::span<const double> values, std::uint64_t stream) {
  return estimate(mean_of(values), bootstrap_means(values, stream));
}

std::optional<Estimate> normalise(const Estimate& raw, double low, double high) {
  if (low == high) return std::nullopt;
  const auto map = [&](double value) { return (value - low) / (high - low); };
  // References in the wrong order turn the interval around.
  return Estimate{map(raw.value), std::min(map(raw.low), map(raw.high)),
                  std::max(map(raw.low), map(raw.high))};
}

Scores score(const std::vector<TaskEvaluation>& tasks) {
  Scores scores;
  std::vector<DomainSums> domains;
  for (const TaskEvaluation& task : tasks) {
    std::vector<double> returns;
    for (const Episode& episode : task.episodes) returns.push_back(episode.episode_return);
    const std::vector<double> resampled = bootstrap_means(returns, stream_of(task));

    TaskScore row{.task = task.task,
                  .mode = task.mode,
                  .target_return = task.target_return,
                  .episodes = returns.size(),
                  .mean = estimate(mean_of(returns), resampled),
                  .data_mean = task.data_mean,
                  .data_ratio = {},
                  .data_score = {},
                  .lram_score = {}};
    row.data_ratio = normalise(row.mean, 0.0, task.data_mean);
    row.data_score = normalise(row.mean, task.random_mean, task.data_mean);
    DomainSums& sums = sums_of(domains, task);
    ++sums.tasks;
    sums.ratio.add(row.mean.value, resampled, 0.0, task.data_mean);
    sums.data.add(row.mean.value, resampled, task.random_mean, task.data_mean);
    const LramReference* lram = find_lram_reference(task.task);
    if (lram != nullptr && lram->data_return) {
      row.lram_score = normalise(row.mean, *lram->random_return, *lram->data_return);
      sums.lram.add(row.mean.value, resampled, *lram->random_return, *lram->data_return);
    }
    scores.tasks.push_back(std::move(row));
  }
  for (const DomainSums& sums : domains)
    scores.domains.push_back({sums.domain, sums.mode, sums.tasks, sums.ratio.mean(),
                              sums.data.mean(), sums.lram.mean()});
  return scores;
}
}  // namespace lram::eval
