#include "lram/model/action_loss.h"

#include <gtest/gtest.h>
#include <torch/utils.h>

#include <cmath>
#include <limits>

#include "tests/support/golden_tensors.h"

namespace lram::model::action_loss_test {
namespace {

TEST(ActionLoss, HandSizedCase) {
  // Two classes with logits 0 and ln 3: probabilities 1/4 and 3/4.
  const double b = std::log(3.0);
  const torch::Tensor logits =
      torch::tensor({0.0, b, 0.0, b, 0.0, b, 0.0, b}, torch::kFloat64).view({1, 2, 2, 2});
  const torch::Tensor target = torch::tensor({0, 1, 1, -1}).view({1, 2, 2});
  const double low = std::log(4.0), high = std::log(4.0 / 3.0);
  EXPECT_NEAR(action_loss(logits, target).item<double>(), (low + 2 * high) / 3, 1e-15);
  EXPECT_NEAR(action_loss(logits, target, {}, LossReduction::kPerStep).item<double>(),
              ((low + high) / 2 + high) / 2, 1e-8);  // LRAM's guard
  // With class 1 alone legal its probability is 1.
  const torch::Tensor legal = torch::tensor({false, true});
  EXPECT_EQ(action_loss(logits, torch::ones_like(target), legal).item<double>(), 0.0);
  EXPECT_EQ(action_loss(logits, torch::full_like(target, -1)).item<double>(), 0.0);
}

TEST(ActionLoss, WhatDoesNotCountMayHoldAnything) {
  torch::manual_seed(1);
  torch::Tensor logits = torch::randn({2, 3, 2, 5}, torch::kFloat64);
  torch::Tensor target = torch::randint(5, {2, 3, 2}, torch::kInt64);
  target[0][0].fill_(-1);
  target[1][2][1] = -1;
  const double want = action_loss(logits, target).item<double>();
  logits[0][0].fill_(std::numeric_limits<double>::quiet_NaN());
  logits[1][2][1].fill_(std::numeric_limits<double>::infinity());
  logits.requires_grad_();
  const torch::Tensor loss = action_loss(logits, target);
  loss.backward();
  EXPECT_EQ(loss.item<double>(), want);
  EXPECT_EQ(logits.grad()[0][0].abs().sum().item<double>(), 0.0);
  EXPECT_TRUE(torch::isfinite(logits.grad()).all().item<bool>());
}

TEST(ActionLoss, GreedyChoosesAmongTheLegal) {
  const torch::Tensor logits = torch::tensor({9.0, 1.0, 2.0}).expand({2, 2, 3});
  const torch::Tensor legal =
      torch::tensor({0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0}).view({2, 2, 3}).to(torch::kBool);
  EXPECT_TRUE(
      torch::equal(greedy_classes(logits, legal), torch::tensor({2, -1, 0, 1}).view({2, 2})));
}

TEST(Golden, LossesAndGradientsAreThoseOfTheReference) {
  LRAM_SKIP_WITHOUT_GOLDEN("baselines");
  const auto cases = test::golden_cases("baselines", "cross_entropy", [](const auto& one) {
    return one.has_tensor("continuous.loss_mean") && one.has_tensor("discrete.loss_mean_legal");
  });
  for (const auto& one : cases) {
    const test::GoldenTensors golden(one);
    for (const auto type : {torch::kFloat64, torch::kFloat32}) {
      const std::string name = type == torch::kFloat64 ? "float64" : "float32";
      const auto tolerance = one.tolerance(name);
      for (const std::string kind : {"continuous.", "discrete."}) {
        SCOPED_TRACE(one.name() + " " + kind + " " + name);
        const torch::Tensor target =
            torch::where(golden[kind + "action_mask"] > 0, golden[kind + "target"], -1);
        const torch::Tensor legal = golden[kind + "legal"].to(torch::kBool);
        for (const std::string form : {"mean", "per_step", "mean_legal"}) {
          const torch::Tensor logits = golden[kind + "logits"].to(type).requires_grad_();
          const torch::Tensor loss =
              action_loss(logits, target, form == "mean_legal" ? legal : torch::Tensor(),
                          form == "per_step" ? LossReduction::kPerStep : LossReduction::kPerEntry);
          loss.backward();
          test::expect_close(loss, golden[kind + "loss_" + form], tolerance, form);
          if (golden.has(kind + "grad_" + form))
            test::expect_close(logits.grad(), golden[kind + "grad_" + form], tolerance,
                               form + " gradient");
        }
        const torch::Tensor logits = golden[kind + "logits"].to(type);
        const torch::Tensor best =
            torch::where(golden[kind + "action_mask"] > 0, greedy_classes(logits, legal), -1);
        EXPECT_TRUE(torch::equal(best, golden[kind + "argmax_legal"]));
      }
    }
  }
}

}  // namespace
}  // namespace lram::model::action_loss_test
