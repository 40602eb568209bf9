#include "lram/model/slstm_cell.h"

#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/utils.h>

#include <cmath>
#include <string>
#include <vector>

#include "tests/lram/model/random_sequence.h"

namespace lram::model::slstm_cell_test {
namespace {
using test::Draw;
using test::relative_error;
using torch::Tensor;

constexpr double kTolerance = 1e-10;  // float64, the same sums in another order

struct Case {
  Tensor gates, recurrent, bias, state;
  SequenceMask mask;
};

Case random_case(Draw& draw) {
  const std::int64_t batch = draw.integer(1, 4), tokens = draw.integer(1, 20);
  const std::int64_t heads = draw.integer(1, 3), unit = draw.integer(1, 9);
  Case out;
  out.mask = draw.mask(batch, tokens);
  out.gates =
      test::poison(draw.normal({batch, tokens, 4 * heads * unit}, torch::kDouble) * 3, out.mask);
  out.recurrent = draw.normal({heads, 4 * unit, unit}, torch::kDouble) * 0.5;
  out.bias = draw.normal({4 * heads * unit}, torch::kDouble);
  if (draw.coin()) {
    out.state = draw.normal({batch, 4, heads * unit}, torch::kDouble);
    out.state.select(1, 2).abs_().add_(0.1);
  }
  return out;
}

TEST(SlstmCell, TwoTokensByHand) {
  // One unit, R = 0, all gates 0: z = tanh(0) = 0 unless said, i = 1, f = o = 1/2.
  Tensor gates = torch::zeros({1, 2, 4}, torch::kDouble);
  gates.select(2, 2).fill_(std::atanh(0.5));  // z = 1/2
  const auto out = slstm_forward(gates, torch::zeros({1, 4, 1}, torch::kDouble),
                                 torch::zeros({4}, torch::kDouble), {});
  // Token 1: c = 1/2, n = 1, h = 1/2 * 1/2. Token 2: c = 1/4 + 1/2, n = 1/2 + 1, the same ratio.
  EXPECT_NEAR(out.h[0][0].item<double>(), 0.25, 1e-15);
  EXPECT_NEAR(out.h[0][1].item<double>(), 0.25, 1e-15);
  EXPECT_NEAR(out.state[0][1].item<double>(), 0.75, 1e-15);
  EXPECT_NEAR(out.state[0][2].item<double>(), 1.5, 1e-15);
  EXPECT_NEAR(out.state[0][3].item<double>(), 0.0, 1e-15);
}

/// h, the last state, and the gradients of all inputs for weights of h and of the state (undefined:
/// not used).
std::vector<Tensor> results_of(decltype(&slstm_forward) cell, Case one, const Tensor& dh,
                               const Tensor& dstate) {
  std::vector<Tensor*> leaves = {&one.gates, &one.recurrent, &one.bias};
  if (one.state.defined()) leaves.push_back(&one.state);
  for (Tensor* leaf : leaves) *leaf = leaf->clone().requires_grad_();
  const SlstmOutput out = cell(one.gates, one.recurrent, one.bias, one.state, one.mask);
  Tensor loss = torch::zeros({}, torch::kDouble);
  if (dh.defined()) loss = loss + (out.h * dh).sum();
  if (dstate.defined()) loss = loss + (out.state * dstate).sum();
  loss.backward();
  std::vector<Tensor> all = {out.h, out.state};
  for (const Tensor* leaf : leaves) all.push_back(leaf->grad());
  return all;
}

void expect_reference(decltype(&slstm_forward) cell, const Case& one, Draw& draw, bool use_h,
                      bool use_state, const std::string& where) {
  const std::int64_t batch = one.gates.size(0), dim = one.bias.size(0) / 4;
  Tensor dh, dstate;
  if (use_h) dh = draw.normal({batch, one.gates.size(1), dim}, torch::kDouble);
  if (use_state) {
    dstate = draw.normal({batch, 4, dim}, torch::kDouble);
    dstate.select(1, 3).zero_();
  }
  const auto want = results_of(&slstm_reference, one, dh, dstate),
             got = results_of(cell, one, dh, dstate);
  for (std::size_t i = 0; i < want.size(); ++i)
    EXPECT_LE((got[i] - want[i]).norm().item<double>(),
              kTolerance * (want[i].norm().item<double>() + 1.0))
        << where << ", tensor " << i;
}

TEST(SlstmCell, LoopEqualsLibTorchOperations) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Draw draw(seed);
    const Case one = random_case(draw);
    expect_reference(&slstm_forward, one, draw, true, true, "seed " + std::to_string(seed));
  }
}

TEST(SlstmCell, FewerOperationsEqualLibTorchs) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Draw draw(seed);
    Case one = random_case(draw);
    if (seed % 4 != 0) {  // of masks only the end is its own affair
      one.mask.begin = one.mask.reset = Tensor();
      one.gates = test::poison(one.gates.nan_to_num(), one.mask);
    }
    if (one.state.defined() && draw.coin(0.3)) one.state[0].zero_();
    const bool use_h = draw.coin(0.7);
    expect_reference(&slstm_operations, one, draw, use_h, !use_h || draw.coin(),
                     "seed " + std::to_string(seed));
  }
}

TEST(SlstmCell, PiecesEqualTheWhole) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    Draw draw(seed);
    const Case one = random_case(draw);
    const auto whole = slstm_forward(one.gates, one.recurrent, one.bias, one.state, one.mask);
    SlstmOutput now = {{}, one.state};
    std::vector<Tensor> h;
    for (std::int64_t t = 0; t < one.gates.size(1); ++t) {
      now = slstm_forward(one.gates.narrow(1, t, 1), one.recurrent, one.bias, now.state,
                          test::piece(one.mask, t, 1));
      h.push_back(now.h);
    }
    EXPECT_TRUE(torch::equal(torch::cat(h, 1), whole.h)) << "seed " << seed;
    EXPECT_TRUE(torch::equal(now.state, whole.state)) << "seed " << seed;
  }
}

TEST(SlstmCell, AFreshRowDoesNotCareAboutTheOthers) {
  Draw draw(5);
  Case one = random_case(draw);
  while (!one.state.defined() || one.gates.size(0) < 2) one = random_case(draw);
  one.mask = {};
  one.gates.nan_to_num_();
  one.state[0].zero_();
  const auto together = slstm_forward(one.gates, one.recurrent, one.bias, one.state);
  const auto alone = slstm_forward(one.gates.narrow(0, 0, 1), one.recurrent, one.bias, {});
  EXPECT_TRUE(torch::equal(together.state[0], alone.state[0]));
}

}  // namespace
}  // namespace lram::model::slstm_cell_test
