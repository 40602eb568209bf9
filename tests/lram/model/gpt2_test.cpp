#include "lram/model/gpt2.h"

#include <gtest/gtest.h>
#include <torch/utils.h>

#include <limits>

#include "lram/core/error.h"
#include "tests/support/golden_tensors.h"

namespace lram::model::gpt2_test {
namespace {

constexpr double kRounding = 1e-12;  // float64, sums of at most 64 terms of size 1

Gpt2Config small(std::int64_t window = 9, std::int64_t num_positions = 200) {
  Gpt2Config config;
  config.embed_dim = 12;
  config.num_heads = 3;
  config.num_blocks = 2;
  config.window = window;
  config.num_positions = num_positions;
  return config;
}

/// Weights well away from the initial ones, in float64.
std::shared_ptr<Gpt2Backbone> random_backbone(const Gpt2Config& config, std::uint64_t seed) {
  torch::manual_seed(seed);
  auto backbone = std::make_shared<Gpt2Backbone>(config);
  backbone->to(torch::kFloat64);
  const torch::NoGradGuard no_grad;
  for (auto& parameter : backbone->parameters()) parameter.normal_(0.0, 0.4);
  return backbone;
}

torch::Tensor random(std::vector<std::int64_t> shape) {
  return torch::randn(shape, torch::kFloat64);
}

double difference(const torch::Tensor& a, const torch::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

TEST(Gpt2, CachedEqualsUncachedOverWholeEpisodes) {
  // Episodes far longer than the window: the ring wraps many times.
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    const auto backbone = random_backbone(small(), seed);
    const torch::Tensor x = random({2, 100, 12});
    const torch::Tensor whole = backbone->forward(x, backbone->initial_state(2)).hidden;

    BackboneState stepped = backbone->initial_state(2), advanced = backbone->initial_state(2);
    const auto bytes = stepped.bytes();
    const torch::NoGradGuard no_grad;
    for (std::int64_t t = 0; t < 100; ++t) {
      const auto out = backbone->step(x.select(1, t), stepped);
      stepped = out.state;
      EXPECT_LT(difference(out.hidden, whole.select(1, t)), kRounding) << "token " << t;
      const auto hidden = backbone->advance(x.narrow(1, t, 1), advanced).squeeze(1);
      EXPECT_LT(difference(hidden, whole.select(1, t)), kRounding) << "token " << t;
      EXPECT_EQ(stepped.bytes(), bytes);
    }
  }
}

TEST(Gpt2, AnyPiecesGiveTheWhole) {
  const auto backbone = random_backbone(small(), 7);
  const torch::Tensor x = random({1, 60, 12});
  const torch::Tensor whole = backbone->forward(x, backbone->initial_state(1)).hidden;
  for (const bool in_place : {false, true}) {
    const torch::AutoGradMode gradients(!in_place);
    BackboneState state = backbone->initial_state(1);
    std::int64_t at = 0;
    for (const std::int64_t piece : {1, 4, 9, 20, 3, 10, 13}) {  // longer than the window, too
      const auto part = x.narrow(1, at, piece);
      torch::Tensor hidden;
      if (in_place) {
        hidden = backbone->advance(part, state);
      } else {
        auto out = backbone->forward(part, state);
        hidden = out.hidden;
        state = out.state;
      }
      EXPECT_LT(difference(hidden, whole.narrow(1, at, piece)), kRounding) << "token " << at;
      at += piece;
    }
    ASSERT_EQ(at, 60);
  }
}

TEST(Gpt2, ForwardLeavesTheGivenStateAlone) {
  const auto backbone = random_backbone(small(), 4);
  const auto state = backbone->forward(random({2, 5, 12}), backbone->initial_state(2)).state;
  const auto before = state.clone();
  backbone->forward(random({2, 5, 12}), state);
  for (std::size_t i = 0; i < state.tensors.size(); ++i)
    EXPECT_TRUE(torch::equal(state.tensors[i], before.tensors[i])) << i;
}

TEST(Gpt2, SeesItsWindowAlone) {
  // One block, so that a token reaches back exactly one window.
  Gpt2Config config = small(/*window=*/5);
  config.num_blocks = 1;
  const auto backbone = random_backbone(config, 8);
  const torch::Tensor x = random({1, 20, 12});
  torch::Tensor changed = x.clone();
  changed.select(1, 6).add_(random({1, 12}));
  const auto initial = backbone->initial_state(1);
  const torch::Tensor moved =
      (backbone->forward(x, initial).hidden - backbone->forward(changed, initial).hidden)
          .abs()
          .amax({0, 2});
  for (std::int64_t t = 0; t < 20; ++t)
    EXPECT_EQ(moved[t].item<double>() > 0.0, t >= 6 && t < 11) << "token " << t;
}

TEST(Gpt2, MaskedTokensChangeNothing) {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  const auto backbone = random_backbone(small(/*window=*/6), 9);
  const std::int64_t batch = 4, tokens = 15;
  const torch::Tensor clean = random({batch, tokens, 12});
  SequenceMask mask;
  mask.begin = torch::tensor({0, 3, 7, 5}, torch::kInt32);
  mask.end = torch::tensor({15, 15, 12, 5}, torch::kInt32);
  mask.reset = torch::zeros({batch, tokens}, torch::kUInt8);
  mask.reset[0][8] = 1;
  mask.reset[1][1] = 1;  // on a pad: ignored
  mask.reset[2][9] = 1;
  torch::Tensor x = clean.clone();
  x[1].narrow(0, 0, 3).fill_(kNaN);
  x[2].narrow(0, 0, 7).fill_(kNaN);
  x[2].narrow(0, 12, 3).fill_(std::numeric_limits<double>::infinity());
  x[3].fill_(kNaN);
  x.requires_grad_();
  // A state that has seen something, so that resets have something to forget.
  const auto start =
      backbone->forward(random({batch, 8, 12}), backbone->initial_state(batch)).state.detach();
  const auto out = backbone->forward(x, start, mask);
  out.hidden.sum().backward();
  EXPECT_TRUE(torch::isfinite(out.hidden).all().item<bool>());
  for (const auto& item : backbone->named_parameters())
    EXPECT_TRUE(torch::isfinite(item.value().grad()).all().item<bool>()) << item.key();

  // Row by row and token by token without the masked ones.
  const auto row_state = [](const BackboneState& state, std::int64_t row) {
    BackboneState one;
    for (const auto& tensor : state.tensors)
      one.tensors.push_back(tensor.narrow(0, row, 1).clone());
    return one;
  };
  for (std::int64_t row = 0; row < batch; ++row) {
    BackboneState state = row_state(start, row);
    const auto begin = mask.begin[row].item<std::int64_t>();
    const auto end = mask.end[row].item<std::int64_t>();
    EXPECT_EQ(out.hidden[row].narrow(0, 0, begin).abs().sum().item<double>(), 0.0);
    EXPECT_EQ(x.grad()[row].narrow(0, 0, begin).abs().sum().item<double>(), 0.0);
    for (std::int64_t t = begin; t < end; ++t) {
      if (mask.reset[row][t].item<int>() != 0) state = backbone->initial_state(1);
      auto one = backbone->step(clean[row].narrow(0, t, 1), state);
      EXPECT_LT(difference(one.hidden[0], out.hidden[row][t]), kRounding) << row << ", " << t;
      state = one.state;
    }
    const auto left = row_state(out.state, row);
    for (const std::size_t i : {0u, 1u})
      EXPECT_TRUE(torch::equal(left.tensors[i], state.tensors[i])) << "row " << row;
    // The states go on alike.
    const torch::Tensor next = random({1, 12});
    EXPECT_LT(difference(backbone->step(next, left).hidden, backbone->step(next, state).hidden),
              kRounding)
        << "row " << row;
  }
}

TEST(Gpt2, InactiveRowsKeepTheirState) {
  const auto backbone = random_backbone(small(), 10);
  const auto state = backbone->forward(random({3, 4, 12}), backbone->initial_state(3)).state;
  const auto out = backbone->step(random({3, 12}), state, torch::tensor({true, false, true}));
  EXPECT_EQ(out.hidden[1].abs().sum().item<double>(), 0.0);
  EXPECT_GT(out.hidden[0].abs().sum().item<double>(), 0.0);
  for (std::size_t i = 0; i < state.tensors.size(); ++i) {
    EXPECT_TRUE(torch::equal(out.state.tensors[i][1], state.tensors[i][1])) << i;
    EXPECT_FALSE(torch::equal(out.state.tensors[i][0], state.tensors[i][0])) << i;
  }
}

TEST(Gpt2, RowsDoNotMix) {
  const auto backbone = random_backbone(small(), 11);
  const torch::Tensor x = random({4, 30, 12});
  SequenceMask mask;
  mask.begin = torch::tensor({0, 3, 7, 20}, torch::kInt32);
  const torch::Tensor order = torch::tensor({2, 0, 3, 1});
  SequenceMask permuted;
  permuted.begin = mask.begin.index_select(0, order);
  const auto a = backbone->forward(x, backbone->initial_state(4), mask).hidden;
  const auto b =
      backbone->forward(x.index_select(0, order), backbone->initial_state(4), permuted).hidden;
  EXPECT_LT(difference(a.index_select(0, order), b), kRounding);
}

TEST(Gpt2, PositionsBehindTheTableAreAnError) {
  const auto backbone = random_backbone(small(/*window=*/9, /*num_positions=*/20), 12);
  const auto state = backbone->forward(random({1, 20, 12}), backbone->initial_state(1)).state;
  try {
    backbone->step(random({1, 12}), state);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what())
                  .find("token 20 of the episode lies behind the table of 20 positions"),
              std::string::npos)
        << error.what();
  }
  EXPECT_THROW(
      backbone->forward(random({1, 3, 12}), backbone->initial_state(1, torch::tensor({18}))),
      Error);
}

