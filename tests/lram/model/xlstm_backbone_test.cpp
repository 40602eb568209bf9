#include "lram/model/xlstm_backbone.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/lram/model/backbone_properties.h"

namespace lram::model::xlstm_backbone_test {
namespace {
using test::Draw;

/// A small stack, any mixture of blocks and gates.
std::shared_ptr<Backbone> random_backbone(Draw& draw, torch::ScalarType dtype,
                                          std::int64_t chunk_size) {
  PolicyConfig config;
  config.num_heads = draw.integer(1, 2) * 2;
  config.embed_dim = test::kDim;
  config.num_blocks = draw.integer(1, 3);
  config.conv_kernel = draw.integer(2, 4);
  config.ffn_factor = draw.coin() ? 1.3 : 0.0;
  config.cell_eps = draw.coin() ? 1e-6 : 0.0;
  config.chunk_size = chunk_size;
  if (draw.coin(0.3)) {
    config.input_gate = "sigmoid";
    config.normalize = draw.coin();
  }
  for (std::int64_t i = 0; i < config.num_blocks; ++i)
    if (draw.coin(0.4)) config.slstm_at += (config.slstm_at.empty() ? "" : ",") + std::to_string(i);
  return test::perturbed(std::make_shared<XlstmBackbone>(config), draw, dtype);
}

TEST(XlstmBackbone, FormsAgree) { test::check_forms_agree(random_backbone); }
TEST(XlstmBackbone, MaskedRowsEqualRowsAlone) {
  test::check_masked_rows_equal_rows_alone(random_backbone);
}
TEST(XlstmBackbone, AResetIsAFreshStart) { test::check_reset_is_a_fresh_start(random_backbone); }
TEST(XlstmBackbone, ATokenCannotAlterOutputsBeforeIt) {
  test::check_no_token_alters_outputs_before_it(random_backbone);
}
TEST(XlstmBackbone, StepServesActiveRowsAlone) {
  test::check_step_serves_active_rows_alone(random_backbone);
}
TEST(XlstmBackbone, StateKeepsItsSize) {
  PolicyConfig config;
  config.embed_dim = test::kDim;
  config.num_blocks = 2;
  config.slstm_at = "1";
  XlstmBackbone backbone(config);
  test::check_state_keeps_its_size(backbone, test::kDim);
}
TEST(XlstmBackbone, GradientFlowsThroughTheStateOfTheWindowBefore) {
  test::check_gradient_flows_through_the_state(random_backbone);
}
TEST(XlstmBackbone, RefusesStatesOfOtherModels) {
  test::check_states_of_other_models_are_refused(random_backbone);
  PolicyConfig config;
  config.embed_dim = 32;
  config.num_blocks = 2;
  config.num_heads = 2;
  config.slstm_at = "1";
  XlstmBackbone narrow(config);
  config.num_heads = 4;
  XlstmBackbone wide(config);
  const torch::Tensor x = torch::zeros({1, 1, 32});
  EXPECT_NE(test::usage_error([&] {
              wide.forward(x, narrow.initial_state(1));
            }).find("xLSTM: the state's block 0 c is [1, 2, 32, 32], wanted [1, 4, 16, 16]"),
            std::string::npos);
}

TEST(XlstmBackbone, NamesBadPlacements) {
  const auto message = [](const std::string& text) {
    return test::usage_error([&] { parse_slstm_at(text, 4); });
  };
  EXPECT_EQ(parse_slstm_at("3,1", 4), (std::vector<std::int64_t>{1, 3}));
  EXPECT_TRUE(parse_slstm_at("", 4).empty());
  EXPECT_EQ(message("1,4"),
            "model.slstm_at: '4' in '1,4' is not a block, wanted numbers from 0 to 3");
  EXPECT_EQ(message("-1"),
            "model.slstm_at: '-1' in '-1' is not a block, wanted numbers from 0 to 3");
  EXPECT_EQ(message("1x"),
            "model.slstm_at: '1x' in '1x' is not a block, wanted numbers from 0 to 3");
  EXPECT_EQ(message("2,2"), "model.slstm_at: block 2 stands twice in '2,2', wanted once");
}

}  // namespace
}  // namespace lram::model::xlstm_backbone_test
