#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "envs/environment.h"
#include "envs/vector_env.h"
#include "lram/core/error.h"
#include "lram/core/rng.h"

namespace lram::test {

/// What every task must do; tests/envs/conformance_test.cpp runs it over the registry. The
/// parameter is a full task id.
class EnvironmentConformance : public testing::TestWithParam<std::string> {
 protected:
  using Environment = envs::Environment;

  static std::vector<float> buffer(const Environment& env) {
    return std::vector<float>(static_cast<std::size_t>(env.spec().observation.vector_size));
  }
  /// A random action within the bounds, a function of (seed, step) alone.
  static std::vector<float> action(const TaskSpec& spec, std::uint64_t seed, std::uint64_t step) {
    CounterRng rng(seed, step);
    std::vector<float> out;
    for (std::size_t i = 0; i < static_cast<std::size_t>(spec.action.size); ++i) {
      const double u = rng.uniform();
      out.push_back(
          spec.action.discrete
              ? std::floor(static_cast<float>(u * static_cast<double>(spec.action.num_actions)))
              : static_cast<float>(spec.action.low[i] +
                                   u * (spec.action.high[i] - spec.action.low[i])));
    }
    return out;
  }
  /// All that `steps` random steps hand out, from where the environment stands; stops where the
  /// episode ends.
  static std::vector<float> run(Environment& env, std::uint64_t seed, int steps) {
    std::vector<float> out, obs = buffer(env);
    for (int t = 0; t < steps; ++t) {
      const auto result =
          env.step(action(env.spec(), seed, static_cast<std::uint64_t>(t)), {.vector = obs});
      out.insert(out.end(), obs.begin(), obs.end());
      out.insert(out.end(),
                 {result.reward, result.terminated ? 1.0f : 0.0f, result.truncated ? 1.0f : 0.0f});
      if (result.done()) break;
    }
    return out;
  }
  static std::vector<float> episode(Environment& env, std::optional<std::uint64_t> seed,
                                    int steps = 60) {
    std::vector<float> obs = buffer(env);
    env.reset(seed, {.vector = obs});
    std::vector<float> rest = run(env, 1, steps);
    obs.insert(obs.end(), rest.begin(), rest.end());
    return obs;
  }
  std::unique_ptr<Environment> env_ = envs::make(GetParam());
};

TEST_P(EnvironmentConformance, SpecIsWhole) {
  const TaskSpec& spec = env_->spec();
  EXPECT_EQ(spec.id, GetParam());
  EXPECT_GT(spec.observation.vector_size, 0);
  std::int64_t sum = 0;
  for (const ObservationPart& part : spec.observation.parts) sum += part.size;
  EXPECT_EQ(sum, spec.observation.vector_size);
  EXPECT_GT(spec.action.size, 0);
  EXPECT_GT(spec.max_episode_steps, 0);
  EXPECT_GT(spec.reward_scale, 0.0);
  if (spec.action.discrete) {
    EXPECT_GT(spec.action.num_actions, 1);
  } else {
    ASSERT_EQ(std::ssize(spec.action.low), spec.action.size);
    ASSERT_EQ(std::ssize(spec.action.high), spec.action.size);
    for (std::size_t i = 0; i < spec.action.low.size(); ++i)
      EXPECT_LT(spec.action.low[i], spec.action.high[i]);
  }
  EXPECT_EQ(nlohmann::json(spec).get<TaskSpec>(), spec);
}

TEST_P(EnvironmentConformance, SameSeedSameEpisode) {
  const auto other = envs::make(GetParam());
  for (const std::uint64_t seed : {0ull, 3ull, 999'999ull, 1'000'000ull, 1ull << 40}) {
    const auto wanted = episode(*env_, seed);
    const std::string variant = env_->variant();
    EXPECT_EQ(episode(*other, seed), wanted) << "seed " << seed;
    EXPECT_EQ(other->variant(), variant) << "seed " << seed;
  }
  // Without a seed both go on alike, and from their last episode.
  EXPECT_EQ(episode(*env_, {}), episode(*other, {}));
  EXPECT_EQ(episode(*env_, {}), episode(*other, {}));
}

TEST_P(EnvironmentConformance, WritesWhatTheSpecSays) {
  constexpr float kUntouched = -12345.0f;
  const auto size = static_cast<std::size_t>(env_->spec().observation.vector_size);
  std::vector<float> memory(size + 2, kUntouched);
  const auto check = [&] {
    EXPECT_EQ(memory.front(), kUntouched);
    EXPECT_EQ(memory.back(), kUntouched);
    for (std::size_t i = 1; i <= size; ++i) {
      EXPECT_TRUE(std::isfinite(memory[i]) && memory[i] != kUntouched) << "value " << i - 1;
      memory[i] = kUntouched;
    }
  };
  const std::span<float> obs = std::span(memory).subspan(1, size);
  env_->reset(5, {.vector = obs});
  check();
  env_->step(action(env_->spec(), 5, 0), {.vector = obs});
  check();
  env_->step(action(env_->spec(), 5, 1), {});  // nobody asks for the observation
  EXPECT_EQ(std::count(memory.begin(), memory.end(), kUntouched), std::ssize(memory));
}

TEST_P(EnvironmentConformance, EpisodesEndInTimeUnderExtremeActions) {
  const TaskSpec& spec = env_->spec();
  std::vector<float> obs = buffer(*env_);
  env_->reset(11, {.vector = obs});
  std::int64_t steps = 0;
  for (bool done = false; !done; ++steps) {
    ASSERT_LT(steps, spec.max_episode_steps);
    std::vector<float> extreme = action(spec, 11, static_cast<std::uint64_t>(steps / 20));
    for (std::size_t i = 0; !spec.action.discrete && i < extreme.size(); ++i)
      extreme[i] = static_cast<float>(extreme[i] < 0.0f ? spec.action.low[i] : spec.action.high[i]);
    const auto result = env_->step(extreme, {.vector = obs});
    done = result.done();
    EXPECT_FALSE(result.terminated && result.truncated);
    EXPECT_TRUE(result.reward >= 0.0f && result.reward <= 1.0f) << result.reward;
    for (const float value : obs) ASSERT_TRUE(std::isfinite(value)) << "step " << steps;
    if (result.truncated) {
      EXPECT_EQ(steps + 1, spec.max_episode_steps);
    }
  }
  EXPECT_THROW(env_->step(action(spec, 11, 0), {.vector = obs}), Error) << "after the end";
}

TEST_P(EnvironmentConformance, StepBeforeResetThrows) {
  std::vector<float> obs = buffer(*env_);
  try {
    env_->step(action(env_->spec(), 0, 0), {.vector = obs});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(error.what()).find(GetParam()), std::string::npos) << error.what();
  }
}

TEST_P(EnvironmentConformance, RefusesBadActionsAndGoesOn) {
  const auto untouched = envs::make(GetParam());
  std::vector<float> obs = buffer(*env_);
  env_->reset(2, {.vector = obs});
  untouched->reset(2, {.vector = obs});
  const std::vector<float> good = action(env_->spec(), 2, 0);
  std::vector<std::vector<float>> bad;
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    bad.push_back(good);
    bad.back().back() = value;
  }
  bad.push_back(good);
  bad.back().push_back(0.0f);
  bad.emplace_back();
  if (env_->spec().action.discrete) {
    bad.push_back({-1.0f});
    bad.push_back({0.5f});
    bad.push_back({static_cast<float>(env_->spec().action.num_actions)});
  }
  for (const auto& a : bad) EXPECT_THROW(env_->step(a, {.vector = obs}), Error);
  std::vector<float> wide(obs.size() + 1);
  EXPECT_THROW(env_->step(good, {.vector = wide}), Error);
  EXPECT_THROW(untouched->reset(2, {.vector = wide}), Error);
  EXPECT_EQ(run(*env_, 2, 20), run(*untouched, 2, 20));
}

