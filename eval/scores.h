#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "eval/evaluation.h"

namespace lram::eval {

/// A mean and its 95 % interval.
struct Estimate {
  double value = 0.0, low = 0.0, high = 0.0;
};

/// Means of `resamples` draws with replacement from `values` (Efron 1979). A pure function of the
/// values and the stream.
std::vector<double> bootstrap_means(std::span<const double> values, std::uint64_t stream,
                                    std::size_t resamples = 10'000);

/// The `level` quantile of `values`, linear between neighbours. Reorders them.
double quantile(std::vector<double>& values, double level);

/// Mean with its percentile bootstrap interval, 2.5 to 97.5 %.
Estimate mean_estimate(std::span<const double> values, std::uint64_t stream = 0);

/// (raw - low) / (high - low); none where the references do not differ.
std::optional<Estimate> normalise(const Estimate& raw, double low, double high);

struct TaskScore {
  std::string task, mode;
  double target_return = 0.0;
  std::size_t episodes = 0;
  Estimate mean;                       ///< return, task units
  double data_mean = 0.0;              ///< of the training data
  std::optional<Estimate> data_ratio;  ///< mean / data_mean
  std::optional<Estimate> data_score;  ///< 0 = random actions, 1 = mean of our training data
  std::optional<Estimate> lram_score;  ///< 0 = LRAM's random, 1 = LRAM's data
};

/// Mean over the tasks of a domain that have the score; the interval resamples the episodes of each
/// task apart (Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice", Sec. 4.1).
struct DomainScore {
  std::string domain, mode;
  std::size_t tasks = 0;
  std::optional<Estimate> data_ratio, data_score, lram_score;
};

struct Scores {
  std::vector<TaskScore> tasks;      ///< in the order of the evaluation
  std::vector<DomainScore> domains;  ///< by first appearance
};

Scores score(const std::vector<TaskEvaluation>& tasks);

/// Aligned text, one row per task and mode, then one per domain and mode.
std::string to_table(const Scores& scores);
/// The same with a header line; intervals in columns of their own, an empty field where a score is
/// not defined.
std::string to_csv(const Scores& scores);
void to_json(nlohmann::json& json, const Scores& scores);

}  // namespace lram::eval
