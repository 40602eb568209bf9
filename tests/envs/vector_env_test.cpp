#include "envs/vector_env.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "lram/core/error.h"
#include "lram/core/rng.h"

namespace {
std::atomic<long> allocations{0};
}

// Counts what the tests below want to be zero.
[[gnu::noinline]] void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {
using namespace lram::envs;

const std::vector<std::string> kMixed = {"grid/dark_room_10x10_dark", "dmcontrol/reacher_easy",
                                         "grid/dark_key_door_10x10_dense", "dmcontrol/cheetah_run"};

std::uint64_t random_word(std::size_t env, std::uint64_t step, std::size_t i) {
  return lram::CounterRng(1, env * 8 + i, step).next_u32();
}

// Pure in (environment, step): whoever steps, and in whichever order, acts alike.
void random_action(const lram::TaskSpec& spec, std::size_t env, std::uint64_t step,
                   std::span<float> action) {
  for (std::size_t i = 0; i < static_cast<std::size_t>(spec.action.size); ++i) {
    const std::uint64_t word = random_word(env, step, i);
    action[i] = spec.action.discrete
                    ? static_cast<float>(word % static_cast<std::uint64_t>(spec.action.num_actions))
                    : static_cast<float>(word) / 4294967296.0f * 2.0f - 1.0f;
  }
}

struct Buffers {
  explicit Buffers(const VectorEnv& envs)
      : obs(envs.size() * envs.obs_width()),
        final_obs(obs.size()),
        actions(envs.size() * envs.action_width()),
        results(envs.size()) {}
  VectorView view() { return {.obs = obs, .final_obs = final_obs}; }
  void act(const VectorEnv& envs, std::uint64_t step) {
    for (std::size_t e = 0; e < envs.size(); ++e)
      random_action(envs.specs()[e], e, step,
                    std::span(actions).subspan(e * envs.action_width(), envs.action_width()));
  }
  std::vector<float> obs, final_obs, actions;
  std::vector<StepResult> results;
};

// Everything `steps` random steps hand out.
std::vector<float> history(VectorOptions options, int steps) {
  VectorEnv envs(kMixed, options);
  Buffers b(envs);
  std::vector<float> out;
  const auto record = [&](const std::vector<float>& v) {
    out.insert(out.end(), v.begin(), v.end());
  };
  envs.reset(b.view());
  record(b.obs);
  for (int t = 0; t < steps; ++t) {
    b.act(envs, static_cast<std::uint64_t>(t));
    envs.step(b.actions, b.results, b.view());
    record(b.obs);
    record(b.final_obs);
    for (const StepResult& r : b.results)
      out.insert(out.end(), {r.reward, r.terminated ? 1.0f : 0.0f, r.truncated ? 1.0f : 0.0f});
  }
  return out;
}

TEST(VectorEnv, AnyNumberOfThreadsGivesTheSame) {
  const auto alone = history({.num_envs = 3, .num_threads = 1, .first_seed = 5}, 150);
  for (const std::size_t threads : {2, 3, 7})
    EXPECT_EQ(history({.num_envs = 3, .num_threads = threads, .first_seed = 5}, 150), alone)
        << threads << " threads";
}

TEST(VectorEnv, EqualsItsEnvironmentsAlone) {
  const VectorOptions options = {.num_envs = 3, .num_threads = 2, .first_seed = 999'990};
  VectorEnv envs(kMixed, options);
  Buffers b(envs);
  envs.reset(b.view());
  std::vector<std::unique_ptr<Environment>> alone;
  std::vector<std::uint64_t> episodes(envs.size(), 0);
  std::vector<float> obs(envs.obs_width());
  const auto row = [&](std::vector<float>& rows, std::size_t e) {
    const auto used = static_cast<std::size_t>(envs.specs()[e].observation.vector_size);
    const auto* begin = rows.data() + e * envs.obs_width();
    return std::vector<float>(begin, begin + used);
  };
  const auto reset = [&](std::size_t e) {
    const std::uint64_t seed =
        episode_seed(options.first_seed, options.num_envs, e % options.num_envs, episodes[e]);
    EXPECT_EQ(envs.seed(e), seed);
    obs.resize(static_cast<std::size_t>(envs.specs()[e].observation.vector_size));
    alone[e]->reset(seed, {.vector = obs});
    EXPECT_EQ(row(b.obs, e), obs);
    EXPECT_EQ(envs.at(e).variant(), alone[e]->variant());
  };
  for (std::size_t e = 0; e < envs.size(); ++e) {
    alone.push_back(make(envs.specs()[e].id));
    reset(e);
  }
  for (std::uint64_t t = 0; t < 1100; ++t) {
    b.act(envs, t);
    envs.step(b.actions, b.results, b.view());
    for (std::size_t e = 0; e < envs.size(); ++e) {
      obs.resize(static_cast<std::size_t>(envs.specs()[e].observation.vector_size));
      const auto action = std::span(b.actions).subspan(
          e * envs.action_width(), static_cast<std::size_t>(envs.specs()[e].action.size));
      const StepResult result = alone[e]->step(action, {.vector = obs});
      ASSERT_EQ(b.results[e].reward, result.reward) << e << " step " << t;
      ASSERT_EQ(b.results[e].terminated, result.terminated);
      ASSERT_EQ(b.results[e].truncated, result.truncated);
      ASSERT_EQ(row(result.done() ? b.final_obs : b.obs, e), obs) << e << " step " << t;
      if (!result.done()) continue;
      ++episodes[e];
      reset(e);
    }
    if (HasFailure()) return;
  }
  for (const std::uint64_t count : episodes) EXPECT_GE(count, 1u);
}

TEST(VectorEnv, SeedsCountUpAndStayOnTheirSide) {
  EXPECT_EQ(episode_seed(0, 4, 3, 2), 11u);
  EXPECT_EQ(episode_seed(999'998, 4, 1, 0), 999'999u);
  EXPECT_EQ(episode_seed(999'998, 4, 3, 0), 1u);
  EXPECT_EQ(episode_seed(1'000'000, 4, 3, 2), 1'000'011u);
}

TEST(VectorEnv, StepAllocatesNothing) {
  VectorEnv envs(kMixed, {.num_envs = 4, .num_threads = 2});
  Buffers b(envs);
  envs.reset(b.view());
  b.act(envs, 0);
  for (int t = 0; t < 200; ++t) {  // without ends of episodes, which reset
    bool ended = false;
    const long before = allocations;
    envs.step(b.actions, b.results, b.view());
    const long after = allocations;
    for (const StepResult& result : b.results) ended = ended || result.done();
    if (!ended) {
      ASSERT_EQ(after - before, 0) << "step " << t;
    }
  }
}

TEST(VectorEnv, WithoutAutoResetAnEndedEnvironmentWaits) {
  VectorEnv envs("grid/dark_room_10x10_dark_goal_1_0", {.num_envs = 2, .auto_reset = false});
  Buffers b(envs);
  EXPECT_THROW(envs.step(b.actions, b.results, b.view()), lram::Error);  // before any reset
  envs.reset(0, 7, b.view());
  envs.reset(1, 8, b.view());
  b.actions = {1.0f, 2.0f};  // east onto the goal, south
  envs.step(b.actions, b.results, b.view());
  EXPECT_TRUE(b.results[0].terminated);
  EXPECT_FALSE(envs.active(0));
  EXPECT_TRUE(envs.active(1));
  EXPECT_EQ(b.obs, (std::vector<float>{0, 1, 1, 0}));
  envs.step(b.actions, b.results, b.view());
  EXPECT_EQ(b.results[0].reward, 0.0f);
  EXPECT_EQ(b.obs, (std::vector<float>{0, 1, 2, 0}));
  envs.reset(0, 9, b.view());
  EXPECT_TRUE(envs.active(0));
  EXPECT_EQ(envs.seed(0), 9u);
  EXPECT_EQ(b.obs, (std::vector<float>{0, 0, 2, 0}));
}

std::string message(auto body) {
  try {
    body();
  } catch (const lram::Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(VectorEnv, NamesTheEnvironmentThatFailed) {
  VectorEnv envs("dmcontrol/pendulum_swingup", {.num_envs = 3, .num_threads = 2});
  Buffers b(envs);
  envs.reset(b.view());
  b.actions[2] = std::nanf("");
  EXPECT_EQ(message([&] { envs.step(b.actions, b.results, b.view()); }),
            "environment 2: dmcontrol/pendulum_swingup: action[0] is nan, wanted a finite number");
  EXPECT_FALSE(envs.active(2));
  EXPECT_TRUE(envs.active(0));
}

TEST(VectorEnv, NamesABadBuffer) {
  VectorEnv envs("dmcontrol/pendulum_swingup", {.num_envs = 2});
  Buffers b(envs);
  std::vector<float> obs(5);
  EXPECT_EQ(message([&] { envs.reset({.obs = obs}); }), "VectorEnv: obs has 5 entries, wanted 6");
  EXPECT_EQ(message([&] { envs.step(obs, b.results, b.view()); }),
            "VectorEnv: actions has 5 entries, wanted 2");
  EXPECT_NE(message([] { VectorEnv("dmcontrol/pendulum_swingup", {.num_envs = 0}); }), "no error");
}
}  // namespace
