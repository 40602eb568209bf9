#include "kernels/mlstm/mlstm_reference.h"

#include <algorithm>
#include <cmath>

namespace lram::kernels {
namespace {

using Vector = std::vector<double>;

// Real: what the loops compute in. Inputs and results are stored as double in either case.
template <typename Real>
Real log_sigmoid(Real x) {
  return x < 0 ? x - std::log1p(std::exp(x)) : -std::log1p(std::exp(-x));
}
template <typename Real>
Real sigmoid(Real x) {
  return 1 / (1 + std::exp(-x));
}
template <typename Real, typename A, typename B>
Real dot(const A* a, const B* b, int n) {
  Real sum = 0;
  for (int j = 0; j < n; ++j) sum += static_cast<Real>(a[j]) * static_cast<Real>(b[j]);
  return sum;
}

/// One head of one sequence, walked in time.
template <typename Real>
struct Head {
  const MlstmReferenceInput& in;
  int b, head;
  int begin = 0, end = 0;

  Head(const MlstmReferenceInput& input, int batch, int head_index)
      : in(input), b(batch), head(head_index) {
    const auto row = static_cast<std::size_t>(b);
    begin = in.begin.empty() ? 0 : in.begin[row];
    end = in.end.empty() ? in.tokens : in.end[row];
  }
  std::size_t token(int t) const {
    return (static_cast<std::size_t>(b) * static_cast<std::size_t>(in.tokens) +
            static_cast<std::size_t>(t)) *
               static_cast<std::size_t>(in.heads) +
           static_cast<std::size_t>(head);
  }
  std::size_t key(int t) const { return token(t) * static_cast<std::size_t>(in.key_dim); }
  std::size_t value(int t) const { return token(t) * static_cast<std::size_t>(in.value_dim); }
  std::size_t state() const {
    return static_cast<std::size_t>(b) * static_cast<std::size_t>(in.heads) +
           static_cast<std::size_t>(head);
  }
  bool reset(int t) const {
    return !in.reset.empty() &&
           in.reset[static_cast<std::size_t>(b) * static_cast<std::size_t>(in.tokens) +
                    static_cast<std::size_t>(t)] != 0;
  }
  Real cap(Real x) const {
    const auto bound = static_cast<Real>(in.gate_soft_cap);
    return bound > 0 ? bound * std::tanh(x / bound) : x;
  }
  Real cap_slope(Real x) const {
    if (in.gate_soft_cap <= 0) return 1;
    const Real y = std::tanh(x / static_cast<Real>(in.gate_soft_cap));
    return 1 - y * y;
  }
};

/// The recurrent memory of one head.
template <typename Real>
struct Memory {
  int key_dim, value_dim;
  std::vector<Real> c, n;
  Real m = 0;

