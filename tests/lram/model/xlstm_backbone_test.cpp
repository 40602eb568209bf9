#include "lram/model/xlstm_backbone.h"

#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/utils.h>

#include <cmath>
#include <string>
#include <vector>

#include "lram/core/error.h"
#include "tests/lram/model/random_sequence.h"

namespace lram::model {
namespace {
using test::Draw;
using test::relative_error;
using torch::Tensor;

// Of a block stack's output, relative L2.
double tolerance(torch::ScalarType dtype) { return dtype == torch::kDouble ? 1e-9 : 2e-5; }

/// A small stack with every parameter moved off its initial value, so that gates, memory mixing and
/// norms all matter.
XlstmBackbone random_backbone(Draw& draw, torch::ScalarType dtype, std::int64_t chunk_size) {
  const std::int64_t heads = draw.integer(1, 2) * 2;
  PolicyConfig config;
  config.embed_dim = 16;
  config.num_blocks = draw.integer(1, 3);
  config.num_heads = heads;
  config.conv_kernel = draw.integer(2, 4);
  config.ffn_factor = draw.coin() ? 1.3 : 0.0;
  config.cell_eps = draw.coin() ? 1e-6 : 0.0;
  config.chunk_size = chunk_size;
  for (std::int64_t i = 0; i < config.num_blocks; ++i)
    if (draw.coin(0.4)) config.slstm_at += (config.slstm_at.empty() ? "" : ",") + std::to_string(i);
  XlstmBackbone backbone(config);
  backbone.to(dtype);
  const torch::NoGradGuard no_grad;
  for (Tensor& parameter : backbone.parameters())
    parameter.add_(draw.normal(parameter.sizes(), dtype) * 0.1);
  return backbone;
}

Backbone::Output run_in_pieces(XlstmBackbone& backbone, const Tensor& x, BackboneState state,
                               const SequenceMask& mask, const std::vector<std::int64_t>& sizes) {
  std::vector<Tensor> hidden;
  std::int64_t first = 0;
  for (const std::int64_t size : sizes) {
    auto out = backbone.forward(x.narrow(1, first, size), state, test::piece(mask, first, size));
    hidden.push_back(out.hidden);
    state = std::move(out.state);
    first += size;
  }
  return {torch::cat(hidden, 1), state};
}

TEST(XlstmBackbone, FormsAgree) {
  const torch::NoGradGuard no_grad;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    for (const auto dtype : {torch::kDouble, torch::kFloat}) {
      Draw draw(seed);
      torch::manual_seed(static_cast<std::int64_t>(seed));
      // Chunks this small make the longer sequences take the chunkwise form.
      XlstmBackbone backbone = random_backbone(draw, dtype, draw.integer(1, 16));
      const std::int64_t batch = draw.integer(1, 3), tokens = draw.integer(1, 70);
      const SequenceMask mask = draw.mask(batch, tokens);
      const Tensor x = test::poison(draw.normal({batch, tokens, 16}, dtype), mask);
      BackboneState state;
      if (draw.coin()) state = backbone.forward(draw.normal({batch, 5, 16}, dtype), {}).state;
      const auto whole = backbone.forward(x, state, mask);
      std::vector<std::int64_t> sizes;
      for (std::int64_t left = tokens; left > 0; left -= sizes.back())
        sizes.push_back(draw.integer(1, left));
      const auto pieces = run_in_pieces(backbone, x, state, mask, sizes);
      const auto steps = run_in_pieces(
          backbone, x, state, mask, std::vector<std::int64_t>(static_cast<std::size_t>(tokens), 1));
      const std::string name = "seed " + std::to_string(seed) + ", " + torch::toString(dtype);
      EXPECT_LE(relative_error(pieces.hidden, whole.hidden), tolerance(dtype))
          << name << ", pieces";
      EXPECT_LE(relative_error(steps.hidden, whole.hidden), tolerance(dtype)) << name << ", steps";
      if (dtype != torch::kDouble) continue;
      for (std::size_t i = 0; i < whole.state.tensors.size(); ++i)
        EXPECT_LE(relative_error(steps.state.tensors[i], whole.state.tensors[i]), tolerance(dtype))
            << name << ", state " << i;
    }
  }
}

TEST(XlstmBackbone, MaskedRowsEqualRowsAlone) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Draw draw(seed);
    XlstmBackbone backbone = random_backbone(draw, torch::kDouble, 8);
    const std::int64_t batch = 4, tokens = draw.integer(2, 40);
    SequenceMask mask = draw.mask(batch, tokens);
    if (!mask.begin.defined()) continue;
    const Tensor x =
        test::poison(draw.normal({batch, tokens, 16}, torch::kDouble), mask).requires_grad_();
    const BackboneState state =
        backbone.forward(draw.normal({batch, 3, 16}, torch::kDouble), {}).state.detach();
    const Tensor weight = draw.normal({batch, tokens, 16}, torch::kDouble);

