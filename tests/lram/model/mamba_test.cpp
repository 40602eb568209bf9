#include "lram/model/mamba.h"

#include <gtest/gtest.h>
#include <torch/utils.h>

#include <cmath>
#include <string>
#include <vector>

#include "tests/support/golden_tensors.h"

namespace lram::model::mamba_test {
namespace {
using torch::Tensor;

double deviation(const Tensor& x) { return x.std(/*unbiased=*/false).item<double>(); }

TEST(Mamba, InitialValuesAreThoseOfThePackage) {
  // transformers 5.23.0, MambaModel: the rules of its _init_weights and MambaMixer.
  torch::manual_seed(3);
  const MambaBackbone backbone({.embed_dim = 256, .num_blocks = 2});
  for (const std::string layer : {"layers.0.", "layers.1."}) {
    const auto p = [&](const std::string& name) {
      return backbone.named_parameters()[layer + name].detach();
    };
    const auto uniform = [&](const std::string& name, double bound, double room) {
      EXPECT_LE(p(name).abs().max().item<double>(), bound) << name;
      EXPECT_NEAR(deviation(p(name)) / (bound / std::sqrt(3.0)), 1.0, room) << name;
    };
    EXPECT_TRUE(torch::equal(p("norm.weight"), torch::ones({256})));
    EXPECT_TRUE(torch::equal(p("mixer.D"), torch::ones({512})));
    EXPECT_TRUE(torch::allclose(p("mixer.A_log").exp(),
                                torch::arange(1, 17).to(torch::kFloat).expand({512, 16})));
    EXPECT_TRUE(torch::equal(p("mixer.conv1d.bias"), torch::zeros({512})));
    uniform("mixer.conv1d.weight", 0.5, 0.05);    // 1 / sqrt(taps)
    uniform("mixer.dt_proj.weight", 0.25, 0.05);  // 1 / sqrt(rank)
    uniform("mixer.out_proj.weight", 1 / std::sqrt(512.0), 0.02);
    EXPECT_NEAR(deviation(p("mixer.in_proj.weight")), 0.1, 1e-3);
    EXPECT_NEAR(deviation(p("mixer.x_proj.weight")), 0.1, 3e-3);
    // Steps are log-uniform in [1e-3, 1e-1]: mean and deviation of the logarithm.
    const Tensor log_step = torch::log1p(p("mixer.dt_proj.bias").exp()).log();
    EXPECT_GE(log_step.min().item<double>(), std::log(1e-3) - 1e-3);
    EXPECT_LE(log_step.max().item<double>(), std::log(1e-1) + 1e-3);
    EXPECT_NEAR(log_step.mean().item<double>(), std::log(1e-2), 0.2);  // 512 draws: 0.06
    EXPECT_NEAR(deviation(log_step), std::log(100.0) / std::sqrt(12.0), 0.12);
  }
}

TEST(Golden, OutputsGradientsAndStatesAreThoseOfTheReference) {
  LRAM_SKIP_WITHOUT_GOLDEN("baselines");
  const auto cases = test::golden_cases("baselines", "mamba", [](const test::GoldenCase& one) {
    return one.class_has("MambaModel") && one.has_tensor("x") && one.has_tensor("out");
  });
  for (const auto& one : cases) {
    const test::GoldenTensors golden(one);
    const auto& c = one.config();
    const std::int64_t blocks = c.at("num_hidden_layers");
    for (const auto type : {torch::kDouble, torch::kFloat}) {
      const std::string width = type == torch::kDouble ? "float64" : "float32";
      const std::string what = one.name() + ", " + width;
      const auto tolerance = one.tolerance(width);
      MambaBackbone backbone({.embed_dim = c.at("hidden_size"),
                              .num_blocks = blocks,
                              .expand = c.at("expand"),
                              .state_size = c.at("state_size"),
                              .conv_kernel = c.at("conv_kernel"),
                              .dt_rank = c.at("time_step_rank")});
      backbone.to(type);
      golden.load_parameters(backbone);
      const Tensor x = golden["x"].to(type).requires_grad_();
      const std::int64_t tokens = x.size(1);
      std::vector<Tensor> layers;
      const auto whole = backbone.forward(x, {}, {}, &layers);
      (whole.hidden * golden["probe"].to(type)).sum().backward();
      golden.expect(whole.hidden, "out", tolerance, what);
      golden.expect(x.grad(), "grad_x", tolerance, what);
      test::expect_gradients(backbone, golden, tolerance, what);

      const torch::NoGradGuard no_grad;
      const auto expect_state = [&](const BackboneState& state, const std::string& after) {
        for (std::int64_t i = 0; i < blocks; ++i) {
          const auto window = static_cast<std::size_t>(2 * i);
          // The reference keeps K columns, of which the oldest is never read again.
          const std::string conv = "conv_state_" + std::to_string(i);
          const Tensor columns = golden[conv];
          const Tensor got = torch::cat(
              {columns.narrow(2, 0, 1).to(type), state.tensors[window].transpose(1, 2)}, 2);
          golden.expect(got, conv, tolerance, what + after);
          golden.expect(state.tensors[window + 1], "ssm_state_" + std::to_string(i), tolerance,
                        what + after);
        }
      };
      expect_state(whole.state, "");
      for (std::int64_t i = 0; i < blocks; ++i)
        golden.expect(layers[static_cast<std::size_t>(i)], "layer_" + std::to_string(i), tolerance,
                      what);
      for (const std::int64_t size : {std::int64_t{1}, std::int64_t{2}, tokens - 1}) {
        BackboneState state;
        std::vector<Tensor> parts;
        for (std::int64_t first = 0; first < tokens; first += size) {
          auto part = backbone.forward(x.narrow(1, first, std::min(size, tokens - first)), state);
          parts.push_back(part.hidden);
          state = std::move(part.state);
        }
        const std::string after = ", " + std::to_string(size) + " tokens at a time";
        golden.expect(torch::cat(parts, 1), "out", tolerance, what + after);
        expect_state(state, after);
        // The package's own numbers are float32.
        if (size == 1)
          golden.expect(torch::cat(parts, 1), "hf_out_steps", one.tolerance("float32"), what);
      }
      golden.expect(whole.hidden, "hf_out", one.tolerance("float32"), what);
      SequenceMask mask;
      mask.begin = (1 - golden["pad_mask"]).sum(1).to(torch::kInt32);
      golden.expect(backbone.forward(x, {}, mask).hidden, "out_padded", tolerance, what);
    }
  }
}

}  // namespace
}  // namespace lram::model::mamba_test
