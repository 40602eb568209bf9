#include "lram/model/policy.h"

#include <gtest/gtest.h>
#include <torch/utils.h>

#include <limits>

#include "lram/core/error.h"
#include "lram/core/rng.h"
#include "lram/model/action_loss.h"
#include "lram/model/backbones.h"

namespace lram::model::policy_test {
namespace {

constexpr double kTolerance = 1e-9;  // float64, issue 3: any form is one function

PolicyConfig small(const std::string& backbone, const std::string& slstm_at = "") {
  PolicyConfig config;
  config.backbone = backbone;
  config.slstm_at = slstm_at;
  config.embed_dim = 16;
  config.num_blocks = 2;
  config.num_heads = 2;
  config.context_length = 6;
  config.max_episode_steps = 30;
  config.state_dim = 5;
  config.action_slots = 2;
  config.discrete_ids = 3;
  config.num_bins = 4;
  clear_unused(config);
  return config;
}

std::vector<PolicyConfig> all_kinds() {
  std::vector<PolicyConfig> kinds = {small("xlstm", "1"), small("xlstm", "0,1")};
  for (const std::string& name : backbone_names()) kinds.push_back(small(name));
  return kinds;
}

std::string label(const PolicyConfig& config) {
  std::string text = config.backbone + " " + config.slstm_at;
  if (config.image_size > 0)
    text += " " + config.image_encoder + " " + std::to_string(config.vil_version);
  return text;
}

/// One policy for each way to look at images of 12 x 12.
std::vector<PolicyConfig> all_image_encoders() {
  std::vector<PolicyConfig> out;
  for (const std::string encoder : {"impala", "vil", "vil", "vit"}) {
    PolicyConfig config = small("xlstm", "1");
    config.image_encoder = encoder;
    config.image_size = 12;
    config.image_patch = 4;
    config.image_dim = 12;
    config.image_blocks = 2;
    if (out.size() == 1) config.vil_version = 1;
    clear_unused(config);
    out.push_back(config);
  }
  return out;
}

/// In float64, with weights away from zero.
std::shared_ptr<Policy> random_policy(const PolicyConfig& config, std::uint64_t seed) {
  torch::manual_seed(seed);
  auto policy = std::make_shared<Policy>(config);
  policy->to(torch::kFloat64);
  const torch::NoGradGuard no_grad;
  for (auto& parameter : policy->parameters()) parameter.add_(torch::randn_like(parameter), 0.2);
  return policy;
}

WindowBatch random_windows(const PolicyConfig& config, std::int64_t rows, std::int64_t steps) {
  WindowBatch batch;
  batch.state = torch::randn({rows, steps, config.state_dim});
  if (config.image_size > 0)
    batch.image =
        torch::randint(256, {rows, steps, 3, config.image_size, config.image_size}, torch::kUInt8);
  batch.return_to_go = torch::randn({rows, steps});
  batch.reward = torch::randn({rows, steps});
  return batch;
}

/// Steps [begin, begin + count) of a batch.
WindowBatch narrow(const WindowBatch& batch, std::int64_t begin, std::int64_t count) {
  WindowBatch out;
  out.state = batch.state.narrow(1, begin, count);
  if (batch.image.defined()) out.image = batch.image.narrow(1, begin, count);
  out.return_to_go = batch.return_to_go.narrow(1, begin, count);
  out.reward = batch.reward.narrow(1, begin, count);
  return out;
}

StepInput input_at(const WindowBatch& batch, std::int64_t t, const torch::Tensor& first) {
  StepInput input;
  input.state = batch.state.select(1, t);
  if (batch.image.defined()) input.image = batch.image.select(1, t);
  input.return_to_go = batch.return_to_go.select(1, t);
  // Nothing stands for the reward before the first step, so it may hold anything.
  const torch::Tensor previous = batch.reward.select(1, std::max<std::int64_t>(t - 1, 0));
  input.previous_reward = torch::where(first, std::numeric_limits<double>::quiet_NaN(), previous);
  input.first = first;
  return input;
}

double difference(const torch::Tensor& a, const torch::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

TEST(Policy, StepsOverAnEpisodeEqualForward) {
  auto kinds = all_kinds();
  for (const PolicyConfig& config : all_image_encoders()) kinds.push_back(config);
  for (const PolicyConfig& config : kinds) {
    SCOPED_TRACE(label(config));
    const auto policy = random_policy(config, 1);
    const std::int64_t steps = 30;  // the window is 6
    const WindowBatch batch = random_windows(config, 3, steps);
    const torch::Tensor whole = policy->forward(batch).logits;
    BackboneState state = policy->initial_state(3);
    const std::int64_t bytes = state.bytes();
    for (std::int64_t t = 0; t < steps; ++t) {
      const torch::Tensor first = torch::full({3}, t == 0, torch::kBool);
      const torch::Tensor logits = policy->step(input_at(batch, t, first), state);
      EXPECT_LT(difference(logits, whole.select(1, t)), kTolerance) << "step " << t;
      EXPECT_EQ(state.bytes(), bytes) << "step " << t;
    }
  }
}

TEST(Policy, RowsThatBeginAnEpisodeForgetTheLast) {
  for (const PolicyConfig& config : all_kinds()) {
    SCOPED_TRACE(label(config));
    const auto policy = random_policy(config, 2);
    const std::int64_t steps = 20;
    const WindowBatch batch = random_windows(config, 3, steps);
    // Row 0 never begins again, row 1 after 7 steps, row 2 after 1 and 12.
    const std::vector<std::vector<std::int64_t>> starts = {{0}, {0, 7}, {0, 1, 12}};
    std::vector<std::vector<torch::Tensor>> got(3);
    BackboneState state = policy->initial_state(3);
    for (std::int64_t t = 0; t < steps; ++t) {
      torch::Tensor first = torch::zeros({3}, torch::kBool);
      for (std::size_t row = 0; row < 3; ++row)
        for (const std::int64_t start : starts[row])
          if (start == t) first[static_cast<std::int64_t>(row)] = true;
      const torch::Tensor logits = policy->step(input_at(batch, t, first), state);
      for (std::size_t row = 0; row < 3; ++row)
        got[row].push_back(logits[static_cast<std::int64_t>(row)]);
    }
    for (std::size_t row = 0; row < 3; ++row)
      for (std::size_t i = 0; i < starts[row].size(); ++i) {
        const std::int64_t begin = starts[row][i];
        const std::int64_t end = i + 1 < starts[row].size() ? starts[row][i + 1] : steps;
        const torch::Tensor alone = policy->forward(narrow(batch, begin, end - begin))
                                        .logits[static_cast<std::int64_t>(row)];
        for (std::int64_t t = begin; t < end; ++t)
          EXPECT_LT(difference(got[row][static_cast<std::size_t>(t)], alone[t - begin]), kTolerance)
              << "row " << row << " step " << t;
      }
  }
}

TEST(Policy, CarriedWindowsEqualTheWhole) {
  for (const PolicyConfig& config : all_kinds()) {
    SCOPED_TRACE(label(config));
    const auto policy = random_policy(config, 3);
    const WindowBatch batch = random_windows(config, 2, 18);
    const torch::Tensor whole = policy->forward(batch).logits;
    BackboneState state;
    for (std::int64_t t = 0; t < 18; t += 6) {
      auto out = policy->forward(narrow(batch, t, 6), state);
      EXPECT_LT(difference(out.logits, whole.narrow(1, t, 6)), kTolerance) << "window at " << t;
      state = out.state.detach();
    }
  }
}

TEST(Policy, PadsNeverLeak) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  for (const PolicyConfig& config : all_kinds()) {
    SCOPED_TRACE(label(config));
    const auto policy = random_policy(config, 4);
    WindowBatch batch = random_windows(config, 3, 6);
    batch.begin = torch::tensor({0, 2, 5}, torch::kInt32);
    batch.end = torch::tensor({4, 6, 6}, torch::kInt32);
    const torch::Tensor target = torch::randint(7, {3, 6, 2}, torch::kInt64);
    torch::Tensor real = torch::zeros({3, 6}, torch::kBool);
    for (std::int64_t row = 0; row < 3; ++row)
      real[row].slice(0, batch.begin[row].item<std::int64_t>(),
                      batch.end[row].item<std::int64_t>()) = true;
    const torch::Tensor counted = torch::where(real.unsqueeze(-1), target, -1);
    const auto gradients = [&] {
      policy->zero_grad();
      const torch::Tensor logits = policy->forward(batch).logits;
      action_loss(logits, counted).backward();
      std::vector<torch::Tensor> out = {logits.index({real}).detach()};
      for (const auto& parameter : policy->parameters()) out.push_back(parameter.grad().clone());
      return out;
    };
    const auto clean = gradients();
    for (torch::Tensor* x : {&batch.state, &batch.return_to_go, &batch.reward})
      x->index_put_({~real}, kNaN);
    const auto padded = gradients();
    for (std::size_t i = 0; i < clean.size(); ++i)
      EXPECT_TRUE(torch::equal(clean[i], padded[i])) << i;
  }
}

TEST(Policy, RowsDoNotMix) {
  for (const PolicyConfig& config : all_kinds()) {
    SCOPED_TRACE(label(config));
    const auto policy = random_policy(config, 5);
    WindowBatch batch = random_windows(config, 4, 6);
    batch.begin = torch::tensor({0, 2, 5, 1}, torch::kInt32);
    const torch::Tensor order = torch::tensor({2, 0, 3, 1});
    WindowBatch permuted;
    permuted.state = batch.state.index_select(0, order);
    permuted.return_to_go = batch.return_to_go.index_select(0, order);
    permuted.reward = batch.reward.index_select(0, order);
    permuted.begin = batch.begin.index_select(0, order);
    const torch::Tensor a = policy->forward(batch).logits.index_select(0, order);
    const torch::Tensor b = policy->forward(permuted).logits;
    for (std::int64_t row = 0; row < 4; ++row) {
      const auto begin = permuted.begin[row].item<std::int64_t>();
      EXPECT_LT(difference(a[row].slice(0, begin), b[row].slice(0, begin)), kTolerance);
    }
  }
}

TEST(Policy, AnActionDoesNotSeeItsOwnReward) {
  for (const PolicyConfig& config : all_kinds()) {
    SCOPED_TRACE(label(config));
    const auto policy = random_policy(config, 6);
    WindowBatch batch = random_windows(config, 1, 8);
    const torch::Tensor before = policy->forward(batch).logits;
    batch.reward = batch.reward.clone();
    batch.reward[0][4] += 1.0f;
    const torch::Tensor moved = (policy->forward(batch).logits - before).abs().amax({0, 2, 3});
    for (std::int64_t t = 0; t <= 4; ++t) EXPECT_EQ(moved[t].item<double>(), 0.0) << t;
    EXPECT_GT(moved[5].item<double>(), 1e-6);
  }
}

TEST(Policy, GradientsReachEveryWeightOfAnImageEncoder) {
  for (const PolicyConfig& config : all_image_encoders()) {
    SCOPED_TRACE(label(config));
    const auto policy = random_policy(config, 10);
    WindowBatch batch = random_windows(config, 3, 4);
    batch.begin = torch::tensor({0, 2, 1}, torch::kInt32);  // pads are no images to learn from
    const torch::Tensor logits = policy->forward(batch).logits;
    (logits * torch::randn_like(logits)).sum().backward();
    for (const auto& item : policy->named_parameters()) {
      if (!item.key().starts_with("embed_image.")) continue;
      ASSERT_TRUE(item.value().grad().defined()) << item.key();
      EXPECT_TRUE(item.value().grad().isfinite().all().item<bool>()) << item.key();
      EXPECT_GT(item.value().grad().abs().max().item<double>(), 0.0) << item.key();
    }
  }
}

TEST(Policy, ImageEncodersTellImagesApartFromTheStart) {
  // Behind every encoder is a LayerNorm over its features, whose eps is 1e-5: features that start
  // near zero, as behind ViL's own classifier, would all come out alike.
  for (PolicyConfig config : all_image_encoders()) {
    SCOPED_TRACE(label(config));
    config.embed_dim = 64;
    torch::manual_seed(11);
    Policy policy(config);
    const torch::NoGradGuard no_grad;
    const torch::Tensor tokens =
        policy.embed(random_windows(config, 16, 1)).view({16, 3, 64}).select(1, 0);
    EXPECT_GT(tokens.std(0).mean().item<double>(), 0.01);
  }
}

TEST(Policy, GreedyActionsAreLegal) {
  CounterRng rng(7);
  const auto policy = random_policy(small("xlstm"), 7);
  BackboneState state = policy->initial_state(16);
  for (std::int64_t t = 0; t < 20; ++t) {
    const WindowBatch batch = random_windows(policy->config(), 16, 1);
    const torch::Tensor logits =
        policy->step(input_at(batch, 0, torch::full({16}, t == 0, torch::kBool)), state);
    const torch::Tensor legal = torch::rand(logits.sizes()) < 0.2;
    const torch::Tensor classes = greedy_classes(logits, legal);
    const torch::Tensor any = legal.any(-1);
    EXPECT_TRUE(torch::equal(classes >= 0, any));
    EXPECT_TRUE(legal.gather(-1, classes.clamp_min(0).unsqueeze(-1))
                    .squeeze(-1)
                    .index({any})
                    .all()
                    .item<bool>());
  }
}

TEST(Policy, InitialWeightsAreThoseOfLram) {
  torch::manual_seed(8);
  PolicyConfig config;  // LRAM's smallest, narrower
  config.embed_dim = 256;
  config.num_blocks = 2;
  for (const std::string backbone : {"xlstm", "gpt2"}) {
    config.backbone = backbone;
    config.max_episode_steps = 100;
    const Policy policy(config);
    const auto parameters = policy.named_parameters();
    const auto std_of = [&](const char* name) { return parameters[name].std().item<double>(); };
    EXPECT_NEAR(std_of("embed_state.weight"), 0.02, 5e-4);
    EXPECT_NEAR(std_of("action_net.0.weight"), 0.02, 5e-4);
    EXPECT_EQ(std_of("action_net.0.bias"), 0.0);
    EXPECT_EQ(std_of("embed_ln.weight"), 0.0);
    EXPECT_NEAR(std_of("embed_state.bias"), backbone == "xlstm" ? 0.02 : 0.0, 4e-3);
    EXPECT_NEAR(std_of("embed_ln.bias"), backbone == "xlstm" ? 0.02 : 0.0, 4e-3);
  }
}

TEST(Policy, WrongInputIsNamed) {
  const auto policy = random_policy(small("xlstm"), 9);
  const auto message = [&](const WindowBatch& batch) -> std::string {
    try {
      policy->forward(batch);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  };
  WindowBatch batch = random_windows(policy->config(), 2, 3);
  batch.state = torch::zeros({2, 3, 4});
  EXPECT_NE(message(batch).find("states of width 4, the policy has state_dim = 5"),
            std::string::npos)
      << message(batch);
  batch.image = torch::zeros({2, 3, 3, 8, 8}, torch::kUInt8);
  EXPECT_NE(message(batch).find("without an image encoder (model.image_size = 0)"),
            std::string::npos)
      << message(batch);

  for (const PolicyConfig& config : all_image_encoders()) {
    SCOPED_TRACE(label(config));
    try {
      random_policy(config, 9)->forward(batch);
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what())
                    .find("images of shape [2, 3, 3, 8, 8], the policy wants [3, 12, 12]"),
                std::string::npos)
          << error.what();
    }
  }
}

}  // namespace
}  // namespace lram::model::policy_test