    const auto together = backbone.forward(x, state, mask);
    (together.hidden * weight).sum().backward();
    const Tensor dx = x.grad().clone();
    std::vector<Tensor> gradients;
    for (Tensor& parameter : backbone.parameters()) {
      gradients.push_back(parameter.grad().clone());
      parameter.mutable_grad() = Tensor();
    }
    for (std::int64_t b = 0; b < batch; ++b) {
      const std::int64_t begin = mask.begin[b].item<int>(), end = mask.end[b].item<int>();
      BackboneState row;
      for (const Tensor& tensor : state.tensors) row.tensors.push_back(tensor.narrow(0, b, 1));
      EXPECT_EQ(together.hidden[b].narrow(0, 0, begin).abs().sum().item<double>(), 0.0);
      if (begin == end) {
        for (std::size_t i = 0; i < row.tensors.size(); ++i)
          EXPECT_TRUE(torch::equal(together.state.tensors[i].narrow(0, b, 1), row.tensors[i]))
              << "seed " << seed << ", state " << i;
        continue;
      }
      SequenceMask resets;
      if (mask.reset.defined())
        resets.reset = mask.reset.narrow(0, b, 1).narrow(1, begin, end - begin);
      const auto alone =
          backbone.forward(x.detach().narrow(0, b, 1).narrow(1, begin, end - begin), row, resets);
      const auto part = [&](const Tensor& y) {
        return y.narrow(0, b, 1).narrow(1, begin, end - begin);
      };
      EXPECT_LE(relative_error(part(together.hidden), alone.hidden), 1e-12) << "seed " << seed;
      for (std::size_t i = 0; i < row.tensors.size(); ++i)
        EXPECT_LE(relative_error(together.state.tensors[i].narrow(0, b, 1), alone.state.tensors[i]),
                  1e-12)
            << "seed " << seed << ", state " << i;
      (alone.hidden * part(weight)).sum().backward();
    }
    const auto parameters = backbone.parameters();
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      if (!parameters[i].grad().defined()) continue;  // no row has a token
      EXPECT_LE((parameters[i].grad() - gradients[i]).norm().item<double>(),
                1e-10 * (1.0 + gradients[i].norm().item<double>()))
          << "seed " << seed << ", parameter " << i;
    }
    const Tensor silent = test::counts(mask, batch, tokens).logical_not();
    EXPECT_EQ(dx.index({silent}).abs().sum().item<double>(), 0.0) << "seed " << seed;
  }
}

TEST(XlstmBackbone, AResetIsAFreshStart) {
  const torch::NoGradGuard no_grad;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Draw draw(seed);
    XlstmBackbone backbone = random_backbone(draw, torch::kDouble, 8);
    const std::int64_t tokens = draw.integer(2, 40), start = draw.integer(0, tokens - 1);
    const Tensor x = draw.normal({2, tokens, 16}, torch::kDouble);
    const BackboneState state = backbone.forward(draw.normal({2, 6, 16}, torch::kDouble), {}).state;
    SequenceMask mask = {.reset = torch::zeros({2, tokens}, torch::kUInt8)};
    mask.reset.select(1, start).fill_(1);
    const auto with_reset = backbone.forward(x, state, mask);
    const auto fresh =
        backbone.forward(x.narrow(1, start, tokens - start), backbone.initial_state(2));
    EXPECT_LE(relative_error(with_reset.hidden.narrow(1, start, tokens - start), fresh.hidden),
              1e-12)
        << "seed " << seed;
    for (std::size_t i = 0; i < fresh.state.tensors.size(); ++i)
      EXPECT_LE(relative_error(with_reset.state.tensors[i], fresh.state.tensors[i]), 1e-12)
          << "seed " << seed << ", state " << i;
  }
}

