#include "kernels/head_norm_gate/head_norm_gate_reference.h"

#include <cmath>

namespace lram::kernels {
namespace {

struct Norm {
  std::vector<double> x;  // normalised units of one head
  double rstd;
};

Norm normalize(const double* h, std::int64_t dim, double eps) {
  double mean = 0.0, variance = 0.0;
  for (std::int64_t u = 0; u < dim; ++u) mean += h[u] / static_cast<double>(dim);
  for (std::int64_t u = 0; u < dim; ++u)
    variance += (h[u] - mean) * (h[u] - mean) / static_cast<double>(dim);
  Norm out = {std::vector<double>(static_cast<std::size_t>(dim)), 1.0 / std::sqrt(variance + eps)};
  for (std::int64_t u = 0; u < dim; ++u)
    out.x[static_cast<std::size_t>(u)] = (h[u] - mean) * out.rstd;
  return out;
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

}  // namespace

void HeadNormGateReference::forward() {
  y.assign(h.size(), 0.0);
  for (std::int64_t row = 0; row < tokens * heads; ++row) {
    const auto start = static_cast<std::size_t>(row * dim);
    const auto column = static_cast<std::size_t>(row % heads * dim);
    const Norm norm = normalize(h.data() + start, dim, eps);
    for (std::size_t u = 0; u < static_cast<std::size_t>(dim); ++u) {
      double sum = norm.x[u] * (weight_offset + weight[column + u]);
      if (!skip.empty()) sum += skip[column + u] * conv[start + u];
      const double gate = z[start + u];
      y[start + u] = sum * (silu ? gate * sigmoid(gate) : sigmoid(gate));
    }
  }
}

void HeadNormGateReference::backward() {
  const bool with_conv = !skip.empty();
  dh.assign(h.size(), 0.0);
  dz.assign(h.size(), 0.0);
  dweight.assign(weight.size(), 0.0);
  dh_dot_h.assign(static_cast<std::size_t>(tokens * heads), 0.0);
  if (with_conv) {
    dconv.assign(h.size(), 0.0);
    dskip.assign(skip.size(), 0.0);
  }
  for (std::int64_t row = 0; row < tokens * heads; ++row) {
    const auto start = static_cast<std::size_t>(row * dim);
    const auto column = static_cast<std::size_t>(row % heads * dim);
    const Norm norm = normalize(h.data() + start, dim, eps);
    std::vector<double> g(static_cast<std::size_t>(dim));
    double mean_g = 0.0, mean_gx = 0.0;
    for (std::size_t u = 0; u < g.size(); ++u) {
      const std::size_t at = start + u, w = column + u;
      const double s = sigmoid(z[at]), scale = weight_offset + weight[w];
      const double gate = silu ? z[at] * s : s;
      const double slope = silu ? s * (1.0 + z[at] * (1.0 - s)) : s * (1.0 - s);
      double sum = norm.x[u] * scale;
      const double dn = dy[at] * gate;
      if (with_conv) {
        sum += skip[w] * conv[at];
        dconv[at] = dn * skip[w];
        dskip[w] += dn * conv[at];
      }
      dz[at] = dy[at] * sum * slope;
      dweight[w] += dn * norm.x[u];
      g[u] = dn * scale;
      mean_g += g[u] / static_cast<double>(dim);
      mean_gx += g[u] * norm.x[u] / static_cast<double>(dim);
    }
    for (std::size_t u = 0; u < g.size(); ++u) {
      dh[start + u] = norm.rstd * (g[u] - mean_g - norm.x[u] * mean_gx);
      dh_dot_h[static_cast<std::size_t>(row)] += dh[start + u] * h[start + u];
    }
  }
}

}  // namespace lram::kernels
