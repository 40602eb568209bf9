// Whole policies against torch with the published backbones (tests/golden/policy/README.md):
// tokens, hidden, logits, losses and all gradients, in the forward and the step form.
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "lram/core/error.h"
#include "lram/core/text.h"
#include "lram/model/action_loss.h"
#include "lram/model/policy.h"
#include "lram/tokenization/sequence.h"
#include "tests/support/golden_tensors.h"

namespace lram::model::policy_golden_test {
namespace {
using test::GoldenCase;
using test::GoldenTensors;
using tokenization::kReturnToken;
using tokenization::kTokensPerStep;

constexpr const char* kTable = "encoder.wpe.weight";  // ours may have more rows than the reference

bool is_whole_policy(const GoldenCase& one) { return one.has_tensor("out.logits"); }

PolicyConfig config_of(const GoldenCase& one) {
  const nlohmann::json& c = one.config();
  PolicyConfig config;
  config.embed_dim = c.at("D");
  config.num_heads = c.at("heads");
  config.context_length = c.at("T");
  config.state_dim = c.at("state_dim");
  config.action_slots = c.at("slots");
  config.discrete_ids = c.at("discrete_ids");
  config.num_bins = c.at("bins");
  if (one.class_has("GPT2Model")) {
    config.backbone = "gpt2";
    config.num_blocks = c.at("layers");
    const std::int64_t per_step = 3 * kTokensPerStep;  // rows of our table per max_episode_steps
    config.max_episode_steps = (c.at("n_positions").get<std::int64_t>() + per_step - 1) / per_step;
    return config;
  }
  config.num_blocks = c.at("blocks");
  config.slstm_at = joined(c.at("slstm_at").get<std::vector<int>>(), ",");
  config.conv_kernel = c.at("conv_kernel");
  config.qkv_blocksize = c.at("qkv_blocksize");
  config.cell_eps = c.at("cell_eps");
  if (!c.at("ffn_factor").is_null()) config.ffn_factor = c.at("ffn_factor");
  return config;
}

std::shared_ptr<Policy> build(const PolicyConfig& config, const GoldenTensors& golden,
                              torch::ScalarType type) {
  auto policy = std::make_shared<Policy>(config);
  policy->to(type);
  const torch::NoGradGuard no_grad;
  auto parameters = policy->named_parameters();
  std::size_t loaded = 0;
  for (const auto& [name, value] : golden.with_prefix("param.")) {
    torch::Tensor* parameter = parameters.find(name);
    if (parameter == nullptr && !golden.has("grad." + name)) continue;  // the reference ignores it
    EXPECT_NE(parameter, nullptr) << "no parameter " << name;
    torch::Tensor into = name == kTable ? parameter->narrow(0, 0, value.size(0)) : *parameter;
    EXPECT_EQ(into.sizes(), value.sizes()) << name;
    into.copy_(value);
    ++loaded;
  }
  EXPECT_EQ(loaded, parameters.size()) << "parameters that the reference does not have";
  return policy;
}

/// The case's windows; pads hold NaN, which must not show anywhere.
WindowBatch windows_of(const GoldenTensors& golden) {
  const torch::Tensor pad = golden["in.attention_mask"] == 0;  // [B, T]
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  WindowBatch batch;
  batch.state = golden["in.state"].masked_fill(pad.unsqueeze(-1), kNaN);
  batch.return_to_go = golden["in.rtg"].masked_fill(pad, kNaN);
  batch.reward = golden["in.reward"].masked_fill(pad, kNaN);
  batch.begin = pad.sum(1).to(torch::kInt32);
  if (golden.has("in.position_ids")) {
    const torch::Tensor first_token = batch.begin.to(torch::kInt64).unsqueeze(1) * kTokensPerStep;
    batch.first_step = golden["in.position_ids"].gather(1, first_token).squeeze(1) / kTokensPerStep;
    batch.first_step = batch.first_step.to(torch::kInt64);
  }
  return batch;
}

/// Rows of the real steps, [B, T, ...] -> [N, ...].
torch::Tensor packed(const torch::Tensor& x, const torch::Tensor& real) {
  return x.flatten(0, 1).index({real.flatten()});
}

torch::Tensor hidden_at_return(Policy& policy, const WindowBatch& batch,
                               const torch::Tensor& tokens) {
  const std::int64_t rows = tokens.size(0);
  SequenceMask mask;
  mask.begin = batch.begin * kTokensPerStep;
  return policy.backbone()
      .forward(tokens, policy.initial_state(rows, batch.first_step), mask)
      .hidden.view({rows, -1, kTokensPerStep, tokens.size(2)})
      .select(2, kReturnToken);
}

/// Every row alone through step(), as an agent runs it: [N, A, C].
torch::Tensor stepped_logits(Policy& policy, const WindowBatch& batch) {
  std::vector<torch::Tensor> out;
  for (std::int64_t row = 0; row < batch.state.size(0); ++row) {
    const auto begin = batch.begin[row].item<std::int64_t>();
    BackboneState state = policy.initial_state(1);
    for (std::int64_t t = begin; t < batch.state.size(1); ++t)
      out.push_back(
          policy.step({.state = batch.state[row].narrow(0, t, 1),
                       .image = {},
                       .return_to_go = batch.return_to_go[row].narrow(0, t, 1),
                       .previous_reward = batch.reward[row].narrow(0, std::max(t - 1, begin), 1),
                       .first = torch::tensor({t == begin})},
                      state));
  }
  return torch::cat(out);
}

void check_case(const GoldenCase& one, torch::ScalarType type) {
  const std::string name = type == torch::kFloat64 ? "float64" : "float32";
  SCOPED_TRACE(one.name() + " " + name);
  const auto tolerance = one.tolerance(name);
  const GoldenTensors golden(one);
  const PolicyConfig config = config_of(one);
  const auto policy = build(config, golden, type);
  const WindowBatch batch = windows_of(golden);
  const torch::Tensor real = golden["in.attention_mask"] > 0;
  const torch::Tensor target = torch::where(golden["in.action_mask"] > 0, golden["in.target"], -1);
  const torch::Tensor legal = golden["in.legal"].to(torch::kBool).unsqueeze(1);  // [B, 1, A, C]

  const torch::Tensor tokens = policy->embed(batch);
  test::expect_close(packed(tokens, real.repeat_interleave(kTokensPerStep, 1)),
                     golden["out.embeddings"], tolerance, "embeddings");
  test::expect_close(packed(hidden_at_return(*policy, batch, tokens), real), golden["out.hidden"],
                     tolerance, "hidden");

  const torch::Tensor logits = policy->forward(batch).logits;
  test::expect_close(packed(logits, real), golden["out.logits"], tolerance, "logits");
  // Rounding may swap two legal classes that are as good as equal.
  const double lowest = -std::numeric_limits<double>::infinity();
  const torch::Tensor best = std::get<0>(logits.masked_fill(~legal, lowest).topk(2, -1));
  const torch::Tensor first = best.select(-1, 0), gap = first - best.select(-1, 1);
  const torch::Tensor clear =
      packed(gap > 2 * (tolerance.atol + tolerance.rtol * first.abs()), real);
  EXPECT_GT(clear.count_nonzero().item<std::int64_t>(), 0);
  EXPECT_TRUE(torch::equal(packed(greedy_classes(logits, legal), real).masked_select(clear),
                           golden["out.argmax_legal"].masked_select(clear)));

  const torch::Tensor loss = action_loss(logits, target);
  loss.backward({}, /*retain_graph=*/true);
  test::expect_close(loss, golden["out.loss"], tolerance, "loss");
  for (const auto& item : policy->named_parameters()) {
    const std::string label = "gradient of " + item.key();
    torch::Tensor gradient = item.value().grad();
    const torch::Tensor want = golden["grad." + item.key()];
    if (item.key() == kTable) {
      const std::int64_t rows = want.size(0), more = gradient.size(0) - rows;
      EXPECT_EQ(gradient.narrow(0, rows, more).count_nonzero().item<std::int64_t>(), 0) << label;
      gradient = gradient.narrow(0, 0, rows);
    }
    test::expect_close(gradient, want, tolerance, label);
  }

  policy->zero_grad();
  const torch::Tensor loss_legal = action_loss(logits, target, legal);
  loss_legal.backward();
  test::expect_close(loss_legal, golden["out.loss_legal"], tolerance, "loss_legal");
  for (const auto& [parameter, want] : golden.with_prefix("grad_legal."))
    test::expect_close(policy->named_parameters()[parameter].grad(), want, tolerance,
                       "legal gradient of " + parameter);
}

void check_kind(const std::string& kind, const std::function<bool(const GoldenCase&)>& is_kind) {
  for (const GoldenCase& one : test::golden_cases("policy", kind, is_kind))
    for (const auto type : {torch::kFloat64, torch::kFloat32}) check_case(one, type);
}

bool is_xlstm(const GoldenCase& one, bool with_slstm) {
  return is_whole_policy(one) && one.class_has("xLSTMBlockStack") &&
         one.config().at("slstm_at").empty() != with_slstm;
}

/// Step by step without pads, and with the cell's eps that the public package uses.
void check_xlstm_forms(const std::string& kind, bool with_slstm) {
  const auto cases = test::golden_cases(
      "policy", kind, [&](const GoldenCase& one) { return is_xlstm(one, with_slstm); });
  for (const GoldenCase& one : cases) {
    SCOPED_TRACE(one.name());
    const GoldenTensors golden(one);
    const auto tolerance = one.tolerance("float64");
    PolicyConfig config = config_of(one);
    const WindowBatch batch = windows_of(golden);
    const torch::Tensor real = golden["in.attention_mask"] > 0;
    const auto policy = build(config, golden, torch::kFloat64);
    test::expect_close(stepped_logits(*policy, batch), golden["out.logits"], tolerance, "steps");

    config.cell_eps = 1e-6;  // the public package's
    const auto with_eps = build(config, golden, torch::kFloat64);
    const torch::NoGradGuard no_grad;
    const torch::Tensor hidden =
        packed(hidden_at_return(*with_eps, batch, with_eps->embed(batch)), real);
    // Our m counts from 0 in every form, as in the package's step().
    test::expect_close(hidden, golden["eps.hidden_step"], tolerance, "hidden with eps");
    test::expect_close(hidden, golden["eps.hidden"], one.tolerance("eps.* against another form"),
                       "hidden with eps, quadratic");
    const torch::Tensor target =
        torch::where(golden["in.action_mask"] > 0, golden["in.target"], -1);
    test::expect_close(action_loss(with_eps->forward(batch).logits, target),
                       golden["eps.loss_step"], tolerance, "loss with eps");
  }
}

TEST(Xlstm_1_0, IsTheReference) {
  LRAM_SKIP_WITHOUT_GOLDEN("policy");
  check_kind("policy_xlstm_1_0", [](const auto& one) { return is_xlstm(one, false); });
  check_xlstm_forms("policy_xlstm_1_0", false);
}

TEST(Xlstm_1_1, IsTheReference) {
  LRAM_SKIP_WITHOUT_GOLDEN("policy");
  check_kind("policy_xlstm_1_1", [](const auto& one) { return is_xlstm(one, true); });
  check_xlstm_forms("policy_xlstm_1_1", true);
}

TEST(DecisionTransformer, IsTheReference) {
  LRAM_SKIP_WITHOUT_GOLDEN("policy");
  check_kind("policy_dt",
             [](const auto& one) { return is_whole_policy(one) && one.class_has("GPT2Model"); });
}

}  // namespace
}  // namespace lram::model::policy_golden_test