TEST(XlstmBackbone, ATokenCannotAlterOutputsBeforeIt) {
  const torch::NoGradGuard no_grad;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Draw draw(seed);
    XlstmBackbone backbone = random_backbone(draw, torch::kFloat, 8);
    const std::int64_t tokens = draw.integer(2, 40), changed = draw.integer(1, tokens - 1);
    const Tensor x = draw.normal({2, tokens, 16}, torch::kFloat);
    Tensor other = x.clone();
    other.select(1, changed).add_(10.0);
    const Tensor before = backbone.forward(x, {}).hidden,
                 after = backbone.forward(other, {}).hidden;
    EXPECT_TRUE(torch::equal(before.narrow(1, 0, changed), after.narrow(1, 0, changed)))
        << "seed " << seed;
    EXPECT_FALSE(torch::equal(before.select(1, changed), after.select(1, changed)))
        << "seed " << seed;
  }
}

TEST(XlstmBackbone, StepServesActiveRowsAlone) {
  const torch::NoGradGuard no_grad;
  Draw draw(7);
  XlstmBackbone backbone = random_backbone(draw, torch::kDouble, 8);
  const BackboneState state = backbone.forward(draw.normal({3, 6, 16}, torch::kDouble), {}).state;
  const BackboneState kept = state.clone();
  const Tensor x = draw.normal({3, 16}, torch::kDouble);
  const Tensor active = torch::tensor({true, false, true});
  const auto some = backbone.step(x, state, active), all = backbone.step(x, state);
  EXPECT_EQ(some.hidden[1].abs().sum().item<double>(), 0.0);
  for (const std::int64_t b : {0, 2}) EXPECT_TRUE(torch::allclose(some.hidden[b], all.hidden[b]));
  for (std::size_t i = 0; i < state.tensors.size(); ++i) {
    EXPECT_TRUE(torch::equal(state.tensors[i], kept.tensors[i]))
        << "the given state was written to";
    EXPECT_TRUE(torch::equal(some.state.tensors[i][1], kept.tensors[i][1]));
    EXPECT_TRUE(torch::allclose(some.state.tensors[i][2], all.state.tensors[i][2]));
  }
}

TEST(XlstmBackbone, StateKeepsItsSize) {
  const torch::NoGradGuard no_grad;
  PolicyConfig config;
  config.embed_dim = 16;
  config.num_blocks = 2;
  config.slstm_at = "1";
  XlstmBackbone backbone(config);
  BackboneState state = backbone.initial_state(1);
  const Tensor x = torch::randn({1, 16});
  std::int64_t at_ten = 0;
  for (int step = 1; step <= 10'000; ++step) {
    auto out = backbone.step(x, state);
    state = std::move(out.state);
    if (step == 10) at_ten = state.bytes();
    ASSERT_TRUE(step % 1000 != 0 || out.hidden.isfinite().all().item<bool>()) << step;
  }
  EXPECT_EQ(state.bytes(), at_ten);
  EXPECT_EQ(state.bytes(), backbone.initial_state(1).bytes());
}

TEST(XlstmBackbone, GradientFlowsThroughTheStateOfTheWindowBefore) {
  Draw draw(11);
  XlstmBackbone backbone = random_backbone(draw, torch::kDouble, 8);
  const Tensor x = draw.normal({2, 12, 16}, torch::kDouble).requires_grad_();
  const Tensor weight = draw.normal({2, 12, 16}, torch::kDouble);
  const auto gradient = [&](const Tensor& hidden) {
    return torch::autograd::grad({(hidden * weight).sum()}, {x})[0];
  };
  const Tensor whole = gradient(backbone.forward(x, {}).hidden);
  const Tensor pieces = gradient(run_in_pieces(backbone, x, {}, {}, {5, 4, 3}).hidden);
  EXPECT_LE(relative_error(pieces, whole), 1e-9);
}

TEST(XlstmBackbone, NamesBadPlacements) {
  const auto message = [](const std::string& text) -> std::string {
    try {
      parse_slstm_at(text, 4);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      return error.what();
    }
    return "";
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
}  // namespace lram::model
