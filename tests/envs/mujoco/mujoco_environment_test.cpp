#include "envs/mujoco/mujoco_environment.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include "envs/mujoco/tolerance.h"
#include "lram/core/error.h"
#include "tests/support/temp_folder.h"

namespace lram::envs::mujoco_environment_test {
namespace {

struct Task {
  explicit Task(const char* id) : env(make(id)), mujoco(dynamic_cast<MujocoEnvironment&>(*env)) {}
  std::unique_ptr<Environment> env;
  MujocoEnvironment& mujoco;
};

TEST(Tolerance, IsOneInsideItsBounds) {
  EXPECT_EQ(tolerance(0.5, {0.0, 1.0}), 1.0);
  EXPECT_EQ(tolerance(1.0, {0.0, 1.0}), 1.0);
  EXPECT_EQ(tolerance(7.0, {1.0, kInfinity}, 1.0), 1.0);
}

TEST(Tolerance, WithoutMarginIsAStep) {
  EXPECT_EQ(tolerance(1.1, {0.0, 1.0}), 0.0);
  EXPECT_EQ(tolerance(-0.1, {0.0, 1.0}), 0.0);
}

TEST(Tolerance, HasItsValueAtTheMargin) {
  EXPECT_NEAR(tolerance(3.0, {0.0, 1.0}, 2.0), 0.1, 1e-15);
  EXPECT_NEAR(tolerance(-2.0, {0.0, 1.0}, 2.0), 0.1, 1e-15);
  EXPECT_NEAR(tolerance(3.0, {0.0, 1.0}, 2.0, Sigmoid::kLinear, 0.5), 0.5, 1e-15);
  EXPECT_NEAR(tolerance(3.0, {0.0, 1.0}, 2.0, Sigmoid::kQuadratic, 0.36), 0.36, 1e-15);
}

TEST(Tolerance, LinearAndQuadraticReachZeroAndStayThere) {
  // Half a margin: 1 - 0.5 and 1 - 0.25.
  EXPECT_EQ(tolerance(0.5, {}, 1.0, Sigmoid::kLinear, 0.0), 0.5);
  EXPECT_EQ(tolerance(0.5, {}, 1.0, Sigmoid::kQuadratic, 0.0), 0.75);
  EXPECT_EQ(tolerance(1.0, {}, 1.0, Sigmoid::kQuadratic, 0.0), 0.0);
  EXPECT_EQ(tolerance(5.0, {}, 1.0, Sigmoid::kLinear, 0.0), 0.0);
  // The cut-off is where the line is 0, not at the margin.
  EXPECT_EQ(tolerance(1.5, {}, 1.0, Sigmoid::kLinear, 0.5), 0.25);
  EXPECT_EQ(tolerance(2.5, {}, 1.0, Sigmoid::kLinear, 0.5), 0.0);
}

TEST(MujocoEnvironment, TasksThatEditNothingShareOneModel) {
  EXPECT_EQ(&Task("dmcontrol/walker_run").mujoco.model(),
            &Task("dmcontrol/walker_stand").mujoco.model());
  EXPECT_NE(&Task("dmcontrol/reacher_easy").mujoco.model(),
            &Task("dmcontrol/reacher_easy").mujoco.model());
}

// dm_control leaves ctrl raw, so a cost sees what the actuators clamp away.
TEST(MujocoEnvironment, ActionsAreNotClamped) {
  Task task("dmcontrol/point_mass_easy"), limit("dmcontrol/point_mass_easy");
  std::vector<float> obs(4), limit_obs(4);
  task.env->reset(0, {});
  limit.env->reset(0, {});
  task.env->step(std::vector<float>{3.0f, 0.0f}, {.vector = obs});
  limit.env->step(std::vector<float>{1.0f, 0.0f}, {.vector = limit_obs});
  EXPECT_EQ(task.mujoco.data().ctrl[0], 3.0);
  EXPECT_EQ(obs, limit_obs);
}

TEST(MujocoEnvironment, ADivergedSimulationIsReported) {
  const lram::test::TempFolder folder;
  std::filesystem::current_path(folder.path());
  Task task("dmcontrol/hopper_stand");
  const std::vector<float> rest(4, 0.0f);
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), 1e30}) {
    task.env->reset(0, {});
    task.env->step(rest, {});
    task.mujoco.data().qvel[3] = bad;
    try {
      task.env->step(rest, {});
      FAIL() << "no error";
    } catch (const lram::Error& error) {
      const std::string text = error.what();
      EXPECT_EQ(error.kind(), lram::ErrorKind::kCheckFailed);
      EXPECT_EQ(text.find("dmcontrol/hopper_stand: the simulation diverged at step 2: q"), 0u)
          << text;
    }
    EXPECT_THROW(task.env->step(rest, {}), lram::Error) << "goes on without a reset";
  }
  task.env->reset(0, {});
  EXPECT_NO_THROW(task.env->step(rest, {}));
  EXPECT_FALSE(std::filesystem::exists("MUJOCO_LOG.TXT"));
}

TEST(MujocoEnvironment, AnErrorOfTheEngineIsAnException) {
  Task task("dmcontrol/pendulum_swingup");
  EXPECT_THROW(mju_error("made up"), lram::Error);
  EXPECT_THROW(suite_model("no_such.xml"), lram::Error);
}
}  // namespace
}  // namespace lram::envs::mujoco_environment_test
