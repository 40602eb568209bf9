// The 7B-style model against the xlstm package (tests/golden/models/README.md): logits of a whole
// sequence and of prefill + steps, states, gradients of every parameter, in float64 and float32.
#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/types.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lram/model/xlstm_large_lm.h"
#include "tests/support/golden_reference.h"

namespace lram::model::xlstm_large_golden_test {
namespace {
using test::GoldenCase;
using Reference = test::GoldenReference;
using torch::Tensor;

XlstmLargeConfig large_config(const nlohmann::json& c, MlstmForm form, std::int64_t chunk_size) {
  XlstmLargeConfig out;
  out.embed_dim = c.at("embedding_dim");
  out.num_heads = c.at("num_heads");
  out.num_blocks = c.at("num_blocks");
  out.qk_dim_factor = c.value("qk_dim_factor", out.qk_dim_factor);
  out.v_dim_factor = c.value("v_dim_factor", out.v_dim_factor);
  out.ffn_factor = c.value("ffn_proj_factor", out.ffn_factor);
  out.ffn_round_up_to = c.value("ffn_round_up_to_multiple_of", out.ffn_round_up_to);
  out.gate_soft_cap = c.value("gate_soft_cap", out.gate_soft_cap);
  out.norm_eps = c.value("norm_eps", out.norm_eps);
  out.bias = c.at("use_bias");
  out.cell.eps = c.at("eps");
  out.cell.form = form;
  out.cell.chunk_size = chunk_size;
  return out;
}

void check_state(const Reference& golden, const BackboneState& state, const std::string& prefix,
                 const std::string& what) {
  const std::string parts[3] = {"c", "n", "m"};
  for (std::size_t i = 0; i < state.tensors.size(); ++i) {
    const Tensor& got = state.tensors[i];
    golden.expect(i % 3 == 2 ? got.unsqueeze(-1) : got,
                  prefix + "." + std::to_string(i / 3) + "." + parts[i % 3], what);
  }
}

void check_large(const Reference& golden, MlstmForm form, std::int64_t chunk_size,
                 const std::string& what) {
  const nlohmann::json& config = golden.config();
  XlstmLargeLm model(large_config(config, form, chunk_size), config.at("vocab_size"),
                     config.value("output_logit_soft_cap", 30.0));
  model.to(golden.dtype());
  golden.tensors().load_parameters(model);

  const Tensor tokens = golden.tensors()["in.tokens"];
  const XlstmLargeLm::Output out = model.forward(tokens);
  golden.expect(out.logits, "out.logits", what);
  check_state(golden, out.state, "state", what);
  (out.logits * golden.input("in.g")).sum().backward();
  // Where eps is not 0 the package's total derivative goes through m too, ours does not.
  const bool other_form = golden.row().at("eps_matters");
  for (const auto& parameter : model.named_parameters())
    golden.expect(parameter.value().grad(), "grad_param." + parameter.key(), what, other_form);

  const torch::NoGradGuard no_grad;
  const std::int64_t prefill = golden.row().at("T0");
  XlstmLargeLm::Output now = model.forward(tokens.narrow(1, 0, prefill));
  check_state(golden, now.state, "state_prefill", what + ", prefill");
  std::vector<Tensor> logits = {now.logits};
  for (std::int64_t t = prefill; t < tokens.size(1); ++t) {
    now = model.forward(tokens.narrow(1, t, 1), now.state);
    logits.push_back(now.logits);
  }
  golden.expect(torch::cat(logits, 1), "out.logits_prefill_step", what);
  check_state(golden, now.state, "state", what + ", steps");
}

TEST(XlstmLarge, EqualsThePublishedPackage) {
  LRAM_SKIP_WITHOUT_GOLDEN("models");
  // Fused weights and those of transformers are other names of the same model: weight conversion.
  for (const GoldenCase& one : test::golden_cases("models", "xlstm_large", [](const GoldenCase& c) {
         return c.row.at("kind") == "xlstm_large" &&
                c.config().value("weight_mode", "single") == "single";
       })) {
    const Reference golden(one);
    const std::int64_t chunk = golden.config().at("chunk_size");
    check_large(golden, MlstmForm::kStep, chunk, "steps");
    check_large(golden, MlstmForm::kQuadratic, chunk, "quadratic");
    check_large(golden, MlstmForm::kChunkwise, chunk, "the package's chunks");
    check_large(golden, MlstmForm::kChunkwise, 5, "chunks of 5");
    golden.expect_all_compared([](const std::string&) { return ""; });
  }
}

}  // namespace
}  // namespace lram::model::xlstm_large_golden_test