TEST(Gpt2, FirstPositionShiftsTheTable) {
  const auto backbone = random_backbone(small(/*window=*/4), 13);
  const torch::Tensor x = random({1, 30, 12});
  const auto whole = backbone->forward(x, backbone->initial_state(1)).hidden;
  const auto late =
      backbone->forward(x.narrow(1, 20, 10), backbone->initial_state(1, torch::tensor({20})))
          .hidden;
  // Two blocks with windows of four: from the seventh token on nothing before the window is seen.
  EXPECT_LT(difference(late.narrow(1, 6, 4), whole.narrow(1, 26, 4)), kRounding);
  EXPECT_GT(difference(late.narrow(1, 0, 1), whole.narrow(1, 20, 1)), 1e-3);
}

Gpt2Config rotary() {
  Gpt2Config config = small();
  config.rope = true;
  return config;
}

TEST(Gpt2, RopeTurnsPairsByPosition) {
  // One head of width 2, one block; query and key are x itself, the value is [1, 0] for the token
  // at [1, 0] and [0, 0] for [0, 1] once the norm's mean and scale are taken out.
  Gpt2Config config;
  config.embed_dim = 2;
  config.num_heads = 1;
  config.num_blocks = 1;
  config.window = 8;
  config.rope = true;
  const auto backbone = std::make_shared<Gpt2Backbone>(config);
  backbone->to(torch::kFloat64);
  auto p = backbone->named_parameters();
  EXPECT_EQ(p.find("wpe.weight"), nullptr);
  const torch::NoGradGuard no_grad;
  for (auto& item : p)
    if (item.key().find("ln_") == std::string::npos) item.value().zero_();
  // The norm turns [a, -a] into [1, -1] and [-a, a] into [-1, 1] (up to eps): s = +1 or -1.
  // q = k = [s, 0]; v = [s, 0]. Its output is added to the first feature.
  auto& attention = p["h.0.attn.c_attn.weight"];
  for (const int column : {0, 2, 4}) attention[0][column] = 1.0;
  p["h.0.attn.c_proj.weight"][0][0] = 1.0;
  const double a = 1e3;  // eps is nothing beside it
  const torch::Tensor x = torch::tensor({a, -a, -a, a, a, -a}, torch::kFloat64).view({1, 3, 2});
  // Before ln_f the third token holds [a + v, -a], v the mean of +1, -1, +1 under weights
  // exp(s s' cos(distance) / sqrt(2)): the second feature of a pair is 0, and speed 0 is 1 rad.
  const double near = std::exp(-std::cos(1.0) / std::sqrt(2.0)),
               far = std::exp(std::cos(2.0) / std::sqrt(2.0)), self = std::exp(1 / std::sqrt(2.0));
  const double v = (far - near + self) / (far + near + self);
  std::vector<torch::Tensor> blocks;
  backbone->forward(x, backbone->initial_state(1), {}, &blocks);
  EXPECT_NEAR(blocks[0][0][2][0].item<double>(), a + v, 1e-6);
}

