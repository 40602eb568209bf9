// What every backbone promises (backbone.h), over the whole table.
#include "lram/model/backbones.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "tests/lram/model/backbone_properties.h"

namespace lram::model::backbones_test {
namespace {
using test::Draw;

class EachBackbone : public testing::TestWithParam<std::string> {
 protected:
  test::MakeBackbone maker() const {
    return [](Draw& draw, torch::ScalarType dtype, std::int64_t chunk_size) {
      PolicyConfig config;
      config.backbone = GetParam();
      config.embed_dim = test::kDim;
      config.num_blocks = draw.integer(1, 3);
      config.num_heads = draw.integer(1, 2) * 2;
      config.conv_kernel = draw.integer(2, 4);
      config.ffn_factor = draw.coin() ? 1.3 : 0.0;
      config.cell_eps = draw.coin() ? 1e-6 : 0.0;
      config.chunk_size = chunk_size;
      config.context_length = draw.integer(1, 8);  // a Transformer's window is 3 tokens to each
      config.positions = draw.coin() ? "learned" : "rope";
      config.max_episode_steps = 40;
      if (GetParam() == "xlstm")
        for (std::int64_t i = 0; i < config.num_blocks; ++i)
          if (draw.coin(0.4))
            config.slstm_at += (config.slstm_at.empty() ? "" : ",") + std::to_string(i);
      clear_unused(config);
      validate(config);
      return test::perturbed(make_backbone(config), draw, dtype);
    };
  }
};
INSTANTIATE_TEST_SUITE_P(Backbones, EachBackbone, testing::ValuesIn(backbone_names()),
                         [](const auto& name) { return name.param; });

TEST_P(EachBackbone, FormsAgree) { test::check_forms_agree(maker(), /*seeds=*/40); }
TEST_P(EachBackbone, MaskedRowsEqualRowsAlone) {
  test::check_masked_rows_equal_rows_alone(maker());
}
TEST_P(EachBackbone, AResetIsAFreshStart) { test::check_reset_is_a_fresh_start(maker()); }
TEST_P(EachBackbone, ATokenCannotAlterOutputsBeforeIt) {
  test::check_no_token_alters_outputs_before_it(maker());
}
TEST_P(EachBackbone, StepServesActiveRowsAlone) {
  test::check_step_serves_active_rows_alone(maker());
}
TEST_P(EachBackbone, GradientFlowsThroughTheStateOfTheWindowBefore) {
  test::check_gradient_flows_through_the_state(maker());
}
TEST_P(EachBackbone, RefusesStatesOfOtherModels) {
  test::check_states_of_other_models_are_refused(maker());
}
TEST_P(EachBackbone, StateKeepsItsSize) {
  PolicyConfig config;
  config.backbone = GetParam();
  config.embed_dim = test::kDim;
  config.num_blocks = 1;
  config.num_heads = 2;
  config.context_length = 8;
  config.max_episode_steps = 1200;  // 9 positions to each
  for (const char* positions : {"learned", "rope"}) {
    config.positions = positions;
    test::check_state_keeps_its_size(*make_backbone(config), test::kDim);
    if (GetParam() != "gpt2") break;
  }
}

TEST(Backbones, TheTableHoldsTheFieldsArchitectures) {
  const auto names = backbone_names();
  for (const char* name :
       {"xlstm", "slstm", "lstm", "gru", "elman", "xlstm_large", "mamba", "gpt2"})
    EXPECT_NE(std::find(names.begin(), names.end(), name), names.end()) << name;
}

}  // namespace
}  // namespace lram::model::backbones_test
