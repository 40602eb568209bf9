#include "datasets/statistics.h"

#include <gtest/gtest.h>

#include "tests/datasets/fixtures.h"
#include "tests/support/temp_folder.h"

namespace lram::datasets::statistics_test {
namespace {
Episode episode(std::vector<float> observations, std::vector<float> actions,
                std::vector<float> rewards) {
  Episode out;
  out.observations = std::move(observations);
  out.actions = std::move(actions);
  out.rewards = std::move(rewards);
  out.terminated.assign(out.rewards.size(), 0);
  out.truncated.assign(out.rewards.size(), 0);
  return out;
}

TEST(Statistics, OfTwoEpisodesByHand) {
  const TaskSpec spec = test::vector_task(2, 1);
  const Episode first = episode({0, 10, 2, 10}, {0.5f}, {3});
  const Episode second = episode({4, 10, 6, 10, 8, 10}, {-0.25f, 0.75f}, {-1, 2});
  const std::vector<EpisodeView> views = {view(first), view(second)};
  const Statistics got = compute_statistics(spec, views);
  EXPECT_EQ(got.num_episodes, 2);
  EXPECT_EQ(got.num_steps, 3);
  EXPECT_EQ(got.min_length, 1);
  EXPECT_EQ(got.max_length, 2);
  EXPECT_EQ(got.return_min, 1.0);
  EXPECT_EQ(got.return_mean, 2.0);
  EXPECT_EQ(got.return_max, 3.0);
  EXPECT_DOUBLE_EQ(got.return_quantiles[0], 1.1);  // 5 % of the way from 1 to 3
  EXPECT_DOUBLE_EQ(got.return_quantiles[2], 2.0);
  EXPECT_EQ(got.reward_min, -1.0f);
  EXPECT_EQ(got.reward_max, 3.0f);
  EXPECT_EQ(got.observation_mean, (std::vector<double>{4.0, 10.0}));
  EXPECT_EQ(got.observation_std, (std::vector<double>{std::sqrt(8.0), 0.0}));
  EXPECT_EQ(got.action_min, std::vector<float>{-0.25f});
  EXPECT_EQ(got.action_max, std::vector<float>{0.75f});
  EXPECT_TRUE(got.action_counts.empty());
}

TEST(Statistics, CountDiscreteActions) {
  TaskSpec spec = test::vector_task(1);
  spec.action = {.discrete = true, .size = 1, .num_actions = 3, .low = {}, .high = {}};
  Episode one = episode({1, 2, 3, 4}, {}, {0, 0, 0});
  one.discrete_actions = {2, 0, 2};
  const std::vector<EpisodeView> views = {view(one)};
  EXPECT_EQ(compute_statistics(spec, views).action_counts, (std::vector<std::int64_t>{1, 0, 2}));
}

TEST(Statistics, SpreadAroundALargeMeanKeepsItsDigits) {
  const TaskSpec spec = test::vector_task(1, 1);
  const Episode one = episode({1e6f, 1e6f + 1.0f}, {0}, {0});
  const std::vector<EpisodeView> views = {view(one)};
  EXPECT_DOUBLE_EQ(compute_statistics(spec, views).observation_std[0], 0.5);
}

TEST(Statistics, OfAFileAreThoseOfItsEpisodes) {
  const test::TempFolder folder;
  const TaskSpec spec = test::vector_task();
  const auto episodes = test::some_episodes(spec, 5);
  test::write_dataset(folder.path() / "data.h5", spec, episodes);
  const Dataset data(folder.path() / "data.h5");
  const std::vector<std::int64_t> indices = {1, 4};
  const std::vector<EpisodeView> views = {view(episodes[1]), view(episodes[4])};
  const Statistics want = compute_statistics(spec, views);
  EXPECT_EQ(compute_statistics(data, indices).observation_mean, want.observation_mean);
  EXPECT_EQ(compute_statistics(data, indices).return_mean, want.return_mean);
  EXPECT_EQ(compute_statistics(data).num_episodes, 5);
  EXPECT_THROW(compute_statistics(data, {}), Error);
}
}  // namespace
}  // namespace lram::datasets::statistics_test
