#include "lram/model/causal_conv.h"

#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/utils.h>

#include <string>
#include <vector>

#include "tests/lram/model/random_sequence.h"

namespace lram::model::causal_conv_test {
namespace {
using test::Draw;
using torch::Tensor;

constexpr double kTolerance = 1e-12;  // float64, sums of K + 1 terms

TEST(CausalConv, ByHand) {
  const auto list = [](std::vector<double> x) { return torch::tensor(x, torch::kDouble); };
  const auto out = causal_conv(list({1, 2, 3}).view({1, 3, 1}), list({10, 20}).view({1, 2, 1}),
                               list({100, 10, 1}).view({1, 1, 3}), list({0.5}));
  EXPECT_TRUE(torch::equal(out.y.flatten(), list({1201.5, 2012.5, 123.5})));
  EXPECT_TRUE(torch::equal(out.window.flatten(), list({2, 3})));
  // A reset before the second token: it sees itself alone, the third those two.
  const auto cut = causal_conv(list({1, 2, 3}).view({1, 3, 1}), list({10, 20}).view({1, 2, 1}),
                               list({100, 10, 1}).view({1, 1, 3}), list({0.5}),
                               {.reset = torch::tensor({0, 1, 0}, torch::kUInt8).view({1, 3})});
  EXPECT_TRUE(torch::equal(cut.y.flatten(), list({1201.5, 2.5, 23.5})));
}

TEST(CausalConv, LoopEqualsLibTorchOperations) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Draw draw(seed);
    const std::int64_t batch = draw.integer(1, 4), tokens = draw.integer(1, 12),
                       dim = draw.integer(1, 7), taps = draw.integer(1, 5);
    const SequenceMask mask = draw.mask(batch, tokens);
    const Tensor x0 = test::poison(draw.normal({batch, tokens, dim}, torch::kDouble), mask);
    const Tensor w0 = draw.normal({dim, 1, taps}, torch::kDouble);
    const Tensor b0 = draw.normal({dim}, torch::kDouble);
    const Tensor window0 = draw.normal({batch, taps - 1, dim}, torch::kDouble);
    const bool fresh = draw.coin();
    const Tensor dy = draw.normal(x0.sizes(), torch::kDouble);
    const Tensor dwindow = draw.normal(window0.sizes(), torch::kDouble);
    const auto run = [&](auto conv) {
      const Tensor x = x0.clone().requires_grad_(), w = w0.clone().requires_grad_(),
                   b = b0.clone().requires_grad_(), window = window0.clone().requires_grad_();
      const CausalConvOutput out = conv(x, fresh ? Tensor() : window, w, b, mask);
      ((out.y * dy).sum() + (out.window * dwindow).sum()).backward();
      std::vector<Tensor> all = {out.y, out.window, x.grad(), w.grad(), b.grad()};
      if (!fresh) all.push_back(window.grad());
      return all;
    };
    const auto want = run(&causal_conv_reference), got = run(&causal_conv);
    for (std::size_t i = 0; i < want.size(); ++i)
      EXPECT_LE((got[i] - want[i]).norm().item<double>(),
                kTolerance * (want[i].norm().item<double>() + 1.0))
          << "seed " << seed << ", tensor " << i;
  }
}

TEST(CausalConv, PiecesEqualTheWhole) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    Draw draw(seed);
    const std::int64_t batch = draw.integer(1, 4), tokens = draw.integer(2, 12);
    const SequenceMask mask = draw.mask(batch, tokens);
    const Tensor x = test::poison(draw.normal({batch, tokens, 3}, torch::kDouble), mask);
    const Tensor w = draw.normal({3, 1, 4}, torch::kDouble);
    const auto whole = causal_conv(x, {}, w, {}, mask);
    const std::int64_t cut = draw.integer(1, tokens - 1);
    const auto first = causal_conv(x.narrow(1, 0, cut), {}, w, {}, test::piece(mask, 0, cut));
    const auto second = causal_conv(x.narrow(1, cut, tokens - cut), first.window, w, {},
                                    test::piece(mask, cut, tokens - cut));
    EXPECT_TRUE(torch::equal(torch::cat({first.y, second.y}, 1), whole.y)) << "seed " << seed;
    EXPECT_TRUE(torch::equal(second.window, whole.window)) << "seed " << seed;
  }
}

}  // namespace
}  // namespace lram::model::causal_conv_test
