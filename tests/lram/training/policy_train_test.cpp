// The golden training run: a tiny policy, 30 optimizer steps of two micro-batches each.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "lram/core/text.h"
#include "lram/model/action_loss.h"
#include "lram/model/policy.h"
#include "lram/training/optimizer.h"
#include "lram/training/schedule.h"
#include "tests/support/golden_tensors.h"

namespace lram::training::policy_train_test {
namespace {
using lram::test::GoldenCase;
using lram::test::GoldenTensors;
using lram::test::Tolerance;
using nlohmann::json;

model::PolicyConfig policy_config(const json& c) {
  model::PolicyConfig out;
  out.embed_dim = c.at("D");
  out.num_heads = c.at("heads");
  out.num_blocks = c.at("blocks");
  out.slstm_at = joined(c.at("slstm_at").get<std::vector<int>>(), ",");
  out.context_length = c.at("T");
  out.conv_kernel = c.at("conv_kernel");
  out.qkv_blocksize = c.at("qkv_blocksize");
  out.ffn_factor = c.at("ffn_factor");
  out.cell_eps = c.at("cell_eps");
  out.state_dim = c.at("state_dim");
  out.action_slots = c.at("slots");
  out.discrete_ids = c.at("discrete_ids");
  out.num_bins = c.at("bins");
  return out;
}

torch::Tensor golden_loss(model::Policy& policy, const GoldenTensors& golden, std::int64_t batch,
                          std::int64_t domain) {
  const auto in = [&](const std::string& name) { return golden["in." + name][batch][domain]; };
  const auto mask = in("attention_mask");
  model::WindowBatch windows{.state = in("state"),
                             .image = {},
                             .return_to_go = in("rtg"),
                             .reward = in("reward"),
                             .begin = (mask.size(1) - mask.sum(1)).to(torch::kInt32),
                             .end = {},
                             .first_step = {}};
  const auto counted = (in("action_mask") * mask.unsqueeze(-1)).to(torch::kBool);
  const auto target = torch::where(counted, in("target"), -1);
  return model::action_loss(policy.forward(windows).logits, target);
}

/// How far entries of parameters may be off; the input gate's slot of the sLSTM's bias has a
/// gradient of rounding noise alone, which Adam enlarges (golden/policy/README.md).
void expect_parameters(const model::Policy& policy, const GoldenTensors& golden,
                       const GoldenCase& one, torch::ScalarType type, std::int64_t step) {
  const bool exact = type == torch::kDouble;
  const Tolerance tolerance = one.tolerance(exact ? "float64" : "float32 after_");
  const Tolerance null_tolerance = one.tolerance(exact ? "float64" : "float32 after_ null slot");
  const std::int64_t width = one.config().at("D");
  for (const auto& item : policy.named_parameters()) {
    const std::string name = fmt::format("after_{}.{}", step, item.key());
    const bool has_null = item.key().ends_with("_bias_");
    const auto got = item.value().flatten(), want = golden[name].flatten();
    lram::test::expect_close(got.slice(0, has_null ? width : 0),
                             want.slice(0, has_null ? width : 0), tolerance, name);
    if (has_null)
      lram::test::expect_close(got.slice(0, 0, width), want.slice(0, 0, width), null_tolerance,
                               name + ", null slot");
  }
}

void check_case(const GoldenCase& one, torch::ScalarType type) {
  const GoldenTensors golden(one);
  const json& c = one.config();
  const bool exact = type == torch::kDouble;
  model::Policy policy(policy_config(c));
  golden.load_parameters(policy);
  policy.to(type);
  for (const char* group : {"decay", "no_decay"})
    for (const std::string name : c.at(group))
      EXPECT_EQ(is_decayed(name, policy.named_parameters()[name]), std::string(group) == "decay")
          << name;

  Optimizer optimizer(policy, {.beta1 = c.at("betas").at(0),
                               .beta2 = c.at("betas").at(1),
                               .eps = c.at("eps"),
                               .weight_decay = c.at("weight_decay"),
                               .max_grad_norm = c.at("clip")});
  const Schedule schedule{.peak = c.at("lr"),
                          .floor = c.at("eta_min"),
                          .warmup = c.at("warmup"),
                          .cosine = c.at("T_max")};
  const std::int64_t steps = c.at("steps"), domains = c.at("accumulation");
  auto losses = torch::empty({steps, domains}, torch::kDouble);
  auto norms = torch::empty({steps}, torch::kDouble), rates = torch::empty_like(norms);
  int compared = 0;
  for (std::int64_t n = 0; n < steps; ++n) {
    optimizer.zero_grad();
    for (std::int64_t domain = 0; domain < domains; ++domain) {
      const auto loss =
          golden_loss(policy, golden, n % c.at("batches").get<std::int64_t>(), domain);
      losses[n][domain] = loss.item<double>();
      (loss / static_cast<double>(domains)).backward();
    }
    const double rate = schedule.rate(domains * (n + 1) - 1);
    rates[n] = rate;
    norms[n] = optimizer.step(rate);
    if (!golden.has(fmt::format("after_{}.embed_ln.weight", n + 1))) continue;
    expect_parameters(policy, golden, one, type, n + 1);
    ++compared;
  }
  EXPECT_GT(compared, 0);
  lram::test::expect_close(rates, golden["out.lr"], one.tolerance("float64"), "out.lr");
  lram::test::expect_close(losses, golden["out.loss"],
                           one.tolerance(exact ? "float64" : "float32 out.loss"), "out.loss");
  lram::test::expect_close(norms, golden["out.grad_norm"],
                           one.tolerance(exact ? "float64" : "float32 out.grad_norm"),
                           "out.grad_norm");
}

TEST(PolicyTrain, GoldenRunOfThirtySteps) {
  LRAM_SKIP_WITHOUT_GOLDEN("policy");
  for (const auto& one : lram::test::golden_cases(
           "policy", "policy_train",
           [](const GoldenCase& g) { return g.class_has("AdamW on the policy"); })) {
    for (const auto type : {torch::kDouble, torch::kFloat}) {
      SCOPED_TRACE(one.name() + " " + torch::toString(type));
      check_case(one, type);
    }
  }
}
}  // namespace
}  // namespace lram::training::policy_train_test
