#include "kernels/mlstm/mlstm_plain.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "lram/core/error.h"

namespace lram::kernels {
namespace {

using Vector = std::vector<double>;

float to_bf16(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits += 0x7fff + ((bits >> 16) & 1);
  bits &= 0xffff0000u;
  std::memcpy(&x, &bits, 4);
  return x;
}

/// Real and what its products' operands are rounded to.
struct Exact {
  using Real = double;
  static Real operand(Real x) { return x; }
};
struct Rounded {
  using Real = float;
  static Real operand(Real x) { return to_bf16(x); }
};

double log_sigmoid(double x) { return std::min(x, 0.0) - std::log1p(std::exp(-std::abs(x))); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

template <typename Type>
class PlainHead {
  using Real = typename Type::Real;
  using Reals = std::vector<Real>;

 public:
  PlainHead(const MlstmReferenceInput& in, int batch, int head) : in_(in), b_(batch), h_(head) {
    begin_ = in.begin.empty() ? 0 : in.begin[index(b_)];
    end_ = in.end.empty() ? in.tokens : in.end[index(b_)];
    q_ = rows(in.q, keys()), k_ = rows(in.k, keys()), v_ = rows(in.v, values());
    if (!in.c0.empty()) c0_ = state(in.c0, keys() * values());
    if (!in.n0.empty()) n0_ = state(in.n0, keys());
    scan();
  }

  void forward(MlstmReferenceOutput& out) {
    out_h_.assign(tokens() * values(), 0);
    beta_.assign(tokens(), 0), denominator_.assign(tokens(), 1);
    const Real s = scale();
    for (int t = begin_; t < end_; ++t) {
      const auto row = index(t);
      const Reals p = scores(t);
      Real* u = out_h_.data() + row * values();
      Real beta = 0;
      for (int j = start_[row]; j <= t; ++j) {
        beta += p[index(j)];
        add(u, Type::operand(p[index(j)]), v_.data() + index(j) * values(), values());
      }
      if (!c0_.empty() && inter_[row] != 0) {
        Reals read(values());
        for (std::size_t a = 0; a < keys(); ++a)
          add_rounded(read.data(), q_[row * keys() + a], c0_.data() + a * values(), values());
        add(u, s * inter_[row], read.data(), values());
        if (!n0_.empty()) beta += s * inter_[row] * dot(q_.data() + row * keys(), n0_.data());
      }
      beta_[row] = beta;
      if (in_.normalize)
        denominator_[row] = std::max(std::abs(beta), floor_[row]) + static_cast<Real>(in_.eps);
      for (std::size_t e = 0; e < values(); ++e) u[e] = Type::operand(u[e] / denominator_[row]);
    }
    put(out_h_, out.h, values());
    final_state();
    out.c.insert(out.c.end(), c_.begin(), c_.end());
    out.n.insert(out.n.end(), n_.begin(), n_.end());
    out.m.push_back(m_end_);
  }

  /// After forward().
  void backward(const Vector& dh_of, const Vector& dc_of, const Vector& dn_of, const Vector& dot_of,
                MlstmReferenceGradient& out) {
    const Reals dh = rows(dh_of, values());
    const Real s = scale();
    Reals dq(tokens() * keys()), dk(tokens() * keys()), dv(tokens() * values());
    Reals v_columns(tokens() * values());
    for (std::size_t t = 0; t < tokens(); ++t)
      for (std::size_t e = 0; e < values(); ++e) v_columns[e * tokens() + t] = v_[t * values() + e];
    Reals dc0(c0_.size()), dn0(n0_.size());
    for (int t = begin_; t < end_; ++t) {
      const auto row = index(t);
      const Real* g = dh.data() + row * values();
      Real dot_h = 0;
      for (std::size_t e = 0; e < values(); ++e) dot_h += g[e] * out_h_[row * values() + e];
      if (!dot_of.empty()) dot_h = static_cast<Real>(dot_of[token(t)]);
      const Real over = 1 / denominator_[row];
      const bool through = in_.normalize && std::abs(beta_[row]) > floor_[row];
      const Real dbeta = through ? -dot_h * over * (beta_[row] > 0 ? 1 : -1) : Real(0);
      const Reals p = scores(t);
      const auto first = index(start_[row]);
      Reals dp(tokens());
      for (std::size_t e = 0; e < values(); ++e) {
        const Real* column = v_columns.data() + e * tokens();
        for (std::size_t j = first; j <= row; ++j) dp[j] += g[e] * column[j];
      }
      Real* dq_t = dq.data() + row * keys();
      for (std::size_t j = first; j <= row; ++j) {
        const Real d = decay(t, static_cast<int>(j));
        if (d == 0) continue;
        const Real ds = s * Type::operand((dp[j] * over + dbeta) * d);
        add(dq_t, ds, k_.data() + j * keys(), keys());
        add(dk.data() + j * keys(), ds, q_.data() + row * keys(), keys());
        add(dv.data() + j * values(), Type::operand(p[j] * over), g, values());
      }
      if (c0_.empty() || inter_[row] == 0) continue;
      const Real weight = s * inter_[row];
      for (std::size_t a = 0; a < keys(); ++a) {
        const Real q = q_[row * keys() + a];
        const Real* c = c0_.data() + a * values();
        Real read = 0;
        for (std::size_t e = 0; e < values(); ++e) {
          read += Type::operand(c[e]) * g[e];
          dc0[a * values() + e] += q * Type::operand(weight * over * g[e]);
        }
        dq_t[a] += weight * over * read;
        if (n0_.empty()) continue;
        dq_t[a] += weight * dbeta * n0_[a];
        dn0[a] += weight * dbeta * q;
      }
    }
    double dlog_f = 0;  // of the token at hand, from the end
    if (!dc_of.empty()) {
      const Reals dc = state(dc_of, keys() * values());
      for (std::size_t j = 0; j < dc.size(); ++j) dlog_f += double{dc[j]} * c_[j];
      for (int t = begin_; t < end_; ++t) {
        const auto row = index(t);
        const Real d = decay(end_ - 1, t);
        if (d == 0) continue;
        for (std::size_t a = 0; a < keys(); ++a) {
          const Real* g = dc.data() + a * values();
          Real read = 0;
          for (std::size_t e = 0; e < values(); ++e)
            read += Type::operand(g[e]) * v_[row * values() + e];
          dk[row * keys() + a] += d * read;
          add_rounded(dv.data() + row * values(), d * k_[row * keys() + a], g, values());
        }
      }
      for (std::size_t j = 0; j < dc0.size(); ++j) dc0[j] += kept_ * dc[j];
    }
    if (!dn_of.empty()) {
      const Reals dn = state(dn_of, keys());
      for (std::size_t a = 0; a < keys(); ++a) dlog_f += double{dn[a]} * n_[a];
      for (int t = begin_; t < end_; ++t)
        add(dk.data() + index(t) * keys(), decay(end_ - 1, t), dn.data(), keys());
      for (std::size_t a = 0; a < dn0.size(); ++a) dn0[a] += kept_ * dn[a];
    }
    for (int t = end_ - 1; t >= begin_; --t) {
      const auto row = index(t);
      const Real k_dk = dot(k_.data() + row * keys(), dk.data() + row * keys());
      dlog_f += double{dot(q_.data() + row * keys(), dq.data() + row * keys())} - k_dk;
      const double i = cap(in_.i[token(t)]), f = cap(in_.f[token(t)]);
      const double i_slope = cap_slope(in_.i[token(t)]) * (in_.sigmoid_gate ? sigmoid(-i) : 1.0);
      out.di[token(t)] = static_cast<Real>(k_dk * i_slope);
      out.df[token(t)] =
          reset(t) ? 0 : static_cast<Real>(dlog_f * sigmoid(-f) * cap_slope(in_.f[token(t)]));
      if (reset(t)) dlog_f = 0;
    }
    for (Reals* x : {&dq, &dk, &dv})
      for (Real& value : *x) value = Type::operand(value);
    put(dq, out.dq, keys()), put(dk, out.dk, keys()), put(dv, out.dv, values());
    out.dc0.insert(out.dc0.end(), dc0.begin(), dc0.end());
    out.dn0.insert(out.dn0.end(), dn0.begin(), dn0.end());
  }

 private:
  static std::size_t index(int n) { return static_cast<std::size_t>(n); }
  std::size_t keys() const { return index(in_.key_dim); }
  std::size_t values() const { return index(in_.value_dim); }
  std::size_t tokens() const { return index(in_.tokens); }
  Real scale() const { return 1 / std::sqrt(static_cast<Real>(in_.key_dim)); }
  std::size_t token(int t) const {
    return (index(b_) * tokens() + index(t)) * index(in_.heads) + index(h_);
  }
  bool reset(int t) const {
    return !in_.reset.empty() && in_.reset[index(b_) * tokens() + index(t)] != 0;
  }
  double cap(double x) const {
    return in_.gate_soft_cap > 0 ? in_.gate_soft_cap * std::tanh(x / in_.gate_soft_cap) : x;
  }
  double cap_slope(double x) const {
    if (in_.gate_soft_cap <= 0) return 1;
    const double y = std::tanh(x / in_.gate_soft_cap);
    return 1 - y * y;
  }
  Reals rows(const Vector& x, std::size_t dim) const {
    Reals out(tokens() * dim);
    for (int t = begin_; t < end_; ++t)
      for (std::size_t j = 0; j < dim; ++j)
        out[index(t) * dim + j] = static_cast<Real>(x[token(t) * dim + j]);
    return out;
  }
  void put(const Reals& from, Vector& to, std::size_t dim) const {
    for (int t = begin_; t < end_; ++t)
      std::copy_n(from.data() + index(t) * dim, dim, to.data() + token(t) * dim);
  }
  Reals state(const Vector& x, std::size_t size) const {
    const double* from = x.data() + (index(b_) * index(in_.heads) + index(h_)) * size;
    Reals out(size);
    for (std::size_t j = 0; j < size; ++j) out[j] = static_cast<Real>(from[j]);
    return out;
  }
  static void add(Real* to, Real weight, const Real* x, std::size_t n) {
    for (std::size_t j = 0; j < n; ++j) to[j] += weight * x[j];
  }
  static void add_rounded(Real* to, Real weight, const Real* x, std::size_t n) {
    for (std::size_t j = 0; j < n; ++j) to[j] += weight * Type::operand(x[j]);
  }
  Real dot(const Real* a, const Real* b) const {
    Real sum = 0;
    for (std::size_t j = 0; j < keys(); ++j) sum += a[j] * b[j];
    return sum;
  }

  /// D_ts = exp(column_s - row_max_t) within a segment.
  void scan() {
    column_.assign(tokens(), 0), row_max_.assign(tokens(), 0);
    floor_.assign(tokens(), 1), inter_.assign(tokens(), 0), start_.assign(tokens(), 0);
    double sum = 0, m0 = 0;
    if (!in_.m0.empty()) m0 = in_.m0[index(b_) * index(in_.heads) + index(h_)];
    double top = m0;
    int start = begin_;
    bool fresh = c0_.empty();
    for (int t = begin_; t < end_; ++t) {
      if (reset(t)) top = -sum, start = t, fresh = true;
      sum += log_sigmoid(cap(in_.f[token(t)]));
      const double i = cap(in_.i[token(t)]);
      const double column = (in_.sigmoid_gate ? log_sigmoid(i) : i) - sum;
      top = std::max(top, column);
      const double of_row = in_.sigmoid_gate ? -sum : top;
      const auto row = index(t);
      column_[row] = column, row_max_[row] = of_row, start_[row] = start;
      if (!in_.sigmoid_gate) floor_[row] = static_cast<Real>(std::exp(-(sum + top)));
      if (!fresh) inter_[row] = static_cast<Real>(std::exp(m0 - of_row));
    }
    kept_ = begin_ < end_ ? inter_[index(end_ - 1)] : Real(fresh ? 0 : 1);
    m_end_ = in_.sigmoid_gate ? 0 : sum + top;
    k_columns_.assign(tokens() * keys(), 0);
    for (std::size_t t = 0; t < tokens(); ++t)
      for (std::size_t a = 0; a < keys(); ++a) k_columns_[a * tokens() + t] = k_[t * keys() + a];
  }
  Real decay(int t, int j) const {
    if (j < start_[index(t)]) return 0;
    return static_cast<Real>(std::exp(column_[index(j)] - row_max_[index(t)]));
  }
  /// Row t of P.
  Reals scores(int t) const {
    const auto row = index(t), first = index(start_[row]);
    Reals p(tokens());
    for (std::size_t a = 0; a < keys(); ++a) {
      const Real q = q_[row * keys() + a];
      const Real* column = k_columns_.data() + a * tokens();
      for (std::size_t j = first; j <= row; ++j) p[j] += q * column[j];
    }
    const Real s = scale();
    for (std::size_t j = first; j <= row; ++j) p[j] *= s * decay(t, static_cast<int>(j));
    return p;
  }
  void final_state() {
    c_.assign(keys() * values(), 0), n_.assign(keys(), 0);
    for (int t = begin_; t < end_; ++t) {
      const auto row = index(t);
      const Real d = decay(end_ - 1, t);
      if (d == 0) continue;
      Reals weighted(values());
      for (std::size_t e = 0; e < values(); ++e)
        weighted[e] = Type::operand(d * v_[row * values() + e]);
      for (std::size_t a = 0; a < keys(); ++a)
        add(c_.data() + a * values(), k_[row * keys() + a], weighted.data(), values());
      add(n_.data(), d, k_.data() + row * keys(), keys());
    }
    for (std::size_t j = 0; j < c0_.size(); ++j) c_[j] += kept_ * c0_[j];
    for (std::size_t j = 0; j < n0_.size(); ++j) n_[j] += kept_ * n0_[j];
  }

  const MlstmReferenceInput& in_;
  int b_, h_, begin_ = 0, end_ = 0;
  Reals q_, k_, v_, c0_, n0_, k_columns_;
  std::vector<double> column_, row_max_;
  Reals floor_, inter_;
  std::vector<int> start_;
  Real kept_ = 0;
  double m_end_ = 0;
  Reals out_h_, beta_, denominator_, c_, n_;
};

template <typename Type>
MlstmPlainRun run(const MlstmReferenceInput& in, const Vector& dh, const Vector& dc,
                  const Vector& dn, const Vector& dh_dot_h) {
  MlstmPlainRun out;
  out.out.h.assign(in.v.size(), 0.0);
  MlstmReferenceGradient& g = out.gradient;
  g.dq.assign(in.q.size(), 0.0), g.dk.assign(in.k.size(), 0.0), g.dv.assign(in.v.size(), 0.0);
  g.di.assign(in.i.size(), 0.0), g.df.assign(in.f.size(), 0.0);
  for (int b = 0; b < in.batch; ++b) {
    for (int h = 0; h < in.heads; ++h) {
      PlainHead<Type> head(in, b, h);
      head.forward(out.out);
      head.backward(dh, dc, dn, dh_dot_h, g);
    }
  }
  return out;
}

double norm(const Vector& x) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  return std::sqrt(sum);
}

}  // namespace

MlstmPlainRun mlstm_plain_run(const MlstmReferenceInput& in, const Vector& dh, const Vector& dc,
                              const Vector& dn, const Vector& dh_dot_h, bool rounded) {
  return rounded ? run<Rounded>(in, dh, dc, dn, dh_dot_h) : run<Exact>(in, dh, dc, dn, dh_dot_h);
}

MlstmPlainRun mlstm_plain_run_of(const MlstmReferenceInput& in, const Vector& dh, const Vector& dc,
                                 const Vector& dn, const Vector& dh_dot_h, bool bf16) {
  if (bf16) return mlstm_plain_run(in, dh, dc, dn, dh_dot_h, /*rounded=*/true);
  MlstmReferenceInput narrow = in;
  narrow.float32 = true;
  return {mlstm_reference_forward(narrow),
          mlstm_reference_backward(narrow, dh, dc, dn, true, dh_dot_h)};
}

double mlstm_relative_error(const Vector& got, const Vector& want, double least) {
  if (got.size() != want.size()) return std::numeric_limits<double>::quiet_NaN();
  Vector difference(want.size());
  for (std::size_t j = 0; j < want.size(); ++j) difference[j] = got[j] - want[j];
  const double size = std::max(norm(want), least);
  return size > 0 ? norm(difference) / size : norm(difference);
}

double mlstm_bar(std::string_view name, bool bf16) {
  if (!bf16 || name == "m") return 1e-5;
  // One rounding of the result; sums of rounded products; differences of such sums.
  if (name == "h" || name == "dv" || name == "C" || name == "n") return 5e-3;
  return name == "df" ? 1.5e-2 : 1e-2;
}

double mlstm_allowed(std::string_view name, bool bf16, double plain) {
  return std::max(mlstm_bar(name, bf16), 1.5 * plain);
}

std::vector<MlstmErrorTerm> mlstm_error_terms(const MlstmReferenceInput& in, bool final,
                                              const MlstmReferenceOutput& out,
                                              const MlstmReferenceGradient& exact,
                                              const MlstmReferenceGradient& dropped) {
  std::vector<MlstmErrorTerm> terms = {{"h", &out.h, 0}};
  if (final) {
    terms.push_back({"C", &out.c, 0});
    if (in.normalize) terms.push_back({"n", &out.n, 0});
    if (!in.sigmoid_gate) terms.push_back({"m", &out.m, 0});
  }
  for (const char* name : {"dq", "dk", "dv", "di"})
    terms.push_back(
        {name, &mlstm_result(name, out, exact), norm(mlstm_result(name, out, dropped))});
  terms.push_back({"df", &exact.df, std::max(norm(dropped.df), 1e-2 * norm(exact.df_floor))});
  if (!in.c0.empty()) {
    terms.push_back({"dC0", &exact.dc0, norm(dropped.dc0)});
    if (in.normalize) terms.push_back({"dn0", &exact.dn0, norm(dropped.dn0)});
  }
  return terms;
}

const Vector& mlstm_result(std::string_view name, const MlstmReferenceOutput& out,
                           const MlstmReferenceGradient& g) {
  const std::pair<std::string_view, const Vector*> known[] = {
      {"h", &out.h}, {"C", &out.c}, {"n", &out.n}, {"m", &out.m},   {"dq", &g.dq},  {"dk", &g.dk},
      {"dv", &g.dv}, {"di", &g.di}, {"df", &g.df}, {"dC0", &g.dc0}, {"dn0", &g.dn0}};
  for (const auto& [of, result] : known)
    if (of == name) return *result;
  throw_error(ErrorKind::kInternal, "mlstm_result: no result '{}'", name);
}

}  // namespace lram::kernels