  explicit Memory(const Head<Real>& head)
      : key_dim(head.in.key_dim),
        value_dim(head.in.value_dim),
        c(static_cast<std::size_t>(key_dim * value_dim)),
        n(static_cast<std::size_t>(key_dim)) {
    const MlstmReferenceInput& in = head.in;
    if (in.c0.empty()) return;
    const auto narrow = [](double x) { return static_cast<Real>(x); };
    const double* c0 = in.c0.data() + head.state() * c.size();
    std::transform(c0, c0 + c.size(), c.begin(), narrow);
    if (!in.n0.empty()) {
      const double* n0 = in.n0.data() + head.state() * n.size();
      std::transform(n0, n0 + n.size(), n.begin(), narrow);
    }
    if (!in.m0.empty()) m = static_cast<Real>(in.m0[head.state()]);
  }
  void clear() {
    std::fill(c.begin(), c.end(), Real(0));
    std::fill(n.begin(), n.end(), Real(0));
    m = 0;
  }
};

/// i' and f' of token t after a memory with this m, and the new m.
template <typename Real>
struct Gates {
  Real i = 0, f = 0, m = 0;
};
template <typename Real>
Gates<Real> gates(const Head<Real>& head, int t, Real m) {
  const Real i = head.cap(static_cast<Real>(head.in.i[head.token(t)]));
  const Real log_f = log_sigmoid(head.cap(static_cast<Real>(head.in.f[head.token(t)])));
  if (head.in.sigmoid_gate) return {sigmoid(i), std::exp(log_f), 0};
  const Real next = std::max(log_f + m, i);
  return {std::exp(i - next), std::exp(log_f + m - next), next};
}

template <typename Real>
Gates<Real> advance(const Head<Real>& head, int t, Memory<Real>& memory) {
  const MlstmReferenceInput& in = head.in;
  if (head.reset(t)) memory.clear();
  const Gates<Real> g = gates(head, t, memory.m);
  memory.m = g.m;
  const double* k = in.k.data() + head.key(t);
  const double* v = in.v.data() + head.value(t);
  for (int a = 0; a < in.key_dim; ++a) {
    Real* row = memory.c.data() + static_cast<std::ptrdiff_t>(a) * in.value_dim;
    const Real scaled = g.i * static_cast<Real>(k[a]);
    for (int e = 0; e < in.value_dim; ++e) {
      row[e] = g.f * row[e] + scaled * static_cast<Real>(v[e]);
    }
    Real& n = memory.n[static_cast<std::size_t>(a)];
    n = g.f * n + scaled;
  }
  return g;
}

/// beta = s q.n, its floor and the denominator N + eps.
template <typename Real>
struct Normalizer {
  Real beta = 0, floor = 0, denominator = 1;
};
template <typename Real>
Normalizer<Real> normalizer(const Head<Real>& head, const double* q, const Memory<Real>& memory) {
  const MlstmReferenceInput& in = head.in;
  if (!in.normalize) return {};
  const Real beta = dot<Real>(q, memory.n.data(), in.key_dim) / std::sqrt(Real(in.key_dim));
  const Real floor = in.sigmoid_gate ? Real(1) : std::exp(-memory.m);
  return {beta, floor, std::max(std::abs(beta), floor) + static_cast<Real>(in.eps)};
}

/// u = s q C, before the division.
template <typename Real>
std::vector<Real> read_out(const Head<Real>& head, const double* q, const Memory<Real>& memory) {
  const MlstmReferenceInput& in = head.in;
  std::vector<Real> u(static_cast<std::size_t>(in.value_dim));
  const Real s = 1 / std::sqrt(Real(in.key_dim));
  for (int a = 0; a < in.key_dim; ++a) {
    const Real* row = memory.c.data() + static_cast<std::ptrdiff_t>(a) * in.value_dim;
    const Real scaled = s * static_cast<Real>(q[a]);
    for (int e = 0; e < in.value_dim; ++e) u[static_cast<std::size_t>(e)] += scaled * row[e];
  }
  return u;
}

template <typename Real>
MlstmReferenceOutput forward(const MlstmReferenceInput& in) {
  MlstmReferenceOutput out;
  out.h.assign(in.v.size(), 0.0);
  for (int b = 0; b < in.batch; ++b) {
    for (int index = 0; index < in.heads; ++index) {
      const Head<Real> head(in, b, index);
      Memory<Real> memory(head);
      for (int t = head.begin; t < head.end; ++t) {
        advance(head, t, memory);
        const double* q = in.q.data() + head.key(t);
        const Real denominator = normalizer(head, q, memory).denominator;
        const std::vector<Real> u = read_out(head, q, memory);
        double* h = out.h.data() + head.value(t);
        for (int e = 0; e < in.value_dim; ++e) h[e] = u[static_cast<std::size_t>(e)] / denominator;
      }
      out.c.insert(out.c.end(), memory.c.begin(), memory.c.end());
      out.n.insert(out.n.end(), memory.n.begin(), memory.n.end());
      out.m.push_back(memory.m);
    }
  }
  return out;
}

template <typename Real>
MlstmReferenceGradient backward(const MlstmReferenceInput& in, const Vector& dh, const Vector& dc,
                                const Vector& dn, bool normalizer_gradient,
                                const Vector& dh_dot_h) {
  MlstmReferenceGradient out;
  out.dq.assign(in.q.size(), 0.0);
  out.dk.assign(in.k.size(), 0.0);
  out.dv.assign(in.v.size(), 0.0);
  out.di.assign(in.i.size(), 0.0);
  out.df.assign(in.f.size(), 0.0);
  out.df_floor.assign(in.f.size(), 0.0);
  const Real s = 1 / std::sqrt(Real(in.key_dim));
  const auto keys = static_cast<std::size_t>(in.key_dim);
  const auto values = static_cast<std::size_t>(in.value_dim);
  for (int b = 0; b < in.batch; ++b) {
    for (int index = 0; index < in.heads; ++index) {
      const Head<Real> head(in, b, index);
      Memory<Real> memory(head);
      const auto tokens = static_cast<std::size_t>(in.tokens);
      std::vector<Gates<Real>> gate(tokens);
      std::vector<Real> du(tokens * values), dbeta(tokens);
      // Forward in time: C_t is at hand, so is dq.
      for (int t = head.begin; t < head.end; ++t) {
        const auto row = static_cast<std::size_t>(t);
        gate[row] = advance(head, t, memory);
        const double* q = in.q.data() + head.key(t);
        const double* g = dh.data() + head.value(t);
        const Normalizer<Real> norm = normalizer(head, q, memory);
        const std::vector<Real> u = read_out(head, q, memory);
        Real dh_h = 0;
        for (std::size_t e = 0; e < values; ++e) {
          const auto g_e = static_cast<Real>(g[e]);
          du[row * values + e] = g_e / norm.denominator;
          dh_h += g_e * u[e] / norm.denominator;
        }
        if (!dh_dot_h.empty()) dh_h = static_cast<Real>(dh_dot_h[head.token(t)]);
        if (in.normalize && normalizer_gradient && std::abs(norm.beta) > norm.floor) {
          dbeta[row] = -dh_h / norm.denominator * (norm.beta > 0 ? 1 : -1);
        }
        for (std::size_t a = 0; a < keys; ++a) {
          out.dq[head.key(t) + a] =
              s * (dot<Real>(memory.c.data() + a * values, du.data() + row * values, in.value_dim) +
                   memory.n[a] * dbeta[row]);
        }
      }
      // Back in time: dC_t is at hand, so are dk and dv. Sum of x_j over j >= t is the gradient of
      // log f_t, up to the next reset.
      std::vector<Real> dc_t(keys * values), dn_t(keys);
      Real dlog_f = 0;
      if (!dc.empty()) {
        const double* given = dc.data() + head.state() * dc_t.size();
        for (std::size_t j = 0; j < dc_t.size(); ++j) dc_t[j] = static_cast<Real>(given[j]);
        dlog_f += dot<Real>(dc_t.data(), memory.c.data(), in.key_dim * in.value_dim);
      }
      if (!dn.empty()) {
        const double* given = dn.data() + head.state() * dn_t.size();
        for (std::size_t j = 0; j < dn_t.size(); ++j) dn_t[j] = static_cast<Real>(given[j]);
        dlog_f += dot<Real>(dn_t.data(), memory.n.data(), in.key_dim);
      }
      for (int t = head.end - 1; t >= head.begin; --t) {
        const auto row = static_cast<std::size_t>(t);
        const double* q = in.q.data() + head.key(t);
        const double* k = in.k.data() + head.key(t);
        const double* v = in.v.data() + head.value(t);
        const Real* du_t = du.data() + row * values;
        for (std::size_t a = 0; a < keys; ++a) {
          const Real scaled = s * static_cast<Real>(q[a]);
          for (std::size_t e = 0; e < values; ++e) dc_t[a * values + e] += scaled * du_t[e];
          dn_t[a] += scaled * dbeta[row];
        }
        double* dk = out.dk.data() + head.key(t);
        double* dv = out.dv.data() + head.value(t);
        for (std::size_t a = 0; a < keys; ++a) {
          dk[a] = gate[row].i * (dot<Real>(dc_t.data() + a * values, v, in.value_dim) + dn_t[a]);
          const Real scaled = gate[row].i * static_cast<Real>(k[a]);
          for (std::size_t e = 0; e < values; ++e) {
            dv[e] = static_cast<Real>(dv[e]) + scaled * dc_t[a * values + e];
          }
        }
        const Real q_dq = dot<Real>(q, out.dq.data() + head.key(t), in.key_dim);
        const Real k_dk = dot<Real>(k, dk, in.key_dim);
        const auto i = static_cast<Real>(in.i[head.token(t)]);
        const auto f = static_cast<Real>(in.f[head.token(t)]);
        dlog_f += q_dq - k_dk;
        const bool first = head.reset(t);
        const Real i_slope = in.sigmoid_gate ? sigmoid(-head.cap(i)) : Real(1);
        const Real f_slope = sigmoid(-head.cap(f)) * head.cap_slope(f);
        out.di[head.token(t)] = k_dk * i_slope * head.cap_slope(i);
        out.df[head.token(t)] = first ? 0.0 : dlog_f * f_slope;
        out.df_floor[head.token(t)] = std::abs(out.di[head.token(t)]) * sigmoid(-f);
        // What a reset forgets gets no gradient.
        const Real keep = first ? Real(0) : gate[row].f;
        if (first) dlog_f = 0;
        for (Real& x : dc_t) x *= keep;
        for (Real& x : dn_t) x *= keep;
      }
      if (!in.c0.empty()) {
        out.dc0.insert(out.dc0.end(), dc_t.begin(), dc_t.end());
        out.dn0.insert(out.dn0.end(), dn_t.begin(), dn_t.end());
      }
    }
  }
  return out;
}

}  // namespace

MlstmReferenceOutput mlstm_reference_forward(const MlstmReferenceInput& in) {
  return in.float32 ? forward<float>(in) : forward<double>(in);
}

MlstmReferenceGradient mlstm_reference_backward(const MlstmReferenceInput& in, const Vector& dh,
                                                const Vector& dc, const Vector& dn,
                                                bool normalizer_gradient, const Vector& dh_dot_h) {
  return in.float32 ? backward<float>(in, dh, dc, dn, normalizer_gradient, dh_dot_h)
                    : backward<double>(in, dh, dc, dn, normalizer_gradient, dh_dot_h);
}

}  // namespace lram::kernels
