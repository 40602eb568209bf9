#include "lram/model/mlstm_cell.h"

#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/utils.h>

#include <cmath>
#include <string>
#include <vector>

#include "lram/core/error.h"
#include "tests/lram/model/random_sequence.h"

namespace lram::model::mlstm_cell_test {
namespace {
using test::Draw;
using test::relative_error;
using torch::Tensor;

// Both forms sum the same terms in another order; float64, at most some hundred terms.
constexpr double kTolerance = 1e-9;

struct Case {
  Tensor q, k, v, i, f;
  MlstmState initial;
  SequenceMask mask;
  MlstmOptions options;

  std::int64_t tokens() const { return q.size(1); }
  MlstmOutput run(MlstmForm form, std::int64_t chunk_size = 64) const {
    MlstmOptions chosen = options;
    chosen.form = form;
    chosen.chunk_size = chunk_size;
    return mlstm_forward(q, k, v, i, f, initial, mask, chosen);
  }
};

Case random_case(Draw& draw) {
  const std::int64_t batch = draw.integer(1, 4), tokens = draw.integer(1, 80);
  const std::int64_t heads = draw.integer(1, 3), key = draw.integer(1, 16),
                     value = draw.integer(1, 16);
  Case out;
  out.mask = draw.mask(batch, tokens);
  const auto input = [&](at::IntArrayRef shape, double mean, double spread) {
    return test::poison(draw.normal(shape, torch::kDouble) * spread + mean, out.mask);
  };
  out.q = input({batch, tokens, heads, key}, 0, 1);
  out.k = input({batch, tokens, heads, key}, 0, 1);
  out.v = input({batch, tokens, heads, value}, 0, 1);
  out.i = input({batch, tokens, heads}, static_cast<double>(draw.integer(-10, 3)),
                static_cast<double>(draw.integer(0, 4)));
  out.f = input({batch, tokens, heads}, static_cast<double>(draw.integer(-4, 6)),
                static_cast<double>(draw.integer(0, 4)));
  if (draw.coin())
    out.initial = {draw.normal({batch, heads, key, value}, torch::kDouble),
                   draw.normal({batch, heads, key}, torch::kDouble),
                   draw.normal({batch, heads}, torch::kDouble)};
  out.options.eps = draw.coin() ? 1e-6 : 0.0;
  if (draw.coin()) {
    out.options.input_gate = InputGate::kSigmoid;
    out.options.normalize = draw.coin();
    if (!out.initial.fresh()) out.initial.m.zero_();
  }
  return out;
}

void expect_same(const MlstmOutput& got, const MlstmOutput& want, const std::string& what) {
  EXPECT_LE(relative_error(got.h, want.h), kTolerance) << what << ": h";
  EXPECT_LE(relative_error(got.state.c, want.state.c), kTolerance) << what << ": c";
  EXPECT_LE(relative_error(got.state.n, want.state.n), kTolerance) << what << ": n";
  EXPECT_LE(relative_error(got.state.m, want.state.m), kTolerance) << what << ": m";
}

TEST(MlstmCell, DroppedStateChangesNothingElse) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    Draw draw(seed);
    Case one = random_case(draw);
    const MlstmForm form = draw.coin() ? MlstmForm::kQuadratic : MlstmForm::kChunkwise;
    std::vector<Tensor> leaves = {one.q, one.k, one.v, one.i, one.f};
    for (Tensor& leaf : leaves) leaf.requires_grad_();
    const Tensor dh = draw.normal(one.v.sizes(), torch::kDouble);
    const MlstmOutput kept = one.run(form, 16);
    one.options.final_state = FinalState::kDropped;
    const MlstmOutput dropped = one.run(form, 16);
    const std::string name = "seed " + std::to_string(seed);
    EXPECT_TRUE(torch::equal(dropped.h, kept.h)) << name;
    EXPECT_TRUE(dropped.state.fresh()) << name;
    const auto want = torch::autograd::grad({kept.h}, leaves, {dh});
    const auto got = torch::autograd::grad({dropped.h}, leaves, {dh});
    for (std::size_t n = 0; n < leaves.size(); ++n)
      EXPECT_TRUE(torch::equal(got[n], want[n])) << name << ", gradient " << n;
  }
}

