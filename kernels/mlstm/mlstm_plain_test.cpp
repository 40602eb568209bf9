// The plain run and the bars by which kernels are judged.
#include "kernels/mlstm/mlstm_plain.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>

namespace lram::kernels {
namespace {

using Vector = std::vector<double>;

struct Drawn {
  MlstmReferenceInput in;
  Vector dh, dc, dn, dot;
};

/// One of 24 kinds of problem: gates, normaliser, states, masks and resets, soft cap.
Drawn draw(int variant, int key_dim, double i_bias, double f_bias) {
  std::mt19937_64 rng(static_cast<std::uint64_t>(variant) + 1);
  std::normal_distribution<double> normal;
  const auto vector = [&](std::size_t n, double mean = 0) {
    Vector x(n);
    for (double& value : x) value = mean + normal(rng);
    return x;
  };
  Drawn d;
  MlstmReferenceInput& in = d.in;
  in.batch = 2, in.tokens = 21, in.heads = 2, in.key_dim = key_dim, in.value_dim = key_dim + 1;
  in.sigmoid_gate = variant % 3 != 0, in.normalize = variant % 3 != 2;
  in.gate_soft_cap = variant >= 12 ? 3 : 0;
  const std::size_t rows = 84, keys = static_cast<std::size_t>(key_dim), values = keys + 1;
  in.q = vector(rows * keys), in.k = vector(rows * keys), in.v = vector(rows * values);
  in.i = vector(rows, i_bias), in.f = vector(rows, f_bias);
  d.dh = vector(rows * values);
  if (variant / 3 % 2 == 1) {
    in.c0 = vector(4 * keys * values);
    if (in.normalize) in.n0 = vector(4 * keys);
    if (!in.sigmoid_gate) in.m0 = vector(4);
    d.dc = vector(4 * keys * values);
    if (in.normalize) d.dn = vector(4 * keys);
  }
  if (variant / 6 % 2 == 1) {
    in.reset.assign(42, 0);
    in.reset[4] = in.reset[21 + 6] = in.reset[21 + 7] = 1;
    in.begin = {1, 9}, in.end = {21, variant % 2 == 0 ? 19 : 9};
  }
  if (variant % 5 == 4) d.dot = vector(rows);
  return d;
}

TEST(MlstmPlain, UnroundedEqualsTheReference) {
  for (int variant = 0; variant < 24; ++variant) {
    const Drawn d = draw(variant, 5, 0, 1);
    const MlstmReferenceOutput out = mlstm_reference_forward(d.in);
    const auto exact = mlstm_reference_backward(d.in, d.dh, d.dc, d.dn, true, d.dot);
    const MlstmPlainRun got = mlstm_plain_run(d.in, d.dh, d.dc, d.dn, d.dot, /*rounded=*/false);
    // Summed in another order.
    for (const MlstmErrorTerm& term : mlstm_error_terms(d.in, true, out, exact, exact)) {
      EXPECT_LE(mlstm_relative_error(mlstm_result(term.name, got.out, got.gradient), *term.want),
                1e-11)
          << term.name << ", variant " << variant;
    }
  }
}

TEST(MlstmPlain, RoundedLosesWhatBf16Loses) {
  for (int variant = 0; variant < 24; ++variant) {
    const Drawn d = draw(variant, 32, 0, 3);
    const MlstmReferenceOutput out = mlstm_reference_forward(d.in);
    const auto exact = mlstm_reference_backward(d.in, d.dh, d.dc, d.dn, true, d.dot);
    const auto dropped = mlstm_reference_backward(d.in, d.dh, d.dc, d.dn, false, d.dot);
    const MlstmPlainRun got = mlstm_plain_run(d.in, d.dh, d.dc, d.dn, d.dot, /*rounded=*/true);
    for (const MlstmErrorTerm& term : mlstm_error_terms(d.in, !d.dc.empty(), out, exact, dropped)) {
      const double error = mlstm_relative_error(mlstm_result(term.name, got.out, got.gradient),
                                                *term.want, term.least);
      // One rounding to 8 bits is 1.7e-3 on average; gates and n are summed from rounded products
      // or from none.
      EXPECT_LE(error, 2e-2) << term.name << ", variant " << variant;
      const bool rounded = term.name[0] == 'h' || term.name == "dq" || term.name == "dk" ||
                           term.name == "dv" || term.name == "C";
      if (rounded) {
        EXPECT_GE(error, 5e-4) << term.name << ", variant " << variant;
      }
    }
  }
}

TEST(MlstmPlain, ErrorsAreRelativeToTheLargerNorm) {
  EXPECT_DOUBLE_EQ(mlstm_relative_error({3, 0}, {0, 4}), 5.0 / 4);
  EXPECT_DOUBLE_EQ(mlstm_relative_error({3, 0}, {0, 4}, 10), 0.5);
  EXPECT_DOUBLE_EQ(mlstm_relative_error({2}, {0}), 2.0);
  EXPECT_TRUE(std::isnan(mlstm_relative_error({1}, {1, 2})));
}

TEST(MlstmPlain, TheBarGivesWayToThePlainRun) {
  EXPECT_DOUBLE_EQ(mlstm_allowed("dq", true, 0.004), 1e-2);
  EXPECT_DOUBLE_EQ(mlstm_allowed("dq", true, 0.02), 0.03);
  EXPECT_DOUBLE_EQ(mlstm_allowed("h", true, 0), 5e-3);
  EXPECT_DOUBLE_EQ(mlstm_allowed("df", true, 0), 1.5e-2);
  EXPECT_DOUBLE_EQ(mlstm_allowed("df", false, 0), 1e-5);
}

}  // namespace
}  // namespace lram::kernels
