#include "agents/experts/planner.h"

#include <gtest/gtest.h>

#include "lram/core/error.h"
#include "tests/agents/experts/play.h"

namespace lram::agents::experts::planner_test {
namespace {
using test::play;

// Thresholds: LRAM's mean return of the data (lram.md 3.6).
TEST(Planner, DrivesThePointMassIntoItsTarget) {
  const auto planner = make_expert("planner", "dmcontrol/point_mass_easy");
  EXPECT_GE(play(*planner, "dmcontrol/point_mass_easy", 0).episode_return(), 779.3);
}

TEST(Planner, SwingsThePendulumUp) {
  const auto planner = make_expert("planner", "dmcontrol/pendulum_swingup");
  EXPECT_GE(play(*planner, "dmcontrol/pendulum_swingup", 0).episode_return(), 614.5);
}

TEST(Planner, ActsTheSameWithAnyNumberOfThreads) {
  for (const char* task : {"dmcontrol/reacher_easy", "dmcontrol/finger_spin"}) {
    const PlannerConfig config = planner_config(task);
    Planner one(task, config, 1), three(task, config, 3);
    EXPECT_EQ(play(one, task, 5, 40).actions, play(three, task, 5, 40).actions) << task;
  }
}

TEST(Planner, EpisodesDoNotDependOnThoseBefore) {
  const char* task = "dmcontrol/reacher_easy";
  const auto fresh = make_expert("planner", task), used = make_expert("planner", task);
  play(*used, task, 1, 30);
  EXPECT_EQ(play(*fresh, task, 2, 30).actions, play(*used, task, 2, 30).actions);
}

TEST(Planner, ActionsStayWithinTheBounds) {
  const char* task = "dmcontrol/cheetah_run";
  Planner planner(task, planner_config(task, "samples=4,noise=3,narrow_noise=3"));
  for (const float value : play(planner, task, 0, 40).actions) {
    EXPECT_GE(value, -1.0f);
    EXPECT_LE(value, 1.0f);
  }
}

TEST(Planner, AnEffortCostMakesItLazy) {
  const char* task = "dmcontrol/cartpole_swingup";
  Planner eager(task, planner_config(task)), lazy(task, planner_config(task, "effort_cost=100"));
  const auto effort = [](const std::vector<float>& actions) {
    double sum = 0.0;
    for (const float value : actions) sum += static_cast<double>(value) * value;
    return sum;
  };
  EXPECT_LT(effort(play(lazy, task, 0, 100).actions),
            0.5 * effort(play(eager, task, 0, 100).actions));
}

TEST(PlannerConfig, SettingsRoundTripAsText) {
  const PlannerConfig config = planner_config("dmcontrol/finger_spin", "samples=7,noise=0.25");
  EXPECT_EQ(config.samples, 7);
  EXPECT_EQ(config.noise, 0.25);
  EXPECT_EQ(to_string(planner_config("dmcontrol/fish_upright", to_string(config))),
            to_string(config));
}

std::string refusal(const std::string& changes) {
  try {
    planner_config("dmcontrol/finger_spin", changes);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
  return "accepted";
}

TEST(PlannerConfig, RefusesWhatItCannotUse) {
  EXPECT_EQ(refusal("horizn=5"), "--settings: unknown setting 'horizn', did you mean 'horizon'?");
  EXPECT_EQ(refusal("horizon=long"),
            "--settings horizon: 'long' is no value, wanted horizon=NUMBER");
  EXPECT_EQ(refusal("samples=4,elites=5"), "--settings: wanted elites in 1..samples");
  EXPECT_EQ(refusal("horizon=30,rhythm_share=0.5,max_period=31"),
            "--settings: wanted 2 <= min_period <= max_period <= horizon");
}

TEST(Planner, RefusesDiscreteActions) {
  try {
    make_expert("planner", "grid/dark_room_10x10_dense");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "agent 'planner' cannot act in task 'grid/dark_room_10x10_dense': it wants "
                 "continuous actions with finite bounds");
  }
}
}  // namespace
}  // namespace lram::agents::experts::planner_test