TEST(MlstmCell, OneTokenByHand) {
  // i = 0, f = 0 from nothing: m = max(log 1/2, 0) = 0, c = k v, n = k; with q n = 2 / sqrt(1) > 1
  // the output is q k v / (q k) = v.
  const auto scalar = [](double x) { return torch::full({1, 1, 1, 1}, x, torch::kDouble); };
  const Tensor gate = torch::zeros({1, 1, 1}, torch::kDouble);
  const auto out = mlstm_forward(scalar(2), scalar(1), scalar(3), gate, gate, {}, {}, {.eps = 0});
  EXPECT_DOUBLE_EQ(out.h.item<double>(), 3.0);
  EXPECT_DOUBLE_EQ(out.state.c.item<double>(), 3.0);
  EXPECT_DOUBLE_EQ(out.state.n.item<double>(), 1.0);
  EXPECT_DOUBLE_EQ(out.state.m.item<double>(), 0.0);
  // q n = 1/2 < exp(-m) = 1: no division.
  const auto small =
      mlstm_forward(scalar(0.5), scalar(1), scalar(3), gate, gate, {}, {}, {.eps = 0});
  EXPECT_DOUBLE_EQ(small.h.item<double>(), 1.5);
}

TEST(MlstmCell, OneTokenWithASigmoidGateByHand) {
  // i = 0: the key counts half. c = k v / 2 = 3/2, n = 1/2, q c = 6, q n = 2.
  const auto scalar = [](double x) { return torch::full({1, 1, 1, 1}, x, torch::kDouble); };
  const Tensor gate = torch::zeros({1, 1, 1}, torch::kDouble);
  const auto run = [&](bool normalize) {
    return mlstm_forward(scalar(4), scalar(1), scalar(3), gate, gate, {}, {},
                         {.input_gate = InputGate::kSigmoid, .normalize = normalize, .eps = 0});
  };
  EXPECT_DOUBLE_EQ(run(true).h.item<double>(), 3.0);
  EXPECT_DOUBLE_EQ(run(false).h.item<double>(), 6.0);
  EXPECT_DOUBLE_EQ(run(false).state.c.item<double>(), 1.5);
  EXPECT_DOUBLE_EQ(run(false).state.n.item<double>(), 0.5);
  EXPECT_DOUBLE_EQ(run(false).state.m.item<double>(), 0.0);
}

TEST(MlstmCell, FormsAgree) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Draw draw(seed);
    const Case one = random_case(draw);
    const std::string name = "seed " + std::to_string(seed);
    const MlstmOutput steps = one.run(MlstmForm::kStep);
    expect_same(one.run(MlstmForm::kQuadratic), steps, name + ", quadratic");
    expect_same(one.run(MlstmForm::kChunkwise, draw.integer(1, 20)), steps, name + ", chunkwise");

    // In two calls, each with the form it chooses.
    const std::int64_t cut = draw.integer(0, one.tokens());
    MlstmOptions options = one.options;
    options.chunk_size = 8;
    MlstmOutput parts = {torch::empty({0}), one.initial};
    std::vector<Tensor> h;
    for (const auto& range : {std::pair{std::int64_t{0}, cut}, {cut, one.tokens() - cut}}) {
      const auto first = range.first, count = range.second;
      if (count == 0) continue;
      const auto narrow = [&](const Tensor& x) { return x.narrow(1, first, count); };
      parts =
          mlstm_forward(narrow(one.q), narrow(one.k), narrow(one.v), narrow(one.i), narrow(one.f),
                        parts.state, test::piece(one.mask, first, count), options);
      h.push_back(parts.h);
    }
    parts.h = torch::cat(h, 1);
    expect_same(parts, steps, name + ", in two parts");
  }
}

