#include "eval/rollout.h"

#include <gtest/gtest.h>

#include <tuple>

#include "lram/core/error.h"
#include "tests/support/tiny_policy.h"

namespace lram::eval::rollout_test {
namespace {
const std::vector<std::string> kTasks = {
    "grid/dark_room_10x10_dense", "grid/dark_key_door_10x10_dense", "dmcontrol/cartpole_swingup"};

RolloutResult play(const std::shared_ptr<model::Policy>& policy,
                   const std::vector<std::string>& tasks, std::size_t num_envs, std::size_t threads,
                   const RolloutOptions& options, bool auto_reset = true) {
  envs::VectorEnv envs(tasks,
                       {.num_envs = num_envs, .num_threads = threads, .auto_reset = auto_reset});
  agents::RecurrentAgent agent(policy, envs.specs(), {.num_threads = threads});
  return rollout(agent, envs, options);
}

TEST(Rollout, PlaysEverySeedOfEveryTaskOnce) {
  const auto policy = test::tiny_policy(test::tiny_config(), kTasks);
  const RolloutResult result = play(policy, {kTasks[0], kTasks[1]}, 2, 1, {.episodes = 5});
  ASSERT_EQ(result.episodes.size(), 10u);
  double sum = 0.0;
  for (std::size_t i = 0; i < 10; ++i) {
    const Episode& episode = result.episodes[i];
    EXPECT_EQ(episode.task, kTasks[i / 5]);
    EXPECT_EQ(episode.seed, 1'000'000 + i % 5);
    EXPECT_EQ(episode.length, 100);
    EXPECT_FALSE(episode.terminated);
    EXPECT_NE(episode.variant.find("goal"), std::string::npos) << episode.variant;
    sum += episode.episode_return;
  }
  EXPECT_EQ(result.steps, 1000);
  EXPECT_DOUBLE_EQ(result.mean_return, sum / 10.0);
}

TEST(Rollout, EqualsALoopByHand) {
  const auto policy = test::tiny_policy(test::tiny_config(), kTasks);
  const auto env = envs::make(kTasks[2]);
  const TaskSpec specs[] = {env->spec()};
  agents::RecurrentAgent agent(policy, specs);
  std::vector<float> obs(5), action(1);
  env->reset(42, {.vector = obs});
  agents::AgentInput input{.vector = obs, .first = true};
  const std::span<float> actions[] = {action};
  double total = 0.0;
  for (bool done = false; !done; input.first = false) {
    agent.act({&input, 1}, actions);
    const envs::StepResult result = env->step(action, {.vector = obs});
    total += static_cast<double>(result.reward);
    input.reward = result.reward;
    done = result.done();
  }
  const RolloutResult result = play(policy, {kTasks[2]}, 1, 1, {.episodes = 1, .first_seed = 42});
  EXPECT_EQ(result.episodes[0].episode_return, total);
  EXPECT_EQ(result.episodes[0].length, 1000);
}

TEST(Rollout, DoesNotDependOnTheNumberOfEnvironmentsOrThreads) {
  const auto policy = test::tiny_policy(test::tiny_config(), kTasks);
  const RolloutOptions options = {.episodes = 3, .first_seed = 77};
  const RolloutResult expected = play(policy, kTasks, 1, 1, options);
  for (const auto& [num_envs, threads, auto_reset] :
       {std::tuple{2u, 2u, true}, {7u, 1u, false}, {7u, 2u, true}})
    EXPECT_EQ(play(policy, kTasks, num_envs, threads, options, auto_reset).episodes,
              expected.episodes)
        << num_envs << " environments, " << threads << " threads";
}

TEST(Rollout, WantsOneRowPerEnvironment) {
  const auto policy = test::tiny_policy(test::tiny_config(), kTasks);
  envs::VectorEnv one(kTasks[0], {.num_envs = 1}), two(kTasks[0], {.num_envs = 2});
  agents::RecurrentAgent agent(policy, one.specs());
  EXPECT_THROW(rollout(agent, two), Error);
  EXPECT_THROW(rollout(agent, one, {.episodes = 0}), Error);
}
}  // namespace
}  // namespace lram::eval::rollout_test
