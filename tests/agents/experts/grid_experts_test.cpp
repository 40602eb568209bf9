// Sweep and Q-learner in the grid worlds, random agent, table of names.
#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "agents/experts/disturbance.h"
#include "agents/experts/q_learning.h"
#include "agents/experts/sweep.h"
#include "lram/core/error.h"
#include "tests/agents/experts/play.h"

namespace lram::agents::experts::grid_experts_test {
namespace {
using test::play;
using test::Played;

// A goal at (x, y) is found after one step of waiting and as many moves as its place on the path.
TEST(Sweep, FindsTheGoalInEveryCellAndStays) {
  for (int y = 0; y < 10; ++y)
    for (int x = 0; x < 10; ++x) {
      const std::string task =
          "grid/dark_room_10x10_dense_goal_" + std::to_string(x) + "_" + std::to_string(y);
      Sweep sweep(task);
      const int place = 10 * y + (y % 2 == 0 ? x : 9 - x);
      EXPECT_EQ(play(sweep, task, 0).episode_return(), 100.0 - place) << task;
    }
}

TEST(Sweep, PicksUpTheKeyAndGoesOnToTheDoor) {
  const std::string task = "grid/dark_key_door_10x10_dense_key_5_0_goal_0_1";
  Sweep sweep(task);
  const Played played = play(sweep, task, 0);
  // One step of waiting, 19 moves and one more step of waiting at the key come before the door's
  // first reward.
  EXPECT_EQ(played.episode_return(), 1.0 + 100.0 - 20.0);
}

TEST(Sweep, KnowsNoGoal) {
  // Until the first reward all episodes are the same.
  const char* tasks[] = {"grid/dark_room_10x10_dense_goal_9_9",
                         "grid/dark_room_10x10_dense_goal_0_9"};
  Sweep one(tasks[0]), other(tasks[1]);
  const Played a = play(one, tasks[0], 0, 90), b = play(other, tasks[1], 0, 90);
  EXPECT_EQ(a.actions, b.actions);
  EXPECT_EQ(a.episode_return(), 0.0);
}

TEST(QLearning, ImprovesOverItsHistory) {
  const std::string task = "grid/dark_room_10x10_dense_goal_6_4";
  QLearning learner(task, q_learning_config("history=200"));
  EXPECT_EQ(learner.history_length(), 200);
  std::vector<double> returns;
  for (int episode = 0; episode < 200; ++episode)
    returns.push_back(play(learner, task, 3).episode_return());
  const double first = std::accumulate(returns.begin(), returns.begin() + 10, 0.0) / 10.0;
  const double last = std::accumulate(returns.end() - 10, returns.end(), 0.0) / 10.0;
  EXPECT_LT(first, 50.0);
  EXPECT_GT(last, 85.0);  // the best possible is 91: ten moves, then 91 steps that end on the goal
}

TEST(QLearning, LearnsToFetchTheKeyFirst) {
  const std::string task = "grid/dark_key_door_10x10_dense_key_0_3_goal_3_0";
  QLearning learner(task, q_learning_config("history=400"));
  double last = 0.0;
  for (int episode = 0; episode < 400; ++episode) last = play(learner, task, 0).episode_return();
  EXPECT_GT(last, 70.0);
}

TEST(Random, ActsWithinTheBoundsAndDiffersBetweenSeeds) {
  const auto random = make_expert("random", "dmcontrol/walker_walk");
  const Played a = play(*random, "dmcontrol/walker_walk", 1, 50);
  const Played b = play(*random, "dmcontrol/walker_walk", 2, 50);
  EXPECT_NE(a.actions, b.actions);
  EXPECT_EQ(a.actions, play(*random, "dmcontrol/walker_walk", 1, 50).actions);
  for (const float value : a.actions) EXPECT_LE(std::abs(value), 1.0f);

  const auto walker = make_expert("random", "grid/dark_room_10x10_dense");
  const Played walk = play(*walker, "grid/dark_room_10x10_dense", 1);
  EXPECT_EQ(std::set<float>(walk.actions.begin(), walk.actions.end()),
            (std::set<float>{0, 1, 2, 3, 4}));
}

TEST(Disturbance, ChangesAShareOfTheBlocksAndKeepsTheBounds) {
  const ActionSpec spec{.size = 1, .low = {-2.0}, .high = {2.0}};
  Disturbance disturbance(spec, /*strength=*/1.0, /*share=*/0.25, /*correlation=*/0.8, /*seed=*/3);
  int changed = 0;
  constexpr int kSteps = 40'000;
  for (int step = 0; step < kSteps; ++step) {
    float action = 0.5f;
    disturbance.apply({&action, 1});
    if (action != 0.5f) ++changed;
    EXPECT_LE(std::abs(action), 2.0f);
  }
  EXPECT_NEAR(static_cast<double>(changed) / kSteps, 0.25, 0.05);
}

TEST(Experts, AnUnknownNameGetsTheNearestOne) {
  try {
    make_expert("sweeper", "grid/dark_room_10x10_dense");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_STREQ(error.what(), "unknown agent 'sweeper', did you mean 'sweep'?");
  }
}

TEST(Experts, TasksThatDoNotFitAreRefused) {
  for (const char* name : {"sweep", "q_learning"})
    EXPECT_THROW(make_expert(name, "dmcontrol/fish_upright"), Error) << name;
  EXPECT_THROW(make_expert("sweep", "grid/dark_room_10x10_dense", {.settings = "speed=2"}), Error);
}
}  // namespace
}  // namespace lram::agents::experts::grid_experts_test