TEST(MlstmCell, GradientsOfTheFormsAgree) {
  for (std::uint64_t seed = 1000; seed < 1080; ++seed) {
    Draw draw(seed);
    const Case drawn = random_case(draw);
    const std::int64_t chunk = draw.integer(1, 20);
    Tensor dh, dc, dn;
    const auto gradients = [&](MlstmForm form) {
      Case one = drawn;
      std::vector<Tensor*> leaves = {&one.q, &one.k, &one.v, &one.i, &one.f};
      if (!one.initial.fresh()) leaves.insert(leaves.end(), {&one.initial.c, &one.initial.n});
      for (Tensor* leaf : leaves) *leaf = leaf->clone().requires_grad_();
      const MlstmOutput out = one.run(form, chunk);
      if (!dh.defined()) {
        dh = draw.normal(out.h.sizes(), torch::kDouble);
        dc = draw.normal(out.state.c.sizes(), torch::kDouble);
        dn = draw.normal(out.state.n.sizes(), torch::kDouble);
      }
      ((out.h * dh).sum() + (out.state.c * dc).sum() + (out.state.n * dn).sum()).backward();
      std::vector<Tensor> grads;
      for (const Tensor* leaf : leaves) grads.push_back(leaf->grad());
      return grads;
    };
    const auto want = gradients(MlstmForm::kStep);
    const Tensor silent = test::counts(drawn.mask, drawn.q.size(0), drawn.tokens()).logical_not();
    for (const MlstmForm form : {MlstmForm::kQuadratic, MlstmForm::kChunkwise}) {
      const auto got = gradients(form);
      for (std::size_t i = 0; i < want.size(); ++i)
        EXPECT_LE((got[i] - want[i]).norm().item<double>(),
                  kTolerance * (want[i].norm().item<double>() + 1.0))
            << "seed " << seed << ", form " << static_cast<int>(form) << ", input " << i;
      for (std::size_t i = 0; i < 5; ++i)
        EXPECT_EQ(got[i].index({silent}).abs().sum().item<double>(), 0.0)
            << "seed " << seed << ", form " << static_cast<int>(form) << ", input " << i;
    }
  }
}

TEST(MlstmCell, RowsWithoutTokensKeepTheirStateBitForBit) {
  for (const InputGate gate : {InputGate::kExp, InputGate::kSigmoid}) {
    Draw draw(3);
    Case one = random_case(draw);
    while (one.initial.fresh() || one.options.input_gate != gate) one = random_case(draw);
    one.mask = {.end = torch::zeros({one.q.size(0)}, torch::kInt32)};
    for (const MlstmForm form : {MlstmForm::kStep, MlstmForm::kQuadratic, MlstmForm::kChunkwise}) {
      const MlstmOutput out = one.run(form);
      EXPECT_TRUE(torch::equal(out.state.c, one.initial.c));
      EXPECT_TRUE(torch::equal(out.state.n, one.initial.n));
      EXPECT_TRUE(torch::equal(out.state.m, one.initial.m));
      EXPECT_EQ(out.h.abs().sum().item<double>(), 0.0);
    }
  }
}

TEST(MlstmCell, NeverWritesIntoTheGivenState) {
  for (std::uint64_t seed = 2000; seed < 2020; ++seed) {
    Draw draw(seed);
    Case one = random_case(draw);
    while (one.initial.fresh()) one = random_case(draw);
    const MlstmState kept = {one.initial.c.clone(), one.initial.n.clone(), one.initial.m.clone()};
    for (const MlstmForm form : {MlstmForm::kStep, MlstmForm::kQuadratic, MlstmForm::kChunkwise}) {
      const MlstmOutput out = one.run(form, 8);
      EXPECT_TRUE(torch::equal(one.initial.c, kept.c)) << "seed " << seed;
      EXPECT_TRUE(torch::equal(one.initial.n, kept.n)) << "seed " << seed;
      EXPECT_TRUE(torch::equal(one.initial.m, kept.m)) << "seed " << seed;
    }
  }
}

