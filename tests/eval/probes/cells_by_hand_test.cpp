// What the cells can hold, shown with weights set by hand: no training, exact answers.
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>

#include "eval/probes/task.h"
#include "lram/model/mlstm_cell.h"
#include "lram/model/slstm_cell.h"

namespace lram::eval::probes::cells_by_hand_test {
namespace {
using torch::Tensor;

constexpr std::int64_t kSteps = 10'000;
constexpr double kWide = 100.0;  // a gate pre-activation that opens or shuts

/// Random bits and their parity after each.
struct Bits {
  std::vector<int> bit, parity;
};

Bits random_bits(std::uint64_t seed) {
  Bits out;
  CounterRng rng(seed);
  int parity = 0;
  for (std::int64_t t = 0; t < kSteps; ++t) {
    out.bit.push_back(static_cast<int>(rng.below(2)));
    out.parity.push_back(parity ^= out.bit.back());
  }
  return out;
}

Tensor rounded(const Tensor& weights, torch::ScalarType dtype) {
  return weights.to(dtype).to(torch::kFloat);
}

// One unit whose h is +1 or -1. A 1 shuts the forget gate, opens the input gate and writes
// tanh(-3 h): the state flips. A 0 keeps everything.
TEST(ByHand, SlstmFlipsItsStateForTenThousandSteps) {
  const Bits bits = random_bits(1);
  for (const auto dtype : {torch::kFloat, torch::kBFloat16}) {
    // W x, gates i, f, z, o for a 0 and for a 1.
    const Tensor input =
        rounded(torch::tensor({{-kWide, kWide, 0.0, 0.0}, {0.0, -kWide, 0.0, 0.0}}), dtype);
    const Tensor recurrent = rounded(torch::tensor({0.0, 0.0, -3.0, 0.0}), dtype).view({1, 4, 1});
    const Tensor bias = rounded(torch::tensor({0.0, 0.0, 0.0, kWide}), dtype);
    const Tensor start = torch::tensor({1.0f, 1.0f, 1.0f, 0.0f}).view({1, 4, 1});
    const Tensor gates = input.index_select(0, torch::tensor(bits.bit, torch::kInt64)).unsqueeze(0);
    for (const auto cell : {&model::slstm_forward, &model::slstm_reference}) {
      const torch::NoGradGuard no_grad;
      const Tensor h = cell(gates, recurrent, bias, start, {}).h.flatten();
      ASSERT_EQ(h.numel(), kSteps);
      const auto values = h.accessor<float, 1>();
      for (std::int64_t t = 0; t < kSteps; ++t) {
        const float value = values[t];
        ASSERT_EQ(value < 0.0f ? 1 : 0, bits.parity[static_cast<std::size_t>(t)]) << "step " << t;
        ASSERT_GT(std::abs(value), 0.98f) << "step " << t;  // tanh(tanh(...)) settles at 0.9951
      }
    }
  }
}

// Two units of an sLSTM whose gates make it a plain tanh network, h = tanh(R h + W x): they are "s
// or x" and "s and x" of the parity s = (h0 - h1) / 2 before and the bit x, and s' = or - and.
TEST(ByHand, TanhUnitsComputeExclusiveOrForTenThousandSteps) {
  constexpr double kGain = 16.0;
  const Bits bits = random_bits(2);
  for (const auto dtype : {torch::kFloat, torch::kBFloat16}) {
    Tensor input = torch::zeros({2, 8});  // gate-major: i, f, z, o of both units
    input[1].narrow(0, 4, 2).fill_(kGain);
    Tensor recurrent = torch::zeros({1, 8, 2});
    recurrent[0].narrow(0, 4, 2).copy_(torch::tensor({kGain / 2, -kGain / 2}).expand({2, 2}));
    const Tensor bias =
        torch::tensor({0.0, 0.0, -kWide, -kWide, -0.5 * kGain, -1.5 * kGain, kWide, kWide});
    const Tensor start = torch::tensor({-1.0f, -1.0f, -1.0f, -1.0f, 1.0f, 1.0f, 0.0f, 0.0f});
    const Tensor gates =
        rounded(input, dtype).index_select(0, torch::tensor(bits.bit, torch::kInt64)).unsqueeze(0);
    const torch::NoGradGuard no_grad;
    const Tensor h = model::slstm_forward(gates, rounded(recurrent, dtype), rounded(bias, dtype),
                                          start.view({1, 4, 2}))
                         .h[0];
    const Tensor parity = (h.select(1, 0) - h.select(1, 1)) / 2;
    const auto values = parity.accessor<float, 1>();
    for (std::int64_t t = 0; t < kSteps; ++t)
      ASSERT_NEAR(values[t], bits.parity[static_cast<std::size_t>(t)], 1e-3f) << "step " << t;
  }
}

/// Shows an mLSTM head of dimension d the pairs (key i, code i) and asks for each key once. Gives
/// the largest error of a value read, relative to the codes' size 1, and the share of values that
/// are nearest to their own code.
struct Recalled {
  double error, accuracy;
};

Recalled recall(const Tensor& keys, model::MlstmForm form) {
  const torch::NoGradGuard no_grad;
  const std::int64_t pairs = keys.size(0), d = keys.size(1), width = 24;
  const Tensor codes =
      torch::randint(0, 2, {pairs, width}).to(torch::kFloat) * 2 - 1;  // all different, in effect
  const double scale = std::sqrt(static_cast<double>(d));  // the cell divides q k by this
  const auto head = [](const Tensor& x) { return x.unsqueeze(0).unsqueeze(2); };  // [1, T, 1, .]
  const Tensor none = torch::zeros({pairs, d});
  // The normaliser is |q n| or 1, whichever is more: with q twice the key it is 2, as the value is.
  const Tensor q = head(torch::cat({none, keys * (2 * scale)}));
  const Tensor k = head(torch::cat({keys, none}));
  const Tensor v = head(torch::cat({codes, torch::zeros({pairs, width})}));
  const Tensor i =
      torch::cat({torch::zeros({pairs}), torch::full({pairs}, -kWide)}).view({1, -1, 1});
  const Tensor f = torch::full({1, 2 * pairs, 1}, kWide);
  const Tensor h = model::mlstm_forward(q, k, v, i, f, {}, {}, {.chunk_size = 16, .form = form})
                       .h.narrow(1, pairs, pairs)
                       .view({pairs, width});
  const Tensor nearest = torch::cdist(h, codes).argmin(1);
  return {(h - codes).abs().max().item<double>(),
          nearest.eq(torch::arange(pairs)).to(torch::kDouble).mean().item<double>()};
}

TEST(ByHand, AnMlstmHeadRecallsAsManyKeysAsItHasDimensions) {
  torch::manual_seed(3);
  for (const std::int64_t d : {8, 16, 32}) {
    for (const std::int64_t pairs : {std::int64_t{1}, d / 2, d}) {
      const Tensor keys = torch::eye(d).narrow(0, 0, pairs);
      for (const auto form : {model::MlstmForm::kQuadratic, model::MlstmForm::kChunkwise}) {
        const Recalled got = recall(keys, form);
        EXPECT_LT(got.error, 1e-5) << d << ' ' << pairs;  // float32, sums of at most 32 terms
        EXPECT_EQ(got.accuracy, 1.0) << d << ' ' << pairs;
      }
    }
  }
}

TEST(ByHand, MoreKeysThanDimensionsSpoilTheRecall) {
  torch::manual_seed(4);
  for (const std::int64_t d : {8, 16, 32}) {
    // One-hot keys that must repeat: each is read as the mean of its values.
    double before = 0.0;
    for (const std::int64_t pairs : {d + 1, 2 * d, 4 * d}) {
      const Tensor keys = torch::eye(d).index_select(0, torch::arange(pairs) % d);
      const Recalled got = recall(keys, model::MlstmForm::kChunkwise);
      EXPECT_GE(got.error, 0.99) << d << ' ' << pairs;
      const double lost = 1.0 - got.accuracy;
      EXPECT_GT(lost, before) << d << ' ' << pairs;
      before = lost;
    }
    // Unit vectors that are as different as chance makes them fare no better.
    const Tensor random = torch::randn({4 * d, d});
    EXPECT_LT(recall(random / random.norm(2, {1}, true), model::MlstmForm::kChunkwise).accuracy,
              0.9)
        << d;
  }
}
}  // namespace
}  // namespace lram::eval::probes::cells_by_hand_test
