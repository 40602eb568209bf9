#include "lram/model/vit.h"

#include <gtest/gtest.h>
#include <torch/utils.h>

#include <cmath>

#include "lram/core/error.h"
#include "tests/lram/model/initial_values.h"

namespace lram::model::vit_test {
namespace {
using torch::Tensor;

constexpr double kRounding = 1e-12;  // float64, numbers near 1

VitConfig small() {
  VitConfig config;
  config.dim = 12;
  config.num_blocks = 2;
  config.num_heads = 3;
  config.patch = 4;
  config.height = 12;
  config.width = 20;
  config.num_outputs = 7;
  return config;
}

std::shared_ptr<VisionTransformer> random_encoder(const VitConfig& config, std::uint64_t seed) {
  torch::manual_seed(seed);
  auto encoder = std::make_shared<VisionTransformer>(config);
  encoder->to(torch::kFloat64);
  const torch::NoGradGuard no_grad;
  for (auto& parameter : encoder->parameters()) parameter.add_(torch::randn_like(parameter), 0.3);
  return encoder;
}

/// The same from the equations, one head and one query at a time. places: [R, S, D].
Tensor by_hand(const VisionTransformer& encoder, const VitConfig& config, const Tensor& image,
               const Tensor& places) {
  const auto weights = encoder.named_parameters();
  const auto linear = [&](const Tensor& x, const std::string& name) {
    return torch::matmul(x, weights[name + ".weight"].t()) + weights[name + ".bias"];
  };
  const auto norm = [&](const Tensor& x, const std::string& name) {
    const Tensor centred = x - x.mean(-1, true);
    return centred / (centred.square().mean(-1, true) + 1e-6).sqrt() * weights[name + ".weight"] +
           weights[name + ".bias"];
  };
  const std::int64_t patch = config.patch, rows = image.size(2) / patch,
                     columns = image.size(3) / patch, unit = config.dim / config.num_heads;
  std::vector<Tensor> tokens;
  const Tensor projection = weights["patch_embed.proj.weight"].flatten(1).t();
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t s = 0; s < columns; ++s)
      tokens.push_back(
          torch::matmul(image.narrow(2, r * patch, patch).narrow(3, s * patch, patch).flatten(1),
                        projection) +
          weights["patch_embed.proj.bias"] + places[r][s]);
  Tensor x = torch::stack(tokens, 1);
  for (std::int64_t b = 0; b < config.num_blocks; ++b) {
    const std::string block = "blocks." + std::to_string(b) + ".";
    const Tensor qkv = linear(norm(x, block + "norm1"), block + "attn.qkv");
    std::vector<Tensor> heads;
    for (std::int64_t h = 0; h < config.num_heads; ++h) {
      const auto part = [&](std::int64_t which) {
        return qkv.narrow(2, which * config.dim + h * unit, unit);
      };
      std::vector<Tensor> out;
      for (std::int64_t t = 0; t < rows * columns; ++t) {
        const Tensor scores =
            (part(1) * part(0).narrow(1, t, 1)).sum(-1) / std::sqrt(static_cast<double>(unit));
        out.push_back((scores.softmax(1).unsqueeze(-1) * part(2)).sum(1));
      }
      heads.push_back(torch::stack(out, 1));
    }
    x = x + linear(torch::cat(heads, -1), block + "attn.proj");
    const Tensor up = linear(norm(x, block + "norm2"), block + "mlp.fc1");
    x = x + linear(up * (1 + torch::erf(up / std::sqrt(2.0))) / 2, block + "mlp.fc2");
  }
  return linear(norm(x, "norm").mean(1), "head");
}

double difference(const Tensor& a, const Tensor& b) { return (a - b).abs().max().item<double>(); }

TEST(VisionTransformer, EqualsItsEquations) {
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    const auto encoder = random_encoder(small(), seed);
    const Tensor image = torch::randn({2, 3, 12, 20}, torch::kDouble);
    const Tensor places = encoder->named_parameters()["pos_embed.embed"][0];
    EXPECT_LT(difference(encoder->forward(image), by_hand(*encoder, small(), image, places)),
              kRounding)
        << "seed " << seed;
  }
}

TEST(VisionTransformer, TakesOtherResolutions) {
  // What every place shares stays so when places are interpolated: 24 x 40 pixels, 6 x 10 patches.
  const auto encoder = random_encoder(small(), 4);
  const Tensor shared = torch::randn({12}, torch::kDouble);
  {
    const torch::NoGradGuard no_grad;
    encoder->named_parameters()["pos_embed.embed"].copy_(shared.expand({1, 3, 5, 12}));
  }
  const Tensor image = torch::randn({1, 3, 24, 40}, torch::kDouble);
  EXPECT_LT(difference(encoder->forward(image),
                       by_hand(*encoder, small(), image, shared.expand({6, 10, 12}))),
            kRounding);
}

TEST(VisionTransformer, InitialValuesAreNormal) {
  VitConfig config;
  config.dim = 48;
  config.num_blocks = 2;
  torch::manual_seed(6);
  test::expect_initial_values(VisionTransformer(config), {{"norm.weight", test::Constant{1.0}},
                                                          {"norm1.weight", test::Constant{1.0}},
                                                          {"norm2.weight", test::Constant{1.0}},
                                                          {".bias", test::Constant{0.0}},
                                                          {".weight", test::Normal{0.02}},
                                                          {"pos_embed.embed", test::Normal{0.02}}});
}

TEST(VisionTransformer, ParameterCountIsThatOfDeiTTinyWithoutItsClassToken) {
  // DeiT-Ti (Touvron et al. 2021): 5,717,416; less the class token and its place, 192 each.
  std::int64_t count = 0;
  for (const Tensor& parameter : VisionTransformer(VitConfig()).parameters())
    count += parameter.numel();
  EXPECT_EQ(count, 5'717'416 - 2 * 192);
}

TEST(VisionTransformer, WhatCannotBeBuiltIsNamed) {
  const auto message = [](const std::function<void(VitConfig&)>& edit) -> std::string {
    VitConfig config = small();
    edit(config);
    try {
      VisionTransformer encoder(config);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(message([](auto&) {}), "accepted");
  EXPECT_EQ(message([](auto& c) { c.num_heads = 5; }),
            "ViT: num_heads is 5, wanted a divisor of its width 12");
  EXPECT_EQ(message([](auto& c) { c.num_blocks = 0; }), "ViT: num_blocks is 0, wanted at least 1");
}

}  // namespace
}  // namespace lram::model::vit_test