/// (loss at x + d) - (loss at x - d) against 2 <gradient, d>, d along a random direction: nothing
/// here goes through our own backward twice.
TEST(MlstmCell, GradientsEqualFiniteDifferences) {
  for (std::uint64_t seed = 3000; seed < 3030; ++seed) {
    Draw draw(seed);
    Case one = random_case(draw);
    // m is a constant of the gradient: with eps it would have one of its own.
    one.options.eps = 0.0;
    one.i.clamp_(-4.0, 4.0);  // exp(12) times a difference quotient leaves no digits
    std::vector<Tensor*> leaves = {&one.q, &one.k, &one.v, &one.i, &one.f};
    if (!one.initial.fresh()) leaves.insert(leaves.end(), {&one.initial.c, &one.initial.n});
    const MlstmForm form = draw.coin() ? MlstmForm::kQuadratic : MlstmForm::kChunkwise;
    Tensor dh;
    const auto loss = [&] {
      const MlstmOutput out = one.run(form, 7);
      if (!dh.defined()) dh = draw.normal(out.h.sizes(), torch::kDouble);
      return (out.h * dh).sum();
    };
    for (Tensor* leaf : leaves) leaf->requires_grad_();
    loss().backward();
    for (std::size_t n = 0; n < leaves.size(); ++n) {
      const Tensor saved = leaves[n]->detach().clone(), gradient = leaves[n]->grad();
      const Tensor along = draw.normal(saved.sizes(), torch::kDouble);
      const torch::NoGradGuard no_grad;
      constexpr double kStep = 1e-6;
      const auto at = [&](double distance) {
        *leaves[n] = saved + along * distance;
        return loss().item<double>();
      };
      const double slope = (at(kStep) - at(-kStep)) / (2 * kStep);
      *leaves[n] = saved;
      const double wanted = (gradient * along).sum().item<double>();
      EXPECT_NEAR(slope, wanted, 1e-4 * (1.0 + std::abs(wanted)))
          << "seed " << seed << ", input " << n;
    }
  }
}

TEST(MlstmCell, RefusesShapesThatDoNotFit) {
  const Tensor q = torch::zeros({2, 3, 4, 5}), gate = torch::zeros({2, 3, 4});
  const auto message = [](auto&& call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(
      message([&] { mlstm_forward(q, q.narrow(3, 0, 4), q, gate, gate); }).find("wanted both"),
      std::string::npos);
  EXPECT_NE(message([&] { mlstm_forward(q, q, q, gate, gate.narrow(2, 0, 1)); }).find("[2, 3, 4]"),
            std::string::npos);
  const auto with_state = [&](at::IntArrayRef c, at::IntArrayRef n, at::IntArrayRef m) {
    return message([&] {
      mlstm_forward(q, q, q, gate, gate, {torch::zeros(c), torch::zeros(n), torch::zeros(m)});
    });
  };
  EXPECT_NE(with_state({2, 4, 5, 6}, {2, 4, 5}, {2, 4})
                .find("state c is [2, 4, 5, 6], wanted [2, 4, 5, 5]"),
            std::string::npos);
  EXPECT_NE(with_state({2, 4, 5, 5}, {2, 4, 6}, {2, 4}).find("state n is"), std::string::npos);
  EXPECT_NE(with_state({2, 4, 5, 5}, {2, 4, 5}, {2, 4, 1}).find("state m is [2, 4, 1]"),
            std::string::npos);
  EXPECT_NE(message([&] {
              mlstm_forward(q, q, q, gate, gate, {}, {}, {.normalize = false});
            }).find("which only sigmoid input gates allow"),
            std::string::npos);
  const SequenceMask mask = {.end = torch::zeros({2}, torch::kInt64)};
  EXPECT_NE(message([&] { mlstm_forward(q, q, q, gate, gate, {}, mask); }).find("wanted int32 [2]"),
            std::string::npos);
}

}  // namespace
}  // namespace lram::model::mlstm_cell_test
