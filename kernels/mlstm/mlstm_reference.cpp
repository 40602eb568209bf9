#include "kernels/mlstm/mlstm_reference.h"

#include <algorithm>
#include <cmath>

namespace lram::kernels {
namespace {

using Vector = std::vector<double>;

double log_sigmoid(double x) {
  return x < 0 ? x - std::log1p(std::exp(x)) : -std::log1p(std::exp(-x));
}
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double dot(const double* a, const double* b, int n) {
  double sum = 0;
  for (int j = 0; j < n; ++j) sum += a[j] * b[j];
  return sum;
}

/// One head of one sequence, walked in time.
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
  double cap(double x) const {
    return in.gate_soft_cap > 0 ? in.gate_soft_cap * std::tanh(x / in.gate_soft_cap) : x;
  }
  double cap_slope(double x) const {
    if (in.gate_soft_cap <= 0) return 1;
    const double y = std::tanh(x / in.gate_soft_cap);
    return 1 - y * y;
  }
};

/// The recurrent memory of one head.
struct Memory {
  int key_dim, value_dim;
  Vector c, n;
  double m = 0;

  explicit Memory(const Head& head)
      : key_dim(head.in.key_dim),
        value_dim(head.in.value_dim),
        c(static_cast<std::size_t>(key_dim * value_dim)),
        n(static_cast<std::size_t>(key_dim)) {
    const MlstmReferenceInput& in = head.in;
    if (in.c0.empty()) return;
    std::copy_n(in.c0.data() + head.state() * c.size(), c.size(), c.data());
    if (!in.n0.empty()) std::copy_n(in.n0.data() + head.state() * n.size(), n.size(), n.data());
    if (!in.m0.empty()) m = in.m0[head.state()];
  }
  void clear() {
    std::fill(c.begin(), c.end(), 0.0);
    std::fill(n.begin(), n.end(), 0.0);
    m = 0;
  }
};

/// i' and f' of token t after a memory with this m, and the new m.
struct Gates {
  double i = 0, f = 0, m = 0;
};
Gates gates(const Head& head, int t, double m) {
  const double i = head.cap(head.in.i[head.token(t)]);
  const double log_f = log_sigmoid(head.cap(head.in.f[head.token(t)]));
  if (head.in.sigmoid_gate) return {sigmoid(i), std::exp(log_f), 0};
  const double next = std::max(log_f + m, i);
  return {std::exp(i - next), std::exp(log_f + m - next), next};
}

Gates advance(const Head& head, int t, Memory& memory) {
  const MlstmReferenceInput& in = head.in;
  if (head.reset(t)) memory.clear();
  const Gates g = gates(head, t, memory.m);
  memory.m = g.m;
  const double* k = in.k.data() + head.key(t);
  const double* v = in.v.data() + head.value(t);
  for (int a = 0; a < in.key_dim; ++a) {
    double* row = memory.c.data() + static_cast<std::ptrdiff_t>(a) * in.value_dim;
    for (int e = 0; e < in.value_dim; ++e) row[e] = g.f * row[e] + g.i * k[a] * v[e];
    double& n = memory.n[static_cast<std::size_t>(a)];
    n = g.f * n + g.i * k[a];
  }
  return g;
}

/// beta = s q.n, its floor and the denominator N + eps.
struct Normalizer {
  double beta = 0, floor = 0, denominator = 1;
};
Normalizer normalizer(const Head& head, const double* q, const Memory& memory) {
  const MlstmReferenceInput& in = head.in;
  if (!in.normalize) return {};
  const double beta = dot(q, memory.n.data(), in.key_dim) / std::sqrt(in.key_dim);
  const double floor = in.sigmoid_gate ? 1.0 : std::exp(-memory.m);
  return {beta, floor, std::max(std::abs(beta), floor) + in.eps};
}

/// u = s q C, before the division.
Vector read_out(const Head& head, const double* q, const Memory& memory) {
  const MlstmReferenceInput& in = head.in;
  Vector u(static_cast<std::size_t>(in.value_dim));
  const double s = 1 / std::sqrt(in.key_dim);
  for (int a = 0; a < in.key_dim; ++a) {
    const double* row = memory.c.data() + static_cast<std::ptrdiff_t>(a) * in.value_dim;
    for (int e = 0; e < in.value_dim; ++e) u[static_cast<std::size_t>(e)] += s * q[a] * row[e];
  }
  return u;
}

}  // namespace

