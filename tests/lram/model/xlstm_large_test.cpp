#include "lram/model/xlstm_large.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "lram/model/xlstm_large_lm.h"
#include "tests/lram/model/backbone_properties.h"

namespace lram::model::xlstm_large_test {
namespace {
using test::Draw;
using test::usage_error;
using torch::Tensor;

std::shared_ptr<Backbone> random_backbone(Draw& draw, torch::ScalarType dtype,
                                          std::int64_t chunk_size) {
  XlstmLargeConfig config;
  config.embed_dim = test::kDim;
  config.num_heads = draw.integer(1, 2) * 2;
  config.num_blocks = draw.integer(1, 3);
  config.qk_dim_factor = draw.coin() ? 0.5 : 1.0;
  config.v_dim_factor = draw.coin() ? 1.0 : 0.5;
  config.ffn_round_up_to = 8;
  config.gate_soft_cap = draw.coin() ? 15.0 : 0.0;
  config.bias = draw.coin();
  config.cell.eps = draw.coin() ? 1e-6 : 0.0;
  config.cell.chunk_size = chunk_size;
  if (draw.coin()) {
    config.cell.input_gate = InputGate::kSigmoid;
    config.cell.normalize = draw.coin();
  }
  // Training values start with gates of 0 and input gates closed; the tests want them at work.
  config.init = XlstmLargeInit::kLibTorch;
  return test::perturbed(std::make_shared<XlstmLargeBackbone>(config), draw, dtype);
}

TEST(XlstmLarge, FormsAgree) { test::check_forms_agree(random_backbone, /*seeds=*/100); }
TEST(XlstmLarge, MaskedRowsEqualRowsAlone) {
  test::check_masked_rows_equal_rows_alone(random_backbone);
}
TEST(XlstmLarge, AResetIsAFreshStart) { test::check_reset_is_a_fresh_start(random_backbone); }
TEST(XlstmLarge, ATokenCannotAlterOutputsBeforeIt) {
  test::check_no_token_alters_outputs_before_it(random_backbone);
}
TEST(XlstmLarge, StepServesActiveRowsAlone) {
  test::check_step_serves_active_rows_alone(random_backbone);
}
TEST(XlstmLarge, StateKeepsItsSize) {
  XlstmLargeBackbone backbone({.embed_dim = 16, .num_heads = 2, .num_blocks = 2});
  test::check_state_keeps_its_size(backbone, 16);
}
TEST(XlstmLarge, GradientFlowsThroughTheStateOfTheWindowBefore) {
  test::check_gradient_flows_through_the_state(random_backbone);
}
TEST(XlstmLarge, RefusesStatesOfOtherModels) {
  test::check_states_of_other_models_are_refused(random_backbone);
}

TEST(XlstmLarge, SoftCapByHand) {
  const Tensor x = torch::tensor({0.0, 15.0, 1e6, -1e6}, torch::kDouble);
  const Tensor capped = soft_cap(x, 15.0);
  EXPECT_DOUBLE_EQ(capped[0].item<double>(), 0.0);
  EXPECT_DOUBLE_EQ(capped[1].item<double>(), 15.0 * std::tanh(1.0));
  EXPECT_DOUBLE_EQ(capped[2].item<double>(), 15.0);
  EXPECT_DOUBLE_EQ(capped[3].item<double>(), -15.0);
  EXPECT_TRUE(torch::equal(soft_cap(x, 0.0), x));
}

TEST(XlstmLarge, WidthsAreThoseOfThe7BModel) {
  const XlstmLargeConfig config = {.embed_dim = 4096, .num_heads = 8, .num_blocks = 32};
  EXPECT_EQ(config.qk_dim(), 2048);
  EXPECT_EQ(config.v_dim(), 4096);
  EXPECT_EQ(config.ffn_dim(), 10944);  // kernels.md 1.8
}

std::int64_t parameters_of(const XlstmLargeConfig& c, std::int64_t vocab_size) {
  const std::int64_t dim = c.embed_dim;
  const std::int64_t layer = 2 * c.qk_dim() * dim + 3 * c.v_dim() * dim +
                             2 * c.num_heads * (dim + 1) + c.v_dim() + 3 * c.ffn_dim() * dim +
                             2 * dim;
  return 2 * vocab_size * dim + c.num_blocks * layer + dim;
}

TEST(XlstmLarge, ParametersAreAsManyAsPublished) {
  const XlstmLargeConfig small = {.embed_dim = 48, .num_heads = 4, .num_blocks = 3};
  std::int64_t counted = 0;
  const XlstmLargeLm lm(small, /*vocab_size=*/10);
  for (const Tensor& parameter : lm.parameters()) counted += parameter.numel();
  EXPECT_EQ(counted, parameters_of(small, 10));
  // The released model, 6.87e9 (kernels.md 1.8).
  EXPECT_EQ(parameters_of({.embed_dim = 4096, .num_heads = 8, .num_blocks = 32}, 50304),
            6'865'424'896);
}

/// bf16 holds 8 bits: at 6 its numbers lie 0.03 apart. Gates are computed in float32 all the same.
TEST(XlstmLarge, GatesStayInFloat32UnderAutocast) {
  torch::manual_seed(3);
  XlstmLargeBackbone backbone(
      {.embed_dim = 16, .num_heads = 2, .num_blocks = 1, .init = XlstmLargeInit::kLibTorch});
  const torch::NoGradGuard no_grad;
  const Tensor x = torch::randn({1, 40, 16});
  const Tensor exact = backbone.forward(x, {}).state.tensors[2];
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const BackboneState state = backbone.forward(x, {}).state;
  at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(at::kCPU, false);
  // m adds up log sigmoid(f) of 40 tokens, or is a recent i.
  EXPECT_LE((state.tensors[2] - exact).abs().max().item<double>(), 1e-5);
  EXPECT_EQ(state.tensors[0].scalar_type(), torch::kFloat);
}

TEST(XlstmLarge, RefusesWhatCannotBeBuilt) {
  const auto message = [](const XlstmLargeConfig& config) {
    return usage_error([&] { XlstmLargeBackbone backbone(config); });
  };
  EXPECT_EQ(message({.embed_dim = 32, .num_heads = 3}),
            "xLSTM large: num_heads is 3, wanted a divisor of the width of queries and keys (16)");
  EXPECT_EQ(message({.embed_dim = 32, .num_heads = 8, .v_dim_factor = 0.4}),
            "xLSTM large: num_heads is 8, wanted a divisor of the width of values (12)");
  EXPECT_EQ(message({.embed_dim = 0}), "xLSTM large: embed_dim is 0, wanted at least 1");
  EXPECT_EQ(message({.embed_dim = 32, .qk_dim_factor = 0.01}),
            "xLSTM large: the width of queries and keys is 0, wanted at least 1");
  EXPECT_EQ(message({.embed_dim = 32, .ffn_factor = 0.0}),
            "xLSTM large: the width of the feed-forward is 0, wanted at least 1");
  EXPECT_EQ(message({.embed_dim = 32, .cell = {.normalize = false}}),
            "xLSTM large: normalize is false with exponential input gates, wanted sigmoid ones");
  XlstmLargeBackbone backbone({.embed_dim = 16, .num_heads = 2, .num_blocks = 1});
  EXPECT_NE(usage_error([&] {
              backbone.forward(torch::zeros({1, 2, 8}), {});
            }).find("x is [1, 2, 8], wanted [B, T, 16]"),
            std::string::npos);
  XlstmLargeLm lm({.embed_dim = 16, .num_heads = 2, .num_blocks = 1}, /*vocab_size=*/5);
  EXPECT_NE(usage_error([&] {
              lm.forward(torch::zeros({2, 3}));
            }).find("wanted int64 [B, T]"),
            std::string::npos);
}

}  // namespace
}  // namespace lram::model::xlstm_large_test