TEST_P(EnvironmentConformance, RestoredStateContinuesBitForBit) {
  for (const int steps : {0, 1, 7, 60}) {
    env_->reset(21, {});
    run(*env_, 3, steps);
    const auto state = env_->save_state();
    const std::string variant = env_->variant();
    const auto wanted = run(*env_, 4, 40);
    const auto wanted_next = episode(*env_, {}, 10);
    const auto fresh = envs::make(GetParam());
    for (Environment* restored : {env_.get(), fresh.get()}) {
      restored->load_state(state);
      EXPECT_EQ(restored->save_state(), state) << steps;
      EXPECT_EQ(restored->variant(), variant);
      EXPECT_EQ(run(*restored, 4, 40), wanted) << steps;
      EXPECT_EQ(episode(*restored, {}, 10), wanted_next) << steps;
    }
  }
}

TEST_P(EnvironmentConformance, RefusesAStateOfAnotherLength) {
  env_->reset(1, {});
  auto state = env_->save_state();
  state.pop_back();
  EXPECT_THROW(env_->load_state(state), Error);
  EXPECT_THROW(env_->load_state({}), Error);
}

TEST_P(EnvironmentConformance, VectorEnvEqualsEnvironmentsAlone) {
  constexpr std::size_t kEnvs = 3;
  std::vector<std::vector<float>> histories;
  for (const std::size_t threads : {1, 3}) {
    envs::VectorEnv all(GetParam(), {.num_envs = kEnvs, .num_threads = threads, .first_seed = 40});
    std::vector<float> obs(kEnvs * all.obs_width()), actions(kEnvs * all.action_width());
    std::vector<envs::StepResult> results(kEnvs);
    std::vector<float> history;
    all.reset({.obs = obs});
    for (std::uint64_t t = 0; t < 25; ++t) {
      const auto row = action(all.specs()[0], 1, t);
      for (std::size_t i = 0; i < kEnvs; ++i)
        std::copy(row.begin(), row.end(),
                  actions.begin() + static_cast<std::ptrdiff_t>(i * all.action_width()));
      all.step(actions, results, {.obs = obs});
      if (results[0].done()) break;
      history.insert(history.end(), obs.begin(), obs.end());
      for (const auto& result : results) history.push_back(result.reward);
    }
    histories.push_back(history);
  }
  EXPECT_EQ(histories[0], histories[1]);
  std::vector<float> obs = buffer(*env_);
  for (std::size_t i = 0; i < kEnvs; ++i) {
    env_->reset(40 + i, {.vector = obs});
    const std::size_t width = obs.size(), stride = kEnvs * (width + 1);
    for (std::uint64_t t = 0; (t + 1) * stride <= histories[0].size(); ++t) {
      const auto result = env_->step(action(env_->spec(), 1, t), {.vector = obs});
      const float* row = histories[0].data() + t * stride;
      ASSERT_TRUE(std::equal(obs.begin(), obs.end(), row + i * width)) << i << " step " << t;
      ASSERT_EQ(result.reward, row[kEnvs * width + i]) << i << " step " << t;
      if (result.done()) break;
    }
  }
}

/// "dmcontrol/cheetah_run" as part of a test's name.
inline std::string test_name(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
}

}  // namespace lram::test