MlstmReferenceOutput mlstm_reference_forward(const MlstmReferenceInput& in) {
  MlstmReferenceOutput out;
  out.h.assign(in.v.size(), 0.0);
  for (int b = 0; b < in.batch; ++b) {
    for (int index = 0; index < in.heads; ++index) {
      const Head head(in, b, index);
      Memory memory(head);
      for (int t = head.begin; t < head.end; ++t) {
        advance(head, t, memory);
        const double* q = in.q.data() + head.key(t);
        const double denominator = normalizer(head, q, memory).denominator;
        const Vector u = read_out(head, q, memory);
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

MlstmReferenceGradient mlstm_reference_backward(const MlstmReferenceInput& in, const Vector& dh,
                                                const Vector& dc, const Vector& dn,
                                                bool normalizer_gradient, const Vector& dh_dot_h) {
  MlstmReferenceGradient out;
  out.dq.assign(in.q.size(), 0.0);
  out.dk.assign(in.k.size(), 0.0);
  out.dv.assign(in.v.size(), 0.0);
  out.di.assign(in.i.size(), 0.0);
  out.df.assign(in.f.size(), 0.0);
  out.df_floor.assign(in.f.size(), 0.0);
  const double s = 1 / std::sqrt(in.key_dim);
  const auto keys = static_cast<std::size_t>(in.key_dim);
  const auto values = static_cast<std::size_t>(in.value_dim);
  for (int b = 0; b < in.batch; ++b) {
    for (int index = 0; index < in.heads; ++index) {
      const Head head(in, b, index);
      Memory memory(head);
      const auto tokens = static_cast<std::size_t>(in.tokens);
      std::vector<Gates> gate(tokens);
      Vector du(tokens * values), dbeta(tokens);
      // Forward in time: C_t is at hand, so is dq.
      for (int t = head.begin; t < head.end; ++t) {
        const auto row = static_cast<std::size_t>(t);
        gate[row] = advance(head, t, memory);
        const double* q = in.q.data() + head.key(t);
        const double* g = dh.data() + head.value(t);
        const Normalizer norm = normalizer(head, q, memory);
        const Vector u = read_out(head, q, memory);
        double dh_h = 0;
        for (std::size_t e = 0; e < values; ++e) {
          du[row * values + e] = g[e] / norm.denominator;
          dh_h += g[e] * u[e] / norm.denominator;
        }
        if (!dh_dot_h.empty()) dh_h = dh_dot_h[head.token(t)];
        if (in.normalize && normalizer_gradient && std::abs(norm.beta) > norm.floor) {
          dbeta[row] = -dh_h / norm.denominator * (norm.beta > 0 ? 1 : -1);
        }
        for (std::size_t a = 0; a < keys; ++a) {
          out.dq[head.key(t) + a] =
              s * (dot(memory.c.data() + a * values, du.data() + row * values, in.value_dim) +
                   memory.n[a] * dbeta[row]);
        }
      }
      // Back in time: dC_t is at hand, so are dk and dv. Sum of x_j over j >= t is the gradient of
      // log f_t, up to the next reset.
      Vector dc_t(keys * values), dn_t(keys);
      double dlog_f = 0;
      if (!dc.empty()) {
        std::copy_n(dc.data() + head.state() * dc_t.size(), dc_t.size(), dc_t.data());
        dlog_f += dot(dc_t.data(), memory.c.data(), in.key_dim * in.value_dim);
      }
      if (!dn.empty()) {
        std::copy_n(dn.data() + head.state() * dn_t.size(), dn_t.size(), dn_t.data());
        dlog_f += dot(dn_t.data(), memory.n.data(), in.key_dim);
      }
      for (int t = head.end - 1; t >= head.begin; --t) {
        const auto row = static_cast<std::size_t>(t);
        const double* q = in.q.data() + head.key(t);
        const double* k = in.k.data() + head.key(t);
        const double* v = in.v.data() + head.value(t);
        const double* du_t = du.data() + row * values;
        for (std::size_t a = 0; a < keys; ++a) {
          for (std::size_t e = 0; e < values; ++e) dc_t[a * values + e] += s * q[a] * du_t[e];
          dn_t[a] += s * q[a] * dbeta[row];
        }
        double* dk = out.dk.data() + head.key(t);
        double* dv = out.dv.data() + head.value(t);
        for (std::size_t a = 0; a < keys; ++a) {
          dk[a] = gate[row].i * (dot(dc_t.data() + a * values, v, in.value_dim) + dn_t[a]);
          for (std::size_t e = 0; e < values; ++e) {
            dv[e] += gate[row].i * k[a] * dc_t[a * values + e];
          }
        }
        const double q_dq = dot(q, out.dq.data() + head.key(t), in.key_dim);
        const double k_dk = dot(k, dk, in.key_dim);
        const double i = in.i[head.token(t)], f = in.f[head.token(t)];
        dlog_f += q_dq - k_dk;
        const bool first = head.reset(t);
        const double i_slope = in.sigmoid_gate ? sigmoid(-head.cap(i)) : 1.0;
        const double f_slope = sigmoid(-head.cap(f)) * head.cap_slope(f);
        out.di[head.token(t)] = k_dk * i_slope * head.cap_slope(i);
        out.df[head.token(t)] = first ? 0.0 : dlog_f * f_slope;
        out.df_floor[head.token(t)] = std::abs(out.di[head.token(t)]) * sigmoid(-f);
        // What a reset forgets gets no gradient.
        const double keep = first ? 0.0 : gate[row].f;
        if (first) dlog_f = 0;
        for (double& x : dc_t) x *= keep;
        for (double& x : dn_t) x *= keep;
      }
      if (!in.c0.empty()) {
        out.dc0.insert(out.dc0.end(), dc_t.begin(), dc_t.end());
        out.dn0.insert(out.dn0.end(), dn_t.begin(), dn_t.end());
      }
    }
  }
  return out;
}

}  // namespace lram::kernels