TEST(Gpt2, RopeKnowsDistancesAlone) {
  const auto backbone = random_backbone(rotary(), 21);
  const torch::Tensor x = random({2, 40, 12});
  const torch::Tensor here = backbone->forward(x, backbone->initial_state(2)).hidden;
  const torch::Tensor late = torch::tensor({1'000'000, 7}, torch::kInt64);
  const torch::Tensor there = backbone->forward(x, backbone->initial_state(2, late)).hidden;
  // An angle near 1e6 rad is exact to 1e-10 in float64.
  EXPECT_LT(difference(here, there), 1e-7);
  const torch::Tensor swapped =
      torch::cat({x.narrow(1, 1, 1), x.narrow(1, 0, 1), x.slice(1, 2)}, 1);
  EXPECT_GT(difference(backbone->forward(swapped, backbone->initial_state(2)).hidden.select(1, 2),
                       here.select(1, 2)),
            1e-3);
}

TEST(Golden, OutputsGradientsAndCacheAreThoseOfTheReference) {
  LRAM_SKIP_WITHOUT_GOLDEN("baselines");
  const auto cases = test::golden_cases("baselines", "gpt2", [](const auto& one) {
    return one.class_has("GPT2Model") && one.has_tensor("x") && one.has_tensor("out_gelu");
  });
  for (const auto& one : cases) {
    const test::GoldenTensors golden(one);
    Gpt2Config config;
    config.embed_dim = one.config().at("n_embd");
    config.num_heads = one.config().at("n_head");
    config.num_blocks = one.config().at("n_layer");
    config.num_positions = one.config().at("n_positions");
    config.window = golden["x"].size(1);
    for (const auto type : {torch::kFloat64, torch::kFloat32}) {
      const std::string name = type == torch::kFloat64 ? "float64" : "float32";
      SCOPED_TRACE(one.name() + " " + name);
      const auto tolerance = one.tolerance(name);
      const torch::Tensor x = golden["x"].to(type).requires_grad_();
      const std::int64_t batch = x.size(0);
      const auto build = [&](Activation activation) {
        config.activation = activation;
        auto backbone = std::make_shared<Gpt2Backbone>(config);
        backbone->to(type);
        golden.load_parameters(*backbone);
        return backbone;
      };
      const auto backbone = build(Activation::kGeluTanh);
      const auto initial = backbone->initial_state(batch);
      std::vector<torch::Tensor> layers;
      const auto out = backbone->forward(x, initial, {}, &layers).hidden;
      (out * golden["probe"].to(type)).sum().backward();
      golden.expect(out, "out", tolerance, name);
      golden.expect(x.grad(), "grad_x", tolerance, name);
      for (std::size_t i = 0; i < layers.size(); ++i)
        golden.expect(layers[i], "layer_" + std::to_string(i), tolerance, name);
      test::expect_gradients(*backbone, golden, tolerance, "loss");

      const torch::NoGradGuard no_grad;
      for (const auto& [tensor, activation] :
           {std::pair("out_gelu", Activation::kGelu), std::pair("out_relu", Activation::kRelu)})
        golden.expect(build(activation)->forward(x, initial).hidden, tensor, tolerance, name);

      BackboneState state = initial;
      std::vector<torch::Tensor> parts;
      std::int64_t at = 0;
      const torch::Tensor chunks = golden["chunks"];
      for (std::int64_t i = 0; i < chunks.numel(); ++i) {
        const auto length = chunks[i].item<std::int64_t>();
        auto part = backbone->forward(x.narrow(1, at, length), state);
        parts.push_back(part.hidden);
        state = part.state;
        at += length;
      }
      golden.expect(torch::cat(parts, 1), "out_steps", tolerance, name);
      for (std::int64_t i = 0; i < config.num_blocks; ++i) {
        const auto block = static_cast<std::size_t>(2 + 2 * i);  // behind position and seen
        golden.expect(state.tensors[block], "key_" + std::to_string(i), tolerance, name);
        golden.expect(state.tensors[block + 1], "value_" + std::to_string(i), tolerance, name);
      }

      SequenceMask mask;
      mask.begin = (1 - golden["pad_mask"]).sum(1).to(torch::kInt32);
      golden.expect(backbone->forward(x, initial, mask).hidden, "out_padded", tolerance, name);

      // Every position 0 is every row of the table equal to the first.
      auto& positions = *backbone->named_parameters().find("wpe.weight");
      positions.copy_(positions[0].clone().expand_as(positions));
      golden.expect(backbone->forward(x, initial).hidden, "out_position_zero", tolerance, name);
    }
  }
}

}  // namespace
}  // namespace lram::model::gpt2_test
