#include "lram/model/selective_scan.h"

#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/utils.h>

#include <cmath>
#include <string>
#include <vector>

#include "tests/lram/model/random_sequence.h"

namespace lram::model::selective_scan_test {
namespace {
using test::Draw;
using torch::Tensor;

constexpr double kTolerance = 1e-10;  // float64, the same sums in another order

struct Case {
  Tensor u, dt, a, b, c, d, state;
  SequenceMask mask;
};

Case random_case(Draw& draw) {
  const std::int64_t batch = draw.integer(1, 3), tokens = draw.integer(1, 40);
  const std::int64_t channels = draw.integer(1, 6), states = draw.integer(1, 5);
  Case out;
  out.mask = draw.mask(batch, tokens);
  const auto per_token = [&](std::int64_t width) {
    return draw.normal({batch, tokens, width}, torch::kDouble);
  };
  out.u = test::poison(per_token(channels), out.mask);
  out.dt = test::poison(per_token(channels).exp(), out.mask);
  out.a = -draw.normal({channels, states}, torch::kDouble).exp();
  out.b = test::poison(per_token(states), out.mask);
  out.c = test::poison(per_token(states), out.mask);
  out.d = draw.normal({channels}, torch::kDouble);
  if (draw.coin()) out.state = draw.normal({batch, channels, states}, torch::kDouble);
  return out;
}

TEST(SelectiveScan, TwoTokensByHand) {
  const auto number = [](std::vector<double> x) {
    return torch::tensor(x, torch::kDouble).view({1, -1, 1});
  };
  // One channel, one state, a = -1, h before = 4.
  const auto out =
      selective_scan(number({1, 2}), number({0.5, 0.25}), torch::full({1, 1}, -1.0, torch::kDouble),
                     number({3, 5}), number({7, 11}), torch::full({1}, 0.1, torch::kDouble),
                     torch::full({1, 1, 1}, 4.0, torch::kDouble));
  const double first = std::exp(-0.5) * 4 + 0.5 * 1 * 3;
  const double second = std::exp(-0.25) * first + 0.25 * 2 * 5;
  EXPECT_NEAR(out.y[0][0].item<double>(), 7 * first + 0.1, 1e-14);
  EXPECT_NEAR(out.y[0][1].item<double>(), 11 * second + 0.2, 1e-14);
  EXPECT_NEAR(out.state.item<double>(), second, 1e-15);
}

TEST(SelectiveScan, LoopEqualsParallelScan) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Draw draw(seed);
    const Case drawn = random_case(draw);
    Tensor dy, dstate;
    const auto run = [&](auto scan) {
      Case one = drawn;
      std::vector<Tensor*> leaves = {&one.u, &one.dt, &one.a, &one.b, &one.c, &one.d};
      if (one.state.defined()) leaves.push_back(&one.state);
      for (Tensor* leaf : leaves) *leaf = leaf->clone().requires_grad_();
      const auto out = scan(one.u, one.dt, one.a, one.b, one.c, one.d, one.state, one.mask);
      if (!dy.defined()) {
        dy = draw.normal(out.y.sizes(), torch::kDouble);
        dstate = draw.normal(out.state.sizes(), torch::kDouble);
      }
      ((out.y * dy).sum() + (out.state * dstate).sum()).backward();
      std::vector<Tensor> all = {out.y, out.state};
      for (const Tensor* leaf : leaves) all.push_back(leaf->grad());
      return all;
    };
    const auto want = run(&selective_scan_reference), got = run(&selective_scan);
    for (std::size_t i = 0; i < want.size(); ++i)
      EXPECT_LE((got[i] - want[i]).norm().item<double>(),
                kTolerance * (want[i].norm().item<double>() + 1.0))
          << "seed " << seed << ", tensor " << i;
  }
}

}  // namespace
}  // namespace lram::model::selective_scan_test
