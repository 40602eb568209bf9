#include "lram/model/block_linear.h"

#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/utils.h>

#include <vector>

#include "lram/core/error.h"
#include "tests/lram/model/random_sequence.h"

namespace lram::model::block_linear_test {
namespace {
using torch::Tensor;

TEST(BlockLinear, EqualsTheDenseMatrix) {
  for (const std::int64_t size : {1, 3, 4}) {
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      test::Draw draw(seed);
      const std::int64_t groups = draw.integer(1, 5), tokens = draw.integer(1, 40);
      const Tensor w = draw.normal({groups, size, size}, torch::kDouble).requires_grad_();
      const Tensor b = draw.normal({groups * size}, torch::kDouble);
      // Half of a wider row: not contiguous.
      const Tensor wide =
          draw.normal({2, tokens, 2 * groups * size}, torch::kDouble).requires_grad_();
      const Tensor x = wide.narrow(2, 0, groups * size);
      std::vector<Tensor> blocks;
      for (std::int64_t g = 0; g < groups; ++g) blocks.push_back(w[g]);
      const Tensor want = torch::matmul(x, torch::block_diag(blocks).t()) + b;
      const Tensor got = block_linear(x, w, b);
      EXPECT_LE(test::relative_error(got, want), 1e-13) << "size " << size << ", seed " << seed;
      const Tensor dy = draw.normal(want.sizes(), torch::kDouble);
      const auto want_grad = torch::autograd::grad({want}, {wide, w}, {dy});
      const auto got_grad = torch::autograd::grad({got}, {wide, w}, {dy});
      for (std::size_t i = 0; i < 2; ++i)
        EXPECT_LE(test::relative_error(got_grad[i], want_grad[i]), 1e-13)
            << "size " << size << ", seed " << seed << ", gradient " << i;
    }
  }
}

TEST(BlockLinear, RefusesAWidthThatDoesNotFit) {
  EXPECT_THROW(block_linear(torch::zeros({2, 9}), torch::zeros({2, 4, 4})), Error);
}

}  // namespace
}  // namespace lram::model::block_linear_test
