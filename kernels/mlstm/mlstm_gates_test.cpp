// The warp code of mlstm_gates.cuh against plain sums, on the CPU (tests/kernels/emulation).
#include "kernels/mlstm/mlstm_gates.cuh"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "tests/kernels/emulation/machine.h"

namespace lram::kernels {
namespace {

void run_warp(const std::function<void()>& body) { emulation::run(1, 32, 0, body); }

double log_sigmoid_of(double x) { return std::min(x, 0.0) - std::log1p(std::exp(-std::abs(x))); }

struct Case {
  int tokens, begin, end;
  bool sigmoid;
  std::vector<float> i, f;
  std::vector<std::uint8_t> reset;
  float m0 = 0, cap = 0;
};

Case random_case(std::mt19937& rng, int rows) {
  Case c;
  c.tokens = 1 + static_cast<int>(rng() % static_cast<unsigned>(rows));
  c.begin = rng() % 2 == 0 ? 0 : static_cast<int>(rng() % static_cast<unsigned>(c.tokens));
  c.end = rng() % 2 == 0
              ? c.tokens
              : c.begin + static_cast<int>(rng() % static_cast<unsigned>(c.tokens - c.begin + 1));
  c.sigmoid = rng() % 2 == 0;
  c.cap = rng() % 3 == 0 ? 15.0f : 0.0f;
  if (!c.sigmoid && rng() % 2 == 0) c.m0 = static_cast<float>(rng() % 7) - 3.0f;
  const float f_bias = static_cast<float>(rng() % 4) * 5.0f - 8.0f;
  std::normal_distribution<float> normal;
  for (int t = 0; t < c.tokens; ++t) {
    const bool counts = t >= c.begin && t < c.end;
    c.i.push_back(counts ? 2 * normal(rng) : NAN);
    c.f.push_back(counts ? f_bias + normal(rng) : NAN);
    c.reset.push_back(rng() % 20 == 0);
  }
  if (rng() % 3 == 0) c.reset[static_cast<std::size_t>(c.begin)] = 1;
  return c;
}

template <int kPerLane>
void check(std::mt19937& rng, unsigned seed) {
  constexpr int kRows = 32 * kPerLane;
  Case c = random_case(rng, kRows);
  SCOPED_TRACE("seed " + std::to_string(seed) + ", tokens " + std::to_string(c.tokens) +
               ", begin " + std::to_string(c.begin) + ", end " + std::to_string(c.end));
  GateArgs args;
  args.tokens = c.tokens, args.heads = 1, args.sigmoid_gate = c.sigmoid, args.soft_cap = c.cap;
  args.i = {c.i.data(), c.tokens, 1, 1}, args.f = {c.f.data(), c.tokens, 1, 1};
  args.reset = c.reset.data();
  args.begin = &c.begin, args.end = &c.end;
  args.m0 = c.sigmoid ? nullptr : &c.m0;
  std::vector<float> column(kRows, NAN), row_max(kRows, NAN), floor(kRows, NAN), inter(kRows, NAN);
  std::vector<int> start(kRows, -5);
  const GateTable table{column.data(), row_max.data(), floor.data(), inter.data(), start.data()};
  GateTotals totals[32];
  run_warp([&] { totals[emulation::lane()] = scan_gates<kPerLane>(args, 0, 0, table); });

  const auto at = [](int t) { return static_cast<std::size_t>(t); };
  const auto cap = [&](float x) {
    return c.cap > 0 ? c.cap * std::tanh(double{x} / c.cap) : double{x};
  };
  double m = c.m0;
  int first = c.begin;
  bool fresh = false;
  std::vector<double> log_i(at(c.tokens)), log_f(at(c.tokens));
  for (int t = 0; t < kRows; ++t) {
    if (t < c.begin || t >= c.end) {
      ASSERT_EQ(start[at(t)], kNoToken) << t;
      ASSERT_FALSE(std::isnan(column[at(t)] + row_max[at(t)])) << t;
      continue;
    }
    if (c.reset[at(t)] != 0) m = 0, first = t, fresh = true;
    log_i[at(t)] = c.sigmoid ? log_sigmoid_of(cap(c.i[at(t)])) : cap(c.i[at(t)]);
    log_f[at(t)] = log_sigmoid_of(cap(c.f[at(t)]));
    m = c.sigmoid ? 0.0 : std::max(log_f[at(t)] + m, log_i[at(t)]);
    ASSERT_EQ(start[at(t)], first) << t;
    ASSERT_NEAR(floor[at(t)], std::exp(-m), 2e-4 * std::exp(-m)) << t;
    double sum = 0;
    // 5e-4: columns and maxima up to 4000 in float32.
    for (int s = t; s >= first; --s) {
      const double want = std::exp(sum + log_i[at(s)] - m);
      ASSERT_NEAR(std::exp2(double{column[at(s)]} - row_max[at(t)]), want, 5e-4 * want + 1e-30)
          << t << " " << s;
      sum += log_f[at(s)];
    }
    const double want = fresh ? 0.0 : std::exp(sum + (c.sigmoid ? 0.0f : c.m0) - m);
    ASSERT_NEAR(inter[at(t)], want, 5e-4 * want + 1e-30) << t;
  }
  for (const GateTotals& lane : totals) ASSERT_NEAR(lane.m, m, 1e-4 * std::max(1.0, std::abs(m)));

  // Gradients, with and without one of the final state.
  std::normal_distribution<float> normal;
  std::vector<float> q_dq(kRows), k_dk(kRows), k_dk_state(kRows);
  const bool with_state = rng() % 2 == 0;
  const int last = c.end > 0 ? start[at(c.end - 1)] : kNoToken;
  for (int t = 0; t < kRows; ++t) {
    q_dq[at(t)] = normal(rng), k_dk[at(t)] = normal(rng);
    k_dk_state[at(t)] = start[at(t)] == last ? normal(rng) : 0.0f;
  }
  const float carried = with_state ? 0.7f : 0.0f;
  std::vector<double> want_i(at(c.tokens)), want_f(at(c.tokens));
  for (int t = c.begin; t < c.end; ++t) {
    double sum = 0;
    for (int j = t; j < c.end && start[at(j)] == start[at(t)]; ++j)
      sum += double{q_dq[at(j)]} - k_dk[at(j)];
    double k_dk_all = k_dk[at(t)];
    if (with_state && start[at(t)] == last) {
      for (int j = start[at(t)]; j < t; ++j) sum += k_dk_state[at(j)];
      sum += double{inter[at(c.end - 1)]} * carried;
      k_dk_all += k_dk_state[at(t)];
    }
    const auto slope = [&](float x) {
      return c.cap > 0 ? 1 - std::pow(std::tanh(double{x} / c.cap), 2) : 1.0;
    };
    const auto fade = [](double x) { return 1 / (1 + std::exp(x)); };
    want_i[at(t)] = k_dk_all * slope(c.i[at(t)]) * (c.sigmoid ? fade(cap(c.i[at(t)])) : 1.0);
    want_f[at(t)] = c.reset[at(t)] != 0 ? 0.0 : sum * slope(c.f[at(t)]) * fade(cap(c.f[at(t)]));
  }
  std::vector<float> di(at(c.tokens), NAN), df(at(c.tokens), NAN);
  run_warp([&] {
    gate_gradients<kPerLane>(args, load_gates<kPerLane>(args, 0, 0), {di.data(), c.tokens, 1, 1},
                             {df.data(), c.tokens, 1, 1}, 0, 0, table,
                             {q_dq.data(), k_dk.data(), with_state ? k_dk_state.data() : nullptr},
                             carried);
  });
  for (int t = 0; t < c.tokens; ++t) {
    ASSERT_NEAR(di[at(t)], want_i[at(t)], 1e-5 * std::max(1.0, std::abs(want_i[at(t)]))) << t;
    ASSERT_NEAR(df[at(t)], want_f[at(t)], 1e-4) << t;
  }
}

TEST(MlstmGates, WarpEqualsPlainSums) {
  for (unsigned seed = 1; seed <= 30; ++seed) {
    std::mt19937 rng(seed);
    check<2>(rng, seed);
    check<4>(rng, seed);
    check<6>(rng, seed);
    check<8>(rng, seed);
    emulation::set_order(seed % 2 == 0 ? emulation::Order::kEarly : emulation::Order::kLate);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace lram::kernels
