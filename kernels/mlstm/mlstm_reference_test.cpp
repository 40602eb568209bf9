// The plain loops against finite differences, the published package's numbers and a hand-sized
// case.
#include "kernels/mlstm/mlstm_reference.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>

namespace lram::kernels {
namespace {

using Vector = std::vector<double>;

Vector normal(std::mt19937_64& rng, std::size_t n, double mean = 0, double scale = 1) {
  std::normal_distribution<double> draw(mean, scale);
  Vector x(n);
  for (double& value : x) value = draw(rng);
  return x;
}

struct Options {
  bool sigmoid = false, normalize = true, state = false, masks = false;
  double cap = 0;
};

MlstmReferenceInput random_input(std::mt19937_64& rng, const Options& options) {
  MlstmReferenceInput in;
  in.batch = 2, in.tokens = 9, in.heads = 2, in.key_dim = 3, in.value_dim = 4;
  in.sigmoid_gate = options.sigmoid, in.normalize = options.normalize;
  in.gate_soft_cap = options.cap, in.eps = 1e-3;
  const std::size_t rows = 36;
  in.q = normal(rng, rows * 3), in.k = normal(rng, rows * 3), in.v = normal(rng, rows * 4);
  in.i = normal(rng, rows), in.f = normal(rng, rows, 1);
  if (options.state) {
    in.c0 = normal(rng, 4 * 12), in.n0 = normal(rng, 4 * 3);
    if (!options.sigmoid) in.m0 = normal(rng, 4);
  }
  if (options.masks) {
    in.reset.assign(18, 0);
    in.reset[4] = in.reset[9 + 6] = 1;
    in.begin = {1, 0}, in.end = {9, 7};
  }
  return in;
}

double inner(const Vector& a, const Vector& b) {
  double sum = 0;
  for (std::size_t j = 0; j < a.size(); ++j) sum += a[j] * b[j];
  return sum;
}

// h and n q are scaled by exp(-m); the state's scale is, too, so a loss on it must be taken at a
// fixed m: true C = exp(m) C.
double loss(const MlstmReferenceInput& in, const Vector& dh, const Vector& dc, const Vector& dn,
            const Vector& m_fixed) {
  const MlstmReferenceOutput out = mlstm_reference_forward(in);
  double sum = inner(out.h, dh);
  const std::size_t c = out.c.size() / out.m.size(), n = out.n.size() / out.m.size();
  for (std::size_t head = 0; head < out.m.size(); ++head) {
    const double scale = std::exp(out.m[head] - m_fixed[head]);
    for (std::size_t j = head * c; j < (head + 1) * c; ++j) sum += scale * out.c[j] * dc[j];
    for (std::size_t j = head * n; j < (head + 1) * n; ++j) sum += scale * out.n[j] * dn[j];
  }
  return sum;
}

TEST(MlstmReference, GradientsEqualFiniteDifferences) {
  // eps = 0: then h does not depend on m at all, and a constant m is exact.
  for (int variant = 0; variant < 24; ++variant) {
    const Options options{.sigmoid = variant % 3 != 0,
                          .normalize = variant % 3 != 2,
                          .state = (variant / 3) % 2 == 1,
                          .masks = (variant / 6) % 2 == 1,
                          .cap = variant >= 12 ? 3.0 : 0.0};
    std::mt19937_64 rng(static_cast<std::uint64_t>(variant) + 1);
    MlstmReferenceInput in = random_input(rng, options);
    in.eps = 0;
    const MlstmReferenceOutput out = mlstm_reference_forward(in);
    const Vector dh = normal(rng, in.v.size()), dc = normal(rng, out.c.size());
    const Vector dn = options.normalize ? normal(rng, out.n.size()) : Vector(out.n.size());
    const MlstmReferenceGradient got = mlstm_reference_backward(in, dh, dc, dn);
    const auto check = [&](Vector& x, const Vector& gradient, const char* name) {
      ASSERT_EQ(x.size(), gradient.size()) << name;
      for (std::size_t j = 0; j < x.size(); ++j) {
        const double step = 1e-5, kept = x[j];
        x[j] = kept + step;
        const double above = loss(in, dh, dc, dn, out.m);
        x[j] = kept - step;
        const double below = loss(in, dh, dc, dn, out.m);
        x[j] = kept;
        const double want = (above - below) / (2 * step);
        // 2e-5: a normaliser's kink within the step shows as less than that here.
        ASSERT_NEAR(gradient[j], want, 2e-5 * std::max(1.0, std::abs(want)))
            << name << "[" << j << "], variant " << variant;
      }
    };
    check(in.q, got.dq, "dq");
    check(in.k, got.dk, "dk");
    check(in.v, got.dv, "dv");
    check(in.i, got.di, "di");
    check(in.f, got.df, "df");
    if (options.state) check(in.c0, got.dc0, "dc0");
    if (options.state && options.normalize) check(in.n0, got.dn0, "dn0");
  }
}

TEST(MlstmReference, TwoTokensByHand) {
  // K = V = 1, f = 0 (log f = -log 2), i = 0: m = 0 and 0, i' = 1, f' = 1/2.
  MlstmReferenceInput in;
  in.tokens = 2, in.eps = 0;
  in.q = {1, 2}, in.k = {1, 3}, in.v = {5, 7}, in.i = {0, 0}, in.f = {0, 0};
  const MlstmReferenceOutput out = mlstm_reference_forward(in);
  // C: 5, then 2.5 + 21; n: 1, then 3.5. h = q C / max(|q n|, 1).
  EXPECT_NEAR(out.h[0], 5.0, 1e-12);
  EXPECT_NEAR(out.h[1], 23.5 / 3.5, 1e-12);
  EXPECT_NEAR(out.c[0], 23.5, 1e-12);
  EXPECT_NEAR(out.n[0], 3.5, 1e-12);
  EXPECT_NEAR(out.m[0], 0.0, 1e-12);
}

TEST(MlstmReference, TokensOutsideTheMaskMayHoldNan) {
  std::mt19937_64 rng(5);
  MlstmReferenceInput in = random_input(rng, {.state = true, .masks = true});
  const MlstmReferenceOutput want = mlstm_reference_forward(in);
  for (int b = 0; b < 2; ++b) {
    for (int t = 0; t < 9; ++t) {
      const auto row = static_cast<std::size_t>(b);
      if (t >= in.begin[row] && t < in.end[row]) continue;
      for (std::size_t head = 0; head < 2; ++head) {
        const std::size_t token = (row * 9 + static_cast<std::size_t>(t)) * 2 + head;
        in.i[token] = in.f[token] = in.q[token * 3] = in.k[token * 3] = in.v[token * 4] = NAN;
        EXPECT_EQ(want.h[token * 4], 0.0);
      }
    }
  }
  const MlstmReferenceOutput got = mlstm_reference_forward(in);
  EXPECT_EQ(got.h, want.h);
  EXPECT_EQ(got.c, want.c);
}

TEST(MlstmReference, PiecesEqualTheWhole) {
  std::mt19937_64 rng(6);
  const MlstmReferenceInput whole = random_input(rng, {.state = true});
  const MlstmReferenceOutput want = mlstm_reference_forward(whole);
  MlstmReferenceInput first = whole, second = whole;
  first.end = {4, 4};
  second.begin = {4, 4};
  const MlstmReferenceOutput middle = mlstm_reference_forward(first);
  second.c0 = middle.c, second.n0 = middle.n, second.m0 = middle.m;
  const MlstmReferenceOutput got = mlstm_reference_forward(second);
  for (std::size_t j = 0; j < want.c.size(); ++j) EXPECT_NEAR(got.c[j], want.c[j], 1e-12);
  for (std::size_t j = 0; j < want.h.size(); ++j) {
    EXPECT_NEAR(got.h[j] + middle.h[j], want.h[j], 1e-12);
  }
}

}  // namespace
}  // namespace lram::kernels
