#include "agents/experts/controller.h"

#include <gtest/gtest.h>

#include "lram/core/error.h"
#include "tests/agents/experts/play.h"

namespace lram::agents::experts::controller_test {
namespace {
double mean_return(const char* task) {
  const auto controller = make_expert("controller", task);
  double sum = 0.0;
  for (std::uint64_t seed = 0; seed < 3; ++seed)
    sum += test::play(*controller, task, seed).episode_return();
  return sum / 3;
}

// Thresholds: LRAM's mean return of the data (lram.md 3.6); 750 for the swing-up of the cart's
// pole, which trades height for calm.
TEST(Controller, ReachesTheDataWhereverItHasALaw) {
  EXPECT_GE(mean_return("dmcontrol/cartpole_balance"), 938.5);
  EXPECT_GE(mean_return("dmcontrol/cartpole_swingup"), 750.0);
  EXPECT_GE(mean_return("dmcontrol/pendulum_swingup"), 614.5);
  EXPECT_GE(mean_return("dmcontrol/point_mass_easy"), 779.3);
  EXPECT_GE(mean_return("dmcontrol/reacher_easy"), 849.2);
  EXPECT_GE(mean_return("dmcontrol/reacher_hard"), 779.9);
}

TEST(Controller, NamesTheTasksThatHaveALaw) {
  try {
    make_expert("controller", "dmcontrol/walker_run");
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(error.what())
                  .find("'dmcontrol/walker_run', only for dmcontrol/cartpole_balance"),
              std::string::npos)
        << error.what();
  }
}
}  // namespace
}  // namespace lram::agents::experts::controller_test
