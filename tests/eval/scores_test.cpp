#include "eval/scores.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "eval/lram_references.h"
#include "lram/core/error.h"
#include "lram/core/rng.h"

namespace lram::eval::scores_test {
namespace {
TaskEvaluation task_with(const std::string& task, const std::vector<double>& returns,
                         double data_mean, double random_mean,
                         const std::string& mode = "carried") {
  TaskEvaluation evaluation{.task = task,
                            .mode = mode,
                            .target_return = 900.0,
                            .data_mean = data_mean,
                            .random_mean = random_mean,
                            .episodes = {}};
  for (std::size_t i = 0; i < returns.size(); ++i)
    evaluation.episodes.push_back({.task = task,
                                   .seed = 1'000'000 + i,
                                   .length = 1000,
                                   .episode_return = returns[i],
                                   .variant = {}});
  return evaluation;
}

TEST(Quantile, IsLinearBetweenNeighbours) {
  std::vector<double> values = {4.0, 1.0, 3.0, 2.0};
  EXPECT_EQ(quantile(values, 0.0), 1.0);
  EXPECT_EQ(quantile(values, 1.0), 4.0);
  EXPECT_EQ(quantile(values, 0.5), 2.5);
  EXPECT_NEAR(quantile(values, 0.1), 1.3, 1e-12);
}

TEST(Bootstrap, OfTwoValuesHasThreeMeansInTheirShares) {
  // Draws of {0, 1} with replacement have the means 0, 1/2, 1 with chances 1/4, 1/2, 1/4.
  const std::vector<double> means = bootstrap_means(std::vector{0.0, 1.0}, 0, 100'000);
  for (const auto& [mean, chance] : {std::pair{0.0, 0.25}, {0.5, 0.5}, {1.0, 0.25}})
    EXPECT_NEAR(static_cast<double>(std::count(means.begin(), means.end(), mean)) / 1e5, chance,
                0.006);  // four standard errors
  const Estimate estimate = mean_estimate(std::vector{0.0, 1.0});
  EXPECT_EQ(estimate.value, 0.5);
  EXPECT_EQ(estimate.low, 0.0);
  EXPECT_EQ(estimate.high, 1.0);
}

TEST(Bootstrap, OfEqualValuesIsAPoint) {
  const Estimate estimate = mean_estimate(std::vector{7.0, 7.0, 7.0});
  EXPECT_EQ(estimate.low, 7.0);
  EXPECT_EQ(estimate.high, 7.0);
}

TEST(Bootstrap, CoversTheMeanOfANormalNineteenTimesInTwenty) {
  CounterRng rng(3);
  int covered = 0;
  constexpr int kTrials = 400, kEpisodes = 40;
  for (int trial = 0; trial < kTrials; ++trial) {
    std::vector<double> values(kEpisodes);
    for (double& value : values) value = 5.0 + rng.normal();
    const Estimate estimate = mean_estimate(values, static_cast<std::uint64_t>(trial));
    covered += estimate.low <= 5.0 && 5.0 <= estimate.high;
  }
  EXPECT_NEAR(covered / static_cast<double>(kTrials), 0.94, 0.035);  // percentile, 40 values
}

TEST(Bootstrap, RepeatsAndRefusesNothing) {
  const std::vector<double> values = {1.0, 2.0, 5.0};
  EXPECT_EQ(bootstrap_means(values, 4), bootstrap_means(values, 4));
  EXPECT_NE(bootstrap_means(values, 4), bootstrap_means(values, 5));
  EXPECT_THROW(bootstrap_means({}, 0), Error);
}

TEST(Scores, OfHandSizedTasks) {
  const Scores scores = score({task_with("dmcontrol/cartpole_swingup", {600, 800}, 800, 100),
                               task_with("dmcontrol/reacher_easy", {500, 500}, 900, 100),
                               task_with("grid/dark_room_10x10_dense", {40, 60}, 0, 0)});
  ASSERT_EQ(scores.tasks.size(), 3u);
  const TaskScore& cartpole = scores.tasks[0];
  EXPECT_EQ(cartpole.mean.value, 700.0);
  EXPECT_EQ(cartpole.mean.low, 600.0);
  EXPECT_EQ(cartpole.mean.high, 800.0);
  EXPECT_NEAR(cartpole.data_ratio->value, 0.875, 1e-12);
  EXPECT_NEAR(cartpole.data_score->value, 600.0 / 700.0, 1e-12);
  EXPECT_NEAR(cartpole.data_score->low, 500.0 / 700.0, 1e-12);
  EXPECT_NEAR(cartpole.lram_score->value, (700.0 - 27.414) / (766.15 - 27.414), 1e-12);
  // No references, no score.
  EXPECT_FALSE(scores.tasks[2].data_ratio || scores.tasks[2].data_score ||
               scores.tasks[2].lram_score);

  ASSERT_EQ(scores.domains.size(), 2u);
  const DomainScore& dmcontrol = scores.domains[0];
  EXPECT_EQ(dmcontrol.domain, "dmcontrol");
  EXPECT_EQ(dmcontrol.tasks, 2u);
  EXPECT_NEAR(dmcontrol.data_score->value, (600.0 / 700.0 + 0.5) / 2.0, 1e-12);
  EXPECT_NEAR(dmcontrol.data_score->low, (500.0 / 700.0 + 0.5) / 2.0, 1e-12);
  EXPECT_FALSE(scores.domains[1].data_score);
}

TEST(Scores, KeepModesApartAndDoNotDependOnOtherTasks) {
  const auto carried = task_with("dmcontrol/walker_run", {1, 5, 9}, 10, 0);
  const auto window = task_with("dmcontrol/walker_run", {2, 2, 2}, 10, 0, "window");
  const Scores both = score({carried, window});
  ASSERT_EQ(both.domains.size(), 2u);
  EXPECT_NEAR(both.domains[1].data_score->value, 0.2, 1e-12);
  EXPECT_EQ(score({carried}).tasks[0].mean.low, both.tasks[0].mean.low);
  EXPECT_EQ(score({window, carried}).tasks[1].mean.high, both.tasks[0].mean.high);
}

TEST(Scores, PrintAsTableCsvAndJson) {
  const Scores scores = score({task_with("dmcontrol/reacher_easy", {500, 500}, 1000, 0),
                               task_with("grid/dark_room_10x10_dense", {40}, 0, 0)});
  const std::string table = to_table(scores);
  EXPECT_NE(table.find("500.0 [500.0, 500.0]"), std::string::npos) << table;
  EXPECT_NE(table.find("0.50 [0.50, 0.50]"), std::string::npos) << table;
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 5);

  const std::string csv = to_csv(scores);
  EXPECT_NE(csv.find("dmcontrol/reacher_easy,carried,2,900,500,500,500,1000,0.5,0.5,0.5,"),
            std::string::npos)
      << csv;
  std::istringstream lines(csv);
  for (std::string line; std::getline(lines, line);)
    EXPECT_EQ(std::count(line.begin(), line.end(), ','), 16) << line;

  const nlohmann::json json = scores;
  EXPECT_EQ(json["tasks"][0]["data_ratio"]["value"], 0.5);
  EXPECT_TRUE(json["tasks"][1]["lram_score"].is_null());
  EXPECT_EQ(json["domains"].size(), 2u);
}

TEST(LramReferences, HoldTheTasksOfDmcontrol) {
  int with_scores = 0;
  for (const LramReference& reference : lram_references())
    with_scores += reference.data_return.has_value();
  EXPECT_EQ(with_scores, 16);
  EXPECT_EQ(find_lram_reference("dmcontrol/cartpole_swingup")->target_return, 857.492);
  EXPECT_EQ(find_lram_reference("dmcontrol/cartpole"), nullptr);
}
}  // namespace
}  // namespace lram::eval::scores_test
