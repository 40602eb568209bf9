#include "envs/grid/grid_world.h"

#include <gtest/gtest.h>

#include <set>

#include "lram/core/error.h"

namespace lram::envs::grid_world_test {
namespace {

enum Move { kNorth, kEast, kSouth, kWest, kStay };

struct Walk {
  explicit Walk(const std::string& id, std::uint64_t seed = 0) : env(make(id)) {
    env->reset(seed, {.vector = obs});
  }
  StepResult step(Move move, int times = 1) {
    StepResult result;
    for (int i = 0; i < times; ++i) {
      const float action = static_cast<float>(move);
      result = env->step({&action, 1}, {.vector = obs});
      sum += result.reward;
    }
    return result;
  }
  std::unique_ptr<Environment> env;
  float obs[2] = {-1.0f, -1.0f};
  float sum = 0.0f;
};

// LRAM's configuration (lram.md section 6): 80 training pairs, then 20 held out, as x,y.
constexpr const char* kGoals =
    "2,0 0,2 1,5 2,2 5,7 9,1 6,9 5,5 1,1 7,9 0,9 3,8 8,5 0,0 8,9 1,3 0,5 0,1 9,5 8,3 4,4 1,2 "
    "7,8 9,4 3,7 9,2 9,7 5,6 6,3 4,6 0,8 3,3 4,5 1,9 1,4 9,3 7,3 3,9 2,4 0,6 6,2 2,3 1,8 4,2 "
    "8,0 8,6 3,1 6,7 2,7 1,0 4,0 7,0 9,6 8,8 2,6 5,4 7,1 2,9 2,5 4,3 4,1 7,2 0,3 8,1 5,3 7,7 "
    "6,1 0,7 2,8 9,9 5,2 4,8 8,2 6,0 7,4 3,2 4,7 7,6 3,6 0,4 9,0 8,4 3,4 6,5 7,5 5,0 3,5 9,8 "
    "8,7 3,0 6,6 5,9 1,7 5,1 1,6 5,8 2,1 4,9 6,4 6,8 ";
constexpr const char* kKeys =
    "8,3 5,3 7,0 4,5 4,4 3,9 2,2 8,0 1,0 0,0 1,8 3,0 7,3 3,3 9,0 0,4 7,6 7,7 1,2 3,1 5,5 8,8 "
    "2,6 4,2 6,9 1,5 4,0 9,6 0,9 7,2 1,1 4,7 8,5 2,8 9,3 0,5 6,6 6,5 3,5 1,6 4,9 3,4 0,7 9,5 "
    "2,7 1,9 8,1 2,5 6,2 1,3 2,4 0,3 1,7 3,8 0,8 7,8 0,6 6,4 3,6 8,9 5,6 9,9 5,4 4,3 5,0 6,7 "
    "4,6 6,8 6,1 9,7 7,9 4,1 5,8 4,8 9,8 5,7 7,5 3,2 9,4 5,9 6,3 3,1 3,7 2,9 0,1 5,2 2,1 0,2 "
    "2,3 8,7 9,1 7,4 8,6 8,2 2,0 6,0 7,1 1,4 9,2 5,1 ";

TEST(GridWorld, GoalsOf10x10AreLramsLists) {
  std::string goals, keys;
  for (const GridGoal& goal : grid_goals(10, 10, true)) {
    goals += std::to_string(goal.goal.x) + "," + std::to_string(goal.goal.y) + " ";
    keys += std::to_string(goal.key->x) + "," + std::to_string(goal.key->y) + " ";
  }
  EXPECT_EQ(goals, kGoals);
  EXPECT_EQ(keys, kKeys);
}

TEST(GridWorld, GoalsAreAllCellsAndNoKeyLiesOnItsGoal) {
  for (const auto& [width, height] : {std::pair{10, 10}, {17, 17}, {20, 20}, {40, 20}}) {
    std::set<std::pair<int, int>> cells;
    for (const GridGoal& goal : grid_goals(width, height, true)) {
      EXPECT_TRUE(goal.goal.x < width && goal.goal.y < height) << goal.name();
      EXPECT_NE(goal.goal, *goal.key);
      cells.insert({goal.goal.x, goal.goal.y});
    }
    EXPECT_EQ(std::ssize(cells), width * height);
  }
}

TEST(GridWorld, SeedsFromAMillionDrawHeldOutGoals) {
  for (const char* id : {"grid/dark_room_10x10_dense", "grid/dark_key_door_40x20_dense"}) {
    const auto env = make(id);
    std::set<std::string> train, held_out;
    for (std::uint64_t i = 0; i < 10'000; ++i) {
      env->reset(i, {});
      train.insert(env->variant());
      env->reset(kFirstHeldOutSeed + i, {});
      held_out.insert(env->variant());
      env->reset({}, {});  // goes on on the held-out side
      held_out.insert(env->variant());
    }
    for (const std::string& goal : held_out) EXPECT_FALSE(train.contains(goal)) << goal;
    const bool small = std::string(id).find("10x10") != std::string::npos;
    EXPECT_EQ(train.size() + held_out.size(), small ? 100u : 800u);
    EXPECT_EQ(held_out.size(), small ? 20u : 160u);
  }
}

TEST(GridWorld, ObservesRowAndColumnAndWallsBlock) {
  Walk walk("grid/dark_room_40x20_dense");
  EXPECT_EQ(walk.obs[0], 0.0f);
  EXPECT_EQ(walk.obs[1], 0.0f);
  walk.step(kNorth, 2);
  walk.step(kWest, 2);
  walk.step(kEast, 3);
  walk.step(kSouth, 2);
  walk.step(kStay);
  EXPECT_EQ(walk.obs[0], 2.0f);  // row
  EXPECT_EQ(walk.obs[1], 3.0f);  // column
  walk.step(kEast, 50);
  walk.step(kSouth, 50);
  EXPECT_EQ(walk.obs[0], 19.0f);
  EXPECT_EQ(walk.obs[1], 39.0f);
}

TEST(GridWorld, DenseRewardsEveryStepOnTheGoal) {
  Walk walk("dark_room_10x10_dense_goal_1_0");
  EXPECT_EQ(walk.env->variant(), "goal_1_0");
  EXPECT_EQ(walk.step(kEast).reward, 1.0f);
  EXPECT_EQ(walk.step(kStay).reward, 1.0f);
  EXPECT_EQ(walk.step(kEast).reward, 0.0f);
  const StepResult last = walk.step(kWest, 97);  // one visit on the way back
  EXPECT_TRUE(last.truncated && !last.terminated);
  EXPECT_EQ(walk.sum, 3.0f);
}

TEST(GridWorld, SparseRewardsTheFirstVisit) {
  Walk walk("grid/dark_room_10x10_sparse_goal_0_1");
  walk.step(kSouth);
  walk.step(kStay, 5);
  EXPECT_EQ(walk.sum, 1.0f);
  EXPECT_TRUE(walk.step(kStay, 94).truncated);
}

TEST(GridWorld, DarkEndsAtTheGoal) {
  Walk walk("grid/dark_room_10x10_dark_goal_0_1");
  const StepResult result = walk.step(kSouth);
  EXPECT_TRUE(result.terminated && !result.truncated);
  EXPECT_EQ(result.reward, 1.0f);
  EXPECT_THROW(walk.step(kStay), lram::Error);
}

TEST(GridWorld, TheDoorRewardsOnlyWithTheKey) {
  Walk walk("grid/dark_key_door_10x10_dense_key_0_2_goal_1_0");
  EXPECT_EQ(walk.env->variant(), "key_0_2_goal_1_0");
  EXPECT_EQ(walk.step(kEast).reward, 0.0f);  // the door, locked
  walk.step(kWest);
  EXPECT_EQ(walk.step(kSouth, 2).reward, 1.0f);  // the key
  EXPECT_EQ(walk.step(kStay).reward, 0.0f);      // but once
  walk.step(kNorth, 2);
  EXPECT_EQ(walk.step(kEast).reward, 1.0f);
  EXPECT_EQ(walk.step(kStay).reward, 1.0f);
}

std::string message(const std::string& id) {
  try {
    make(id);
  } catch (const lram::Error& error) {
    EXPECT_EQ(error.kind(), lram::ErrorKind::kUsage);
    return error.what();
  }
  return "no error";
}

TEST(GridWorld, NamesWrongFixedGoals) {
  EXPECT_NE(message("grid/dark_room_10x10_dense_goal_10_0").find("wanted x below 10"),
            std::string::npos);
  EXPECT_NE(message("grid/dark_key_door_10x10_dense_goal_1_0").find("key_X_Y_goal_X_Y"),
            std::string::npos);
  EXPECT_NE(message("grid/dark_room_10x10_dense_key_1_1_goal_1_0").find("without a key"),
            std::string::npos);
  EXPECT_NE(message("dmcontrol/cheetah_run_goal_1_0").find("unknown task"), std::string::npos);
}
}  // namespace
}  // namespace lram::envs::grid_world_test
