#include "lram/model/rnn_cell.h"

#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/utils.h>

#include <cmath>
#include <string>
#include <vector>

#include "tests/lram/model/random_sequence.h"
#include "tests/support/golden_tensors.h"

namespace lram::model::rnn_cell_test {
namespace {
using test::Draw;
using torch::Tensor;

constexpr RnnKind kKinds[] = {RnnKind::kLstm, RnnKind::kGru, RnnKind::kElman};
constexpr double kTolerance = 1e-10;  // float64, the same sums in another order

struct Case {
  Tensor gates, recurrent, bias, state;
  SequenceMask mask;
};

Case random_case(Draw& draw, RnnKind kind) {
  const RnnGates n = rnn_gates(kind);
  const std::int64_t batch = draw.integer(1, 4), tokens = draw.integer(1, 20);
  const std::int64_t heads = draw.integer(1, 3), unit = draw.integer(1, 9);
  Case out;
  out.mask = draw.mask(batch, tokens);
  out.gates = test::poison(
      draw.normal({batch, tokens, n.inputs * heads * unit}, torch::kDouble) * 2, out.mask);
  out.recurrent = draw.normal({n.recurrent, heads, unit, unit}, torch::kDouble) * 0.5;
  out.bias = draw.normal({n.biases, heads, unit}, torch::kDouble);
  if (draw.coin()) out.state = draw.normal({batch, n.states, heads * unit}, torch::kDouble);
  return out;
}

Tensor column(std::initializer_list<double> numbers) {
  return torch::tensor(std::vector<double>(numbers), torch::kDouble);
}

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

TEST(RnnCell, LstmTokenByHand) {
  // One unit, h = 2, c = 3; the recurrent weights of i, f, z, o are 1, 0, -1, 0.5.
  const auto out =
      rnn_forward(RnnKind::kLstm, column({0.1, 0.2, 0.3, 0.4}).view({1, 1, 4}),
                  column({1, 0, -1, 0.5}).view({4, 1, 1, 1}),
                  column({0.01, 0.02, 0.03, 0.04}).view({4, 1, 1}), column({2, 3}).view({1, 2, 1}));
  const double c = logistic(0.22) * 3 + logistic(2.11) * std::tanh(-1.67);
  EXPECT_NEAR(out.last[0][1].item<double>(), c, 1e-15);
  EXPECT_NEAR(out.last[0][0].item<double>(), logistic(1.44) * std::tanh(c), 1e-15);
}

TEST(RnnCell, GruTokenByHand) {
  // One unit, h = 2; recurrent weights of g, r, z are 1, -0.5, 0.25; biases g, r, z, n.
  const auto out =
      rnn_forward(RnnKind::kGru, column({0.1, 0.2, 0.3}).view({1, 1, 3}),
                  column({1, -0.5, 0.25}).view({3, 1, 1, 1}),
                  column({0.01, 0.02, 0.03, 0.04}).view({4, 1, 1}), column({2}).view({1, 1, 1}));
  const double r = logistic(0.1 - 1 + 0.02), z = logistic(0.2 + 0.5 + 0.03);
  const double n = std::tanh(0.3 + 0.04 + r * (2 + 0.01));
  EXPECT_NEAR(out.last[0][0].item<double>(), z * 2 + (1 - z) * n, 1e-15);
}

TEST(RnnCell, LoopEqualsLibTorchOperations) {
  for (const RnnKind kind : kKinds) {
    for (std::uint64_t seed = 0; seed < 60; ++seed) {
      Draw draw(seed);
      const Case drawn = random_case(draw, kind);
      Tensor dstates, dlast;
      const auto run = [&](auto cell) {
        Case one = drawn;
        std::vector<Tensor*> leaves = {&one.gates, &one.recurrent, &one.bias};
        if (one.state.defined()) leaves.push_back(&one.state);
        for (Tensor* leaf : leaves) *leaf = leaf->clone().requires_grad_();
        const RnnOutput out = cell(kind, one.gates, one.recurrent, one.bias, one.state, one.mask);
        if (!dstates.defined()) {
          dstates = draw.normal(out.states.sizes(), torch::kDouble);
          dlast = draw.normal(out.last.sizes(), torch::kDouble);
        }
        ((out.states * dstates).sum() + (out.last * dlast).sum()).backward();
        std::vector<Tensor> all = {out.states, out.last};
        for (const Tensor* leaf : leaves) all.push_back(leaf->grad());
        return all;
      };
      const auto want = run(&rnn_reference), got = run(&rnn_forward);
      for (std::size_t i = 0; i < want.size(); ++i)
        EXPECT_LE((got[i] - want[i]).norm().item<double>(),
                  kTolerance * (want[i].norm().item<double>() + 1.0))
            << rnn_name(kind) << ", seed " << seed << ", tensor " << i;
    }
  }
}

// Where it takes the whole mask, and where it hands on; gradients through h alone and through all.
TEST(RnnCell, LstmOperationsEqualTheLoop) {
  for (std::uint64_t seed = 0; seed < 80; ++seed) {
    Draw draw(seed);
    Case drawn = random_case(draw, RnnKind::kLstm);
    const std::int64_t batch = drawn.gates.size(0), tokens = drawn.gates.size(1);
    if (draw.coin()) {
      drawn.mask = {};
      std::vector<std::int64_t> ends;
      for (std::int64_t b = 0; b < batch; ++b) ends.push_back(draw.integer(0, tokens));
      if (draw.coin()) drawn.mask.end = torch::tensor(ends).to(torch::kInt32);
      drawn.gates = test::poison(draw.normal(drawn.gates.sizes(), torch::kDouble), drawn.mask);
    }
    const bool use_states = draw.coin(), use_last = draw.coin();
    Tensor dh, dstates, dlast;
    const auto run = [&](auto cell) {
      Case one = drawn;
      std::vector<Tensor*> leaves = {&one.gates, &one.recurrent, &one.bias};
      if (one.state.defined()) leaves.push_back(&one.state);
      for (Tensor* leaf : leaves) *leaf = leaf->clone().requires_grad_();
      const RnnOutput out = cell(one);
      if (!dh.defined()) {
        dh = draw.normal(out.h.sizes(), torch::kDouble);
        dstates = draw.normal(out.states.sizes(), torch::kDouble);
        dlast = draw.normal(out.last.sizes(), torch::kDouble);
      }
      Tensor sum = (out.h * dh).sum();
      if (use_states) sum = sum + (out.states * dstates).sum();
      if (use_last) sum = sum + (out.last * dlast).sum();
      sum.backward();
      std::vector<Tensor> all = {out.h, out.states, out.last};
      for (const Tensor* leaf : leaves) all.push_back(leaf->grad());
      return all;
    };
    const auto want = run([](const Case& c) {
      return rnn_forward(RnnKind::kLstm, c.gates, c.recurrent, c.bias, c.state, c.mask);
    });
    const auto got = run([](const Case& c) {
      return lstm_operations(c.gates, c.recurrent, c.bias, c.state, c.mask);
    });
    for (std::size_t i = 0; i < want.size(); ++i)
      EXPECT_LE((got[i] - want[i]).norm().item<double>(),
                kTolerance * (want[i].norm().item<double>() + 1.0))
          << "seed " << seed << ", tensor " << i;
  }
}

TEST(RnnCell, PiecesEqualTheWhole) {
  for (const RnnKind kind : kKinds) {
    for (std::uint64_t seed = 0; seed < 30; ++seed) {
      Draw draw(seed);
      const Case one = random_case(draw, kind);
      const auto whole = rnn_forward(kind, one.gates, one.recurrent, one.bias, one.state, one.mask);
      RnnOutput now = {{}, {}, one.state};
      std::vector<Tensor> states;
      for (std::int64_t t = 0; t < one.gates.size(1); ++t) {
        now = rnn_forward(kind, one.gates.narrow(1, t, 1), one.recurrent, one.bias, now.last,
                          test::piece(one.mask, t, 1));
        states.push_back(now.states);
      }
      EXPECT_TRUE(torch::equal(torch::cat(states, 1), whole.states))
          << rnn_name(kind) << ", seed " << seed;
      EXPECT_TRUE(torch::equal(now.last, whole.last)) << rnn_name(kind) << ", seed " << seed;
    }
  }
}

/// Every tensor and gradient of the cases of one kind, by the loop and by LibTorch's operations.
void check_golden(RnnKind kind) {
  const std::string name(rnn_name(kind));
  const auto cases =
      lram::test::golden_cases("baselines", name, [&](const lram::test::GoldenCase& one) {
        return one.class_has("flashrnn") && one.config().value("function", "") == name;
      });
  const std::int64_t states_of_kind = rnn_gates(kind).states;
  for (const auto& one : cases) {
    const lram::test::GoldenTensors golden(one);
    for (const auto type : {torch::kDouble, torch::kFloat}) {
      for (const bool loop : {true, false}) {
        const std::string width = type == torch::kDouble ? "float64" : "float32";
        const std::string what = one.name() + ", " + width + (loop ? ", loop" : ", reference");
        const auto tolerance = one.tolerance(width);
        const auto leaf = [&](const char* tensor) {
          return golden[tensor].to(type).requires_grad_();
        };
        const Tensor gates = leaf("Wx"), recurrent = leaf("R"), bias = leaf("b"),
                     states = leaf("states");
        const std::int64_t batch = gates.size(0), tokens = gates.size(1), heads = gates.size(3),
                           unit = gates.size(4);
        const auto out = (loop ? rnn_forward : rnn_reference)(
            kind, gates.flatten(2), recurrent, bias, states.squeeze(2).transpose(0, 1).flatten(2),
            SequenceMask{});
        const Tensor all =
            out.states.view({batch, tokens, states_of_kind, heads, unit}).permute({2, 0, 1, 3, 4});
        const Tensor last =
            out.last.view({batch, states_of_kind, heads, unit}).transpose(0, 1).unsqueeze(2);
        golden.expect(all, "out", tolerance, what);
        golden.expect(last, "last", tolerance, what);
        ((all * golden["probe"].to(type)).sum() + (last * golden["probe_last"].to(type)).sum())
            .backward();
        golden.expect(gates.grad(), "grad_Wx", tolerance, what);
        golden.expect(recurrent.grad(), "grad_R", tolerance, what);
        golden.expect(bias.grad(), "grad_b", tolerance, what);
        golden.expect(states.grad(), "grad_states", tolerance, what);
      }
    }
  }
}

TEST(Golden, Lstm) {
  LRAM_SKIP_WITHOUT_GOLDEN("baselines");
  check_golden(RnnKind::kLstm);
}

TEST(Golden, Gru) {
  LRAM_SKIP_WITHOUT_GOLDEN("baselines");
  check_golden(RnnKind::kGru);
}

TEST(Golden, Elman) {
  LRAM_SKIP_WITHOUT_GOLDEN("baselines");
  check_golden(RnnKind::kElman);
}

}  // namespace
}  // namespace lram::model::rnn_cell_test
