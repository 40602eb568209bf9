#include "agents/recurrent_agent.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "lram/core/error.h"
#include "lram/core/rng.h"
#include "lram/model/backbones.h"
#include "lram/tokenization/action_codec.h"
#include "lram/tokenization/observation_encoder.h"
#include "tests/support/tiny_policy.h"

namespace lram::agents {
namespace {
using Mode = AgentOptions::Mode;
using Action = std::vector<float>;

const std::string kCartpole = "dmcontrol/cartpole_swingup", kRoom = "grid/dark_room_10x10_dense",
                  kWalker = "dmcontrol/walker_run";
const std::vector<std::string> kTasks = {kCartpole, kRoom, kWalker};

TaskSpec spec_of(const model::Policy& policy, const std::string& task) {
  return policy.tasks().at(task).spec;
}

// What an environment could have shown in one episode; no simulator needed.
struct Stream {
  std::vector<std::vector<float>> obs;  // per step
  std::vector<float> rewards;           // of the action before

  Stream(const TaskSpec& spec, std::size_t steps, std::uint64_t seed) {
    CounterRng rng(seed);
    for (std::size_t t = 0; t < steps; ++t) {
      obs.emplace_back();
      for (std::int64_t i = 0; i < spec.observation.vector_size; ++i)
        obs.back().push_back(static_cast<float>(2.0 * rng.normal()));
      rewards.push_back(t == 0 ? 0.0f : static_cast<float>(rng.uniform()));
    }
  }
  AgentInput at(std::size_t t) const {
    return {.vector = obs[t], .reward = rewards[t], .first = t == 0};
  }
};

RecurrentAgent make_agent(const std::shared_ptr<model::Policy>& policy,
                          const std::vector<std::string>& tasks, AgentOptions options = {}) {
  std::vector<TaskSpec> specs;
  for (const std::string& task : tasks) specs.push_back(spec_of(*policy, task));
  return RecurrentAgent(policy, specs, std::move(options));
}

std::vector<Action> act(RecurrentAgent& agent, const model::Policy& policy,
                        const std::vector<std::string>& tasks,
                        const std::vector<AgentInput>& inputs) {
  std::vector<Action> actions;
  for (const std::string& task : tasks)
    actions.emplace_back(static_cast<std::size_t>(spec_of(policy, task).action.size));
  const std::vector<std::span<float>> views(actions.begin(), actions.end());
  agent.act(inputs, views);
  return actions;
}

std::vector<Action> play_alone(const std::shared_ptr<model::Policy>& policy,
                               const std::string& task, const Stream& stream,
                               AgentOptions options = {}) {
  RecurrentAgent agent = make_agent(policy, {task}, std::move(options));
  std::vector<Action> actions;
  for (std::size_t t = 0; t < stream.obs.size(); ++t)
    actions.push_back(act(agent, *policy, {task}, {stream.at(t)})[0]);
  return actions;
}

// The window that training would make of the stream's steps [begin, end).
model::WindowBatch window_of(const model::Policy& policy, const std::string& task,
                             const Stream& stream, std::size_t begin, std::size_t end) {
  const tokenization::TaskEntry& entry = policy.tasks().at(task);
  const tokenization::ObservationEncoder encoder(entry, policy.config().state_dim);
  const auto steps = static_cast<std::int64_t>(end - begin), state_dim = encoder.state_dim();
  std::vector<float> states, returns, rewards;
  double return_to_go = entry.target_return;
  for (std::size_t t = 0; t < end; ++t) {
    return_to_go -= static_cast<double>(stream.rewards[t]);
    if (t < begin) continue;
    states.resize(states.size() + static_cast<std::size_t>(state_dim));
    encoder.encode(stream.obs[t], std::span(states).last(static_cast<std::size_t>(state_dim)));
    returns.push_back(static_cast<float>(return_to_go / entry.reward_scale));
    const float next = t + 1 < stream.rewards.size() ? stream.rewards[t + 1] : 0.0f;
    rewards.push_back(static_cast<float>(static_cast<double>(next) / entry.reward_scale));
  }
  return {.state = torch::tensor(states).view({1, steps, state_dim}),
          .image = {},
          .return_to_go = torch::tensor(returns).view({1, steps}),
          .reward = torch::tensor(rewards).view({1, steps}),
          .begin = {},
          .end = {},
          .first_step = torch::full({1}, static_cast<std::int64_t>(begin), torch::kInt64)};
}

// The legal argmax of logits [A, C].
Action action_of(const model::Policy& policy, const std::string& task,
                 const torch::Tensor& logits) {
  const TaskSpec spec = spec_of(policy, task);
  const tokenization::ActionCodec codec(spec);
  std::vector<std::int64_t> classes(8, 0);
  for (std::int64_t a = 0; a < codec.slots(); ++a)
    classes[static_cast<std::size_t>(a)] =
        codec.first_class() +
        logits[a].slice(0, codec.first_class(), codec.end_class()).argmax().item<std::int64_t>();
  Action action(static_cast<std::size_t>(spec.action.size));
  codec.decode(classes, action);
  return action;
}

class EachBackbone : public testing::TestWithParam<std::string> {
 protected:
  std::shared_ptr<model::Policy> policy_ = test::tiny_policy(test::tiny_config(GetParam()), kTasks);
};
INSTANTIATE_TEST_SUITE_P(RecurrentAgent, EachBackbone, testing::ValuesIn(model::backbone_names()),
                         [](const auto& backbone) { return backbone.param; });

TEST_P(EachBackbone, CarriedEqualsForwardOverTheEpisode) {
  const torch::NoGradGuard no_grad;
  for (const std::string& task : kTasks) {
    const Stream stream(spec_of(*policy_, task), 40, 1);
    const std::vector<Action> actions = play_alone(policy_, task, stream);
    const torch::Tensor logits =
        policy_->forward(window_of(*policy_, task, stream, 0, 40)).logits[0];
    for (std::size_t t = 0; t < 40; ++t)
      EXPECT_EQ(actions[t], action_of(*policy_, task, logits[static_cast<std::int64_t>(t)]))
          << task << " step " << t;
  }
}

TEST_P(EachBackbone, WindowEqualsForwardOfTheLastSteps) {
  const torch::NoGradGuard no_grad;
  const Stream stream(spec_of(*policy_, kWalker), 20, 2);
  for (const std::size_t steps : {0, 5, 11}) {  // 0: the context length, 8
    const std::vector<Action> actions =
        play_alone(policy_, kWalker, stream,
                   {.mode = Mode::kWindow, .window_steps = static_cast<std::int64_t>(steps)});
    for (std::size_t t = 0; t < 20; ++t) {
      const std::size_t end = t + 1, begin = end - std::min(end, steps == 0 ? 8 : steps);
      const torch::Tensor logits =
          policy_->forward(window_of(*policy_, kWalker, stream, begin, end)).logits[0][-1];
      EXPECT_EQ(actions[t], action_of(*policy_, kWalker, logits)) << steps << " step " << t;
    }
  }
}

TEST_P(EachBackbone, ActsAsAFreshOneAfterReset) {
  for (const Mode mode : {Mode::kCarried, Mode::kWindow}) {
    const Stream before(spec_of(*policy_, kWalker), 15, 3),
        after(spec_of(*policy_, kWalker), 15, 4);
    RecurrentAgent agent = make_agent(policy_, {kWalker}, {.mode = mode});
    for (std::size_t t = 0; t < 15; ++t) act(agent, *policy_, {kWalker}, {before.at(t)});
    const std::vector<Action> fresh = play_alone(policy_, kWalker, after, {.mode = mode});
    for (std::size_t t = 0; t < 15; ++t)
      EXPECT_EQ(act(agent, *policy_, {kWalker}, {after.at(t)})[0], fresh[t]) << "step " << t;
  }
}

// Rows of several tasks that begin, end and rest at different times.
TEST_P(EachBackbone, BatchEqualsEachRowAlone) {
  const std::vector<std::string> tasks = {kCartpole, kRoom,   kWalker, kWalker, kCartpole, kRoom,
                                          kWalker,   kWalker, kRoom,   kWalker, kCartpole};
  constexpr std::size_t kSteps = 12;
  for (const Mode mode : {Mode::kCarried, Mode::kWindow}) {
    std::vector<Stream> streams;
    std::vector<std::vector<Action>> alone;
    for (std::size_t i = 0; i < tasks.size(); ++i) {
      streams.emplace_back(spec_of(*policy_, tasks[i]), kSteps, 10 + i);
      alone.push_back(play_alone(policy_, tasks[i], streams[i], {.mode = mode}));
    }
    for (const std::size_t threads : {1u, 3u}) {
      RecurrentAgent agent = make_agent(policy_, tasks, {.mode = mode, .num_threads = threads});
      for (std::size_t time = 0; time < 2 * kSteps; ++time) {
        // Row i begins at time i, plays kSteps and rests.
        std::vector<AgentInput> inputs(tasks.size());
        for (std::size_t i = 0; i < tasks.size(); ++i) {
          inputs[i].active = time >= i && time < i + kSteps;
          if (inputs[i].active) inputs[i] = streams[i].at(time - i);
        }
        const std::vector<Action> actions = act(agent, *policy_, tasks, inputs);
        for (std::size_t i = 0; i < tasks.size(); ++i) {
          if (!inputs[i].active) continue;
          EXPECT_EQ(actions[i], alone[i][time - i]) << "row " << i << " time " << time;
        }
      }
    }
  }
}

TEST_P(EachBackbone, GoesBackToASavedMemory) {
  const Stream stream(spec_of(*policy_, kWalker), 20, 5);
  RecurrentAgent agent = make_agent(policy_, {kWalker});
  const std::vector<Action> straight = play_alone(policy_, kWalker, stream);
  for (std::size_t t = 0; t < 10; ++t) act(agent, *policy_, {kWalker}, {stream.at(t)});
  const auto memory = agent.save();
  for (int round = 0; round < 2; ++round) {
    agent.restore(*memory);
    for (std::size_t t = 10; t < 20; ++t)
      EXPECT_EQ(act(agent, *policy_, {kWalker}, {stream.at(t)})[0], straight[t]) << t;
  }
}

TEST(RecurrentAgent, RemembersMoreThanTheWindow) {
  const auto policy = test::tiny_policy(test::tiny_config(), kTasks);
  const Stream stream(spec_of(*policy, kWalker), 20, 6);
  EXPECT_NE(play_alone(policy, kWalker, stream),
            play_alone(policy, kWalker, stream, {.mode = Mode::kWindow}));
}

TEST(RecurrentAgent, AsksForTheReturnItIsTold) {
  const auto policy = test::tiny_policy(test::tiny_config(), kTasks);
  const Stream stream(spec_of(*policy, kWalker), 20, 7);
  const std::vector<Action> by_default = play_alone(policy, kWalker, stream);
  EXPECT_EQ(by_default, play_alone(policy, kWalker, stream, {.target_returns = {100.0}}));
  EXPECT_NE(by_default, play_alone(policy, kWalker, stream, {.target_returns = {900.0}}));
}

TEST(RecurrentAgent, StateBytesAtStep10EqualThoseAtStep10000) {
  model::PolicyConfig config = test::tiny_config();
  config.embed_dim = 16;
  const auto policy = test::tiny_policy(config, {kCartpole});
  RecurrentAgent agent = make_agent(policy, {kCartpole}, {.rows_per_call = 1});
  const Stream stream(spec_of(*policy, kCartpole), 1, 8);
  std::int64_t bytes_at_10 = 0;
  for (int t = 1; t <= 10'000; ++t) {
    act(agent, *policy, {kCartpole}, {{.vector = stream.obs[0], .reward = 0.5f, .first = t == 1}});
    if (t == 10) bytes_at_10 = agent.state_bytes();
  }
  EXPECT_GT(bytes_at_10, 0);
  EXPECT_EQ(agent.state_bytes(), bytes_at_10);
}

template <typename Function>
std::pair<ErrorKind, std::string> error_of(Function function) {
  try {
    function();
  } catch (const Error& error) {
    return {error.kind(), error.what()};
  }
  return {ErrorKind::kInternal, "no error"};
}

TEST(RecurrentAgent, RefusesWhatTheCheckpointDoesNotKnow) {
  const auto policy = test::tiny_policy(test::tiny_config(), {kCartpole, kRoom});
  const TaskSpec cartpole = spec_of(*policy, kCartpole);
  TaskSpec other = cartpole;
  other.id = kWalker;
  auto error = error_of([&] { RecurrentAgent(policy, std::vector{other}); });
  EXPECT_EQ(error.first, ErrorKind::kUsage);
  EXPECT_NE(error.second.find(kWalker), std::string::npos) << error.second;
  EXPECT_NE(error.second.find(kCartpole), std::string::npos) << error.second;

  other = cartpole;
  other.observation.parts.push_back({"more", 2});
  other.observation.vector_size += 2;
  error = error_of([&] { RecurrentAgent(policy, std::vector{other}); });
  EXPECT_EQ(error.first, ErrorKind::kInput);
  EXPECT_NE(error.second.find("knows 5 observation and 1 action entries, the environment has 7"),
            std::string::npos)
      << error.second;

  other = cartpole;
  other.action.high[0] = 2.0;
  EXPECT_EQ(error_of([&] { RecurrentAgent(policy, std::vector{other}); }).first, ErrorKind::kInput);
}

TEST(RecurrentAgent, RefusesWrongSizesAndNumbersThatAreNone) {
  const auto policy = test::tiny_policy(test::tiny_config(), {kCartpole});
  RecurrentAgent agent = make_agent(policy, {kCartpole});
  Action action(1);
  const std::span<float> actions[] = {action};
  const std::vector<float> narrow(4, 0.0f), wide(5, 0.0f);
  const AgentInput wrong[] = {{.vector = narrow, .first = true}};
  EXPECT_NE(error_of([&] { agent.act(wrong, actions); }).second.find("observation of 4, wanted 5"),
            std::string::npos);
  EXPECT_NE(error_of([&] { agent.act({}, {}); }).second.find("0 inputs"), std::string::npos);

  const torch::NoGradGuard no_grad;
  for (torch::Tensor& parameter : policy->parameters()) parameter.fill_(std::nanf(""));
  const AgentInput right[] = {{.vector = wide, .first = true}};
  const auto error = error_of([&] { agent.act(right, actions); });
  EXPECT_EQ(error.first, ErrorKind::kInput);
  EXPECT_NE(error.second.find(kCartpole), std::string::npos) << error.second;
}
}  // namespace
}  // namespace lram::agents
