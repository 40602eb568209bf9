#include "lram/model/qkv_projection.h"

#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/utils.h>

#include <array>

#include "tests/lram/model/random_sequence.h"

namespace lram::model::qkv_projection_test {
namespace {
using torch::Tensor;

TEST(QkvProjection, LoopEqualsLibTorchOperations) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    test::Draw draw(seed);
    const std::int64_t groups = draw.integer(1, 9), tokens = draw.integer(1, 50);
    const std::int64_t inner = 4 * groups;
    const Tensor conv = draw.normal({2, tokens, inner}, torch::kDouble).requires_grad_();
    // Half of a wider row, as the up-projection hands it over.
    const Tensor wide = draw.normal({2, tokens, 2 * inner}, torch::kDouble).requires_grad_();
    const Tensor plain = wide.narrow(2, 0, inner);
    std::array<Tensor, 3> weights, biases;
    for (Tensor& weight : weights)
      weight = draw.normal({groups, 4, 4}, torch::kDouble).requires_grad_();
    if (draw.coin())
      for (Tensor& bias : biases) bias = draw.normal({inner}, torch::kDouble);
    const Tensor want = qkv_projection_reference(conv, plain, weights, biases);
    const Tensor got = qkv_projection(conv, plain, weights, biases);
    EXPECT_LE(test::relative_error(got, want), 1e-14) << "seed " << seed;
    const Tensor dy = draw.normal(want.sizes(), torch::kDouble);
    const torch::autograd::variable_list leaves = {conv, wide, weights[0], weights[1], weights[2]};
    const auto want_grad = torch::autograd::grad({want}, leaves, {dy});
    const auto got_grad = torch::autograd::grad({got}, leaves, {dy});
    for (std::size_t i = 0; i < leaves.size(); ++i)
      EXPECT_LE(test::relative_error(got_grad[i], want_grad[i]), 1e-13)
          << "seed " << seed << ", gradient " << i;
  }
}

}  // namespace
}  // namespace lram::model::qkv_projection_test
