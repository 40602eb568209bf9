// Every built {form, path, type} of the mLSTM against the plain double loops, over a table of
// shapes. Prints one line per shape and implementation: of every result its error and, behind the
// slash, that of a plain run with the same roundings (mlstm_plain.h).
#include "kernels/mlstm/mlstm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <future>
#include <limits>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "kernels/common/cuda_check.h"
#include "kernels/mlstm/mlstm_implementation.h"
#include "kernels/mlstm/mlstm_plain.h"
#include "lram/core/error.h"

namespace lram::kernels {
namespace {

using Vector = std::vector<double>;

#ifdef LRAM_EMULATED  // on the CPU (tests/kernels/emulation): a second for what a GPU does at once
constexpr double kMostWork = 1.3e7, kMostLongWork = 3.8e6;
#else
constexpr double kMostWork = std::numeric_limits<double>::infinity(), kMostLongWork = kMostWork;
#endif

// Longer ones have the bars alone: a plain run in bfloat16 costs T^2 on one core.
constexpr int kMostPlainTokens = 2048;

struct Shape {
  int batch, tokens, heads, key_dim, value_dim;
  bool sigmoid = false, normalize = true;
  double i_bias = 0, f_bias = 4;
  bool resets = false, masks = false, initial = false, final = false, norm_behind = false;
  float cap = 0;
  double f_scale = 1;

  /// Products of the quadratic form.
  double work() const { return 1.0 * batch * heads * tokens * tokens * (key_dim + value_dim); }
  std::string name() const {
    return std::to_string(batch) + "x" + std::to_string(heads) + "x" + std::to_string(tokens) +
           "," + std::to_string(key_dim) + "/" + std::to_string(value_dim) +
           (sigmoid ? normalize ? " sig,norm" : " sig" : " exp") + " i" +
           std::to_string(static_cast<int>(i_bias)) + " f" +
           std::to_string(static_cast<int>(f_bias)) + (cap > 0 ? " cap" : "") +
           (resets ? " resets" : "") + (masks ? " masks" : "") + (initial ? " in" : "") +
           (final ? " out" : "") + (norm_behind ? " normed" : "");
  }
};

// clang-format off
const std::vector<Shape>& shapes() {
  static const std::vector<Shape> table = {
      // Head dims at LRAM's length, both gates.
      {2, 150, 2, 64, 64}, {2, 150, 2, 128, 128}, {2, 150, 2, 256, 256}, {1, 150, 2, 320, 320},
      {1, 150, 2, 384, 384}, {1, 150, 2, 512, 512}, {1, 150, 2, 640, 640},
      {2, 150, 2, 32, 64}, {2, 150, 2, 64, 128}, {1, 150, 2, 128, 256}, {1, 150, 2, 160, 320},
      {1, 150, 2, 192, 384}, {1, 150, 2, 256, 512}, {1, 150, 2, 320, 640},
      {2, 150, 2, 64, 64, true, false}, {1, 150, 2, 128, 256, true, false},
      {1, 150, 2, 256, 256, true, true}, {1, 150, 2, 320, 640, true, false},
      // Ragged lengths.
      {2, 1, 2, 64, 64}, {2, 7, 2, 128, 128}, {3, 31, 3, 64, 128}, {2, 63, 2, 128, 128},
      {2, 64, 2, 64, 64}, {2, 65, 2, 128, 128}, {2, 100, 2, 64, 128}, {2, 128, 2, 256, 256},
      {2, 129, 2, 64, 64}, {2, 191, 2, 128, 128}, {1, 192, 2, 128, 256}, {1, 193, 2, 64, 64},
      {2, 200, 2, 256, 256}, {2, 200, 2, 128, 128, true, false}, {1, 256, 2, 128, 256},
      {1, 256, 2, 256, 256, true, true},
      // Gates at their extremes.
      {2, 150, 2, 64, 64, false, true, -10, 4}, {2, 150, 2, 64, 64, false, true, 8, 4},
      {2, 150, 2, 128, 128, false, true, 0, -10}, {2, 150, 2, 64, 128, false, true, 0, 8},
      {2, 150, 2, 64, 64, true, false, -10, 8}, {2, 150, 2, 64, 64, true, true, 8, -3},
      {2, 200, 2, 64, 128, false, true, -10, -10}, {2, 200, 2, 64, 64, false, true, 8, 8},
      {.batch = 2, .tokens = 150, .heads = 2, .key_dim = 64, .value_dim = 64, .i_bias = 5, .f_bias = 5, .cap = 15},
      {.batch = 2, .tokens = 150, .heads = 2, .key_dim = 64, .value_dim = 64, .sigmoid = true, .normalize = false, .i_bias = -5, .f_bias = 10, .cap = 15},
      // Masks, resets, states, a norm behind.
      {.batch = 3, .tokens = 150, .heads = 2, .key_dim = 64, .value_dim = 64, .resets = true},
      {.batch = 3, .tokens = 200, .heads = 2, .key_dim = 64, .value_dim = 128, .sigmoid = true, .normalize = false, .resets = true},
      {.batch = 4, .tokens = 150, .heads = 2, .key_dim = 64, .value_dim = 64, .masks = true},
      {.batch = 4, .tokens = 200, .heads = 2, .key_dim = 128, .value_dim = 128, .resets = true, .masks = true},
      {.batch = 4, .tokens = 60, .heads = 2, .key_dim = 64, .value_dim = 64, .sigmoid = true, .normalize = true, .resets = true, .masks = true},
      {.batch = 2, .tokens = 150, .heads = 2, .key_dim = 64, .value_dim = 64, .initial = true},
      {.batch = 2, .tokens = 150, .heads = 2, .key_dim = 64, .value_dim = 64, .final = true},
      {.batch = 2, .tokens = 150, .heads = 2, .key_dim = 64, .value_dim = 128, .initial = true, .final = true},
      {.batch = 2, .tokens = 100, .heads = 2, .key_dim = 160, .value_dim = 320, .initial = true, .final = true},
      {.batch = 2, .tokens = 150, .heads = 2, .key_dim = 64, .value_dim = 64, .sigmoid = true, .normalize = false, .initial = true, .final = true},
      {.batch = 2, .tokens = 150, .heads = 2, .key_dim = 64, .value_dim = 64, .sigmoid = true, .normalize = true, .initial = true, .final = true},
      {.batch = 4, .tokens = 200, .heads = 2, .key_dim = 64, .value_dim = 64, .resets = true, .masks = true, .initial = true, .final = true},
      {.batch = 4, .tokens = 50, .heads = 2, .key_dim = 64, .value_dim = 64, .sigmoid = true, .normalize = false, .resets = true, .masks = true, .initial = true, .final = true},
      {.batch = 2, .tokens = 1, .heads = 2, .key_dim = 64, .value_dim = 64, .initial = true, .final = true},
      {.batch = 2, .tokens = 150, .heads = 2, .key_dim = 64, .value_dim = 64, .norm_behind = true},
      {.batch = 2, .tokens = 150, .heads = 2, .key_dim = 256, .value_dim = 256, .norm_behind = true},
      {.batch = 2, .tokens = 200, .heads = 2, .key_dim = 64, .value_dim = 128, .i_bias = -10, .f_bias = 5, .resets = true, .masks = true, .initial = true, .final = true, .norm_behind = true, .cap = 15},
      {.batch = 1, .tokens = 150, .heads = 1, .key_dim = 64, .value_dim = 64, .resets = true, .initial = true, .final = true},
      {.batch = 1, .tokens = 150, .heads = 1, .key_dim = 64, .value_dim = 64, .sigmoid = true, .normalize = false, .i_bias = 2, .f_bias = -2, .initial = true, .final = true},
      {.batch = 1, .tokens = 170, .heads = 1, .key_dim = 64, .value_dim = 64, .i_bias = -10, .f_bias = 6, .norm_behind = true, .cap = 15},
      // More than one tile of 128 and pair of tiles of the tiled form.
      {1, 257, 1, 64, 64}, {1, 257, 1, 128, 256}, {1, 300, 2, 128, 128}, {1, 300, 1, 384, 384}, {1, 300, 1, 640, 640},
      {1, 300, 1, 256, 256, true, false}, {1, 520, 1, 64, 64}, {1, 520, 1, 512, 512}, {1, 1000, 2, 320, 320},
      {1, 300, 1, 64, 64, false, true, -10, 8}, {1, 300, 1, 64, 64, false, true, 8, 8}, {1, 300, 1, 64, 64, true, true, 0, -10},
      {.batch = 1, .tokens = 520, .heads = 1, .key_dim = 64, .value_dim = 64, .resets = true, .norm_behind = true},
      {.batch = 3, .tokens = 400, .heads = 1, .key_dim = 64, .value_dim = 64, .resets = true, .masks = true, .cap = 15},
      {.batch = 2, .tokens = 1000, .heads = 2, .key_dim = 512, .value_dim = 512, .masks = true, .norm_behind = true},
      // Long.
      {1, 320, 2, 64, 64}, {1, 1000, 2, 64, 64}, {1, 1000, 1, 128, 256, true, false},
      {.batch = 1, .tokens = 1000, .heads = 1, .key_dim = 256, .value_dim = 256, .resets = true, .masks = true, .initial = true, .final = true},
      {.batch = 1, .tokens = 1000, .heads = 2, .key_dim = 64, .value_dim = 128, .i_bias = -10, .f_bias = 6, .norm_behind = true},
      {1, 1024, 1, 640, 640}, {1, 2048, 1, 128, 256, true, false},
      {1, 8192, 1, 64, 128}, {1, 8192, 1, 128, 256, true, false, 0, 6},
      {.batch = 1, .tokens = 8192, .heads = 1, .key_dim = 64, .value_dim = 64, .i_bias = -5, .f_bias = -3, .resets = true, .initial = true, .final = true},
      // dh . h in the normaliser's part cancels most of dq and dk.
      {2, 150, 2, 64, 64, false, true, 8, 8}, {2, 150, 2, 256, 256, false, true, 8, 8},
  };
  return table;
}
// clang-format on

std::uint16_t to_bf16(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits += 0x7fff + ((bits >> 16) & 1);
  return static_cast<std::uint16_t>(bits >> 16);
}
float from_bf16(std::uint16_t x) {
  const std::uint32_t bits = static_cast<std::uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

/// Inputs as both sides see them (already rounded), and what is wanted.
struct Case {
  MlstmReferenceInput in;
  Vector dh, dc, dn, dh_dot_h;
  MlstmReferenceOutput out;
  MlstmReferenceGradient exact, dropped;  ///< dropped: without the normaliser's part
  std::map<std::string, double> plain;    ///< error of the plain run by result; none: too long
};

Case make_case(const Shape& s, bool bf16, unsigned seed) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<double> normal;
  const auto size = [](int n) { return static_cast<std::size_t>(n); };
  const auto draw = [&](std::size_t n, double mean, double scale, bool round) {
    Vector x(n);
    for (double& value : x) {
      const auto drawn = static_cast<float>(mean + scale * normal(rng));
      value = round ? from_bf16(to_bf16(drawn)) : drawn;
    }
    return x;
  };
  Case c;
  MlstmReferenceInput& in = c.in;
  in.batch = s.batch, in.tokens = s.tokens, in.heads = s.heads;
  in.key_dim = s.key_dim, in.value_dim = s.value_dim;
  in.sigmoid_gate = s.sigmoid, in.normalize = s.normalize;
  in.eps = 1e-6f, in.gate_soft_cap = s.cap;
  const std::size_t rows = size(s.batch) * size(s.tokens) * size(s.heads);
  const std::size_t heads = size(s.batch) * size(s.heads);
  in.q = draw(rows * size(s.key_dim), 0, 1, bf16);
  in.k = draw(rows * size(s.key_dim), 0, 1, bf16);
  in.v = draw(rows * size(s.value_dim), 0, 1, bf16);
  in.i = draw(rows, s.i_bias, 1, false);
  in.f = draw(rows, s.f_bias, s.f_scale, false);
  if (s.initial) {
    in.c0 = draw(heads * size(s.key_dim) * size(s.value_dim), 0, 1, false);
    if (s.normalize) in.n0 = draw(heads * size(s.key_dim), 0, 1, false);
    if (!s.sigmoid) in.m0 = draw(heads, 0, 1, false);
  }
  if (s.resets) {
    in.reset.assign(size(s.batch) * size(s.tokens), 0);
    for (auto& x : in.reset) x = rng() % 40 == 0;
    if (s.batch > 1) in.reset[size(s.tokens)] = 1;  // a reset at the first token
  }
  if (s.masks) {
    for (int b = 0; b < s.batch; ++b) {
      const int begin = b == 0 ? 0 : static_cast<int>(rng() % size(s.tokens / 2));
      // One row of nothing, one of everything after begin.
      const int end = b == 1   ? begin
                      : b == 2 ? s.tokens
                               : begin + 1 + static_cast<int>(rng() % size(s.tokens - begin));
      in.begin.push_back(begin);
      in.end.push_back(end);
    }
  }
  c.out = mlstm_reference_forward(in);
  c.dh = draw(rows * size(s.value_dim), 0, 1, bf16);
  if (s.norm_behind) {
    // What a scale-invariant norm sends back is orthogonal to h, up to bf16.
    for (std::size_t row = 0; row < rows; ++row) {
      double* g = c.dh.data() + row * size(s.value_dim);
      const double* h = c.out.h.data() + row * size(s.value_dim);
      double dot = 0, square = 1e-300;
      for (int e = 0; e < s.value_dim; ++e) dot += g[e] * h[e], square += h[e] * h[e];
      for (int e = 0; e < s.value_dim; ++e) {
        const auto x = static_cast<float>((g[e] - h[e] * dot / square) / std::sqrt(square));
        g[e] = square < 1e-200 ? 0.0 : bf16 ? from_bf16(to_bf16(x)) : x;
      }
    }
    c.dh_dot_h.assign(rows, 0.0);
  }
  if (s.final) {
    c.dc = draw(c.out.c.size(), 0, 1, false);
    if (s.normalize) c.dn = draw(c.out.n.size(), 0, 1, false);
  }
  c.exact = mlstm_reference_backward(in, c.dh, c.dc, c.dn, true, c.dh_dot_h);
  c.dropped = mlstm_reference_backward(in, c.dh, c.dc, c.dn, false, c.dh_dot_h);
  if (bf16 && s.tokens > kMostPlainTokens) return c;
  const MlstmPlainRun plain = mlstm_plain_run_of(in, c.dh, c.dc, c.dn, c.dh_dot_h, bf16);
  for (const MlstmErrorTerm& term : mlstm_error_terms(in, s.final, c.out, c.exact, c.dropped)) {
    c.plain[term.name] = mlstm_relative_error(mlstm_result(term.name, plain.out, plain.gradient),
                                              *term.want, term.least);
  }
  return c;
}

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t size) : size_(size) {
    LRAM_CUDA_CHECK(
        cudaMalloc(reinterpret_cast<void**>(&data_), std::max<std::size_t>(size, 1) * sizeof(T)));
    LRAM_CUDA_CHECK(cudaMemset(data_, 0xff, size * sizeof(T)));  // NaN: what is not written shows
  }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) {
    LRAM_CUDA_CHECK(cudaMemcpy(data_, host.data(), size_ * sizeof(T), cudaMemcpyDefault));
  }
  DeviceArray(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }
  T* get() const { return data_; }
  T* get_if(bool wanted) const { return wanted ? data_ : nullptr; }
  std::vector<T> host() const {
    std::vector<T> out(size_);
    LRAM_CUDA_CHECK(cudaMemcpy(out.data(), data_, size_ * sizeof(T), cudaMemcpyDefault));
    return out;
  }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

std::vector<float> to_floats(const Vector& x) { return {x.begin(), x.end()}; }

/// One [B, T, H, D] tensor inside rows wider than itself, as a slice of a fused projection is.
class Tensor4 {
 public:
  Tensor4(const MlstmReferenceInput& in, int dim, bool bf16)
      : in_(in),
        dim_(dim),
        bf16_(bf16),
        row_(in.heads * (dim + 16) + 8),
        bytes_(static_cast<std::size_t>(in.batch * in.tokens * row_) * (bf16 ? 2 : 4)) {}
  void set(const Vector& x, bool nan_outside) {
    std::vector<std::uint8_t> host(
        static_cast<std::size_t>(in_.batch * in_.tokens * row_) * (bf16_ ? 2 : 4), 0xff);
    for_each([&](std::size_t at, std::size_t index, bool counts) {
      const float value = counts || !nan_outside ? static_cast<float>(x[index]) : NAN;
      const std::uint16_t half = to_bf16(value);
      if (bf16_ && std::isnan(value)) return;
      if (bf16_)
        std::memcpy(host.data() + at * 2, &half, 2);
      else
        std::memcpy(host.data() + at * 4, &value, 4);
    });
    LRAM_CUDA_CHECK(cudaMemcpy(bytes_.get(), host.data(), host.size(), cudaMemcpyDefault));
  }
  Vector get(bool* gaps_untouched) const {
    const std::vector<std::uint8_t> host = bytes_.host();
    Vector x(static_cast<std::size_t>(in_.batch * in_.tokens * in_.heads * dim_));
    std::vector<bool> written(host.size() / (bf16_ ? 2 : 4));
    for_each([&](std::size_t at, std::size_t index, bool) {
      written[at] = true;
      std::uint16_t half;
      float value;
      std::memcpy(&half, host.data() + at * 2, 2);
      if (!bf16_) std::memcpy(&value, host.data() + at * 4, 4);
      x[index] = bf16_ ? from_bf16(half) : value;
    });
    *gaps_untouched = true;
    const std::size_t width = bf16_ ? 2 : 4;
    for (std::size_t at = 0; at < written.size(); ++at) {
      if (!written[at] && host[at * width] != 0xff) *gaps_untouched = false;
    }
    return x;
  }
  HeadTensor view() const {
    return {bytes_.get(), std::int64_t{row_} * in_.tokens, row_, dim_ + 16};
  }
  std::vector<std::uint8_t> raw() const { return bytes_.host(); }

 private:
  template <typename F>
  void for_each(const F& f) const {
    std::size_t index = 0;
    for (int b = 0; b < in_.batch; ++b) {
      const auto row = static_cast<std::size_t>(b);
      const int begin = in_.begin.empty() ? 0 : in_.begin[row];
      const int end = in_.end.empty() ? in_.tokens : in_.end[row];
      for (int t = 0; t < in_.tokens; ++t) {
        for (int h = 0; h < in_.heads; ++h) {
          for (int e = 0; e < dim_; ++e) {
            const auto at =
                static_cast<std::size_t>((b * in_.tokens + t) * row_ + h * (dim_ + 16) + e);
            f(at, index++, t >= begin && t < end);
          }
        }
      }
    }
  }
  const MlstmReferenceInput& in_;
  int dim_;
  bool bf16_;
  int row_;
  DeviceArray<std::uint8_t> bytes_;
};

struct Result {
  std::string name;
  double error, tolerance, plain;  ///< plain: error of the plain run, NaN where there is none
};

std::vector<Result> run_case(const Shape& s, const Case& c, bool bf16, MlstmForm form,
                             KernelPath path) {
  const MlstmReferenceInput& in = c.in;
  const auto doubles = [](const std::vector<float>& x) { return Vector(x.begin(), x.end()); };
  Tensor4 q(in, in.key_dim, bf16), k(in, in.key_dim, bf16), v(in, in.value_dim, bf16);
  Tensor4 dh(in, in.value_dim, bf16), h(in, in.value_dim, bf16);
  q.set(in.q, true), k.set(in.k, true), v.set(in.v, true), dh.set(c.dh, true);
  std::vector<float> i_host = to_floats(in.i), f_host = to_floats(in.f);
  for (int b = 0; b < in.batch && !in.begin.empty(); ++b) {
    for (int t = 0; t < in.tokens; ++t) {
      const auto row = static_cast<std::size_t>(b);
      if (t >= in.begin[row] && t < in.end[row]) continue;
      for (int head = 0; head < in.heads; ++head) {
        const auto at = static_cast<std::size_t>((b * in.tokens + t) * in.heads + head);
        i_host[at] = f_host[at] = NAN;
      }
    }
  }
  const DeviceArray<float> i(i_host), f(f_host), c0(to_floats(in.c0)), n0(to_floats(in.n0)),
      m0(to_floats(in.m0)), dc(to_floats(c.dc)), dn(to_floats(c.dn)), dot(to_floats(c.dh_dot_h));
  const DeviceArray<std::uint8_t> reset(in.reset);
  const DeviceArray<std::int32_t> begin(in.begin), end(in.end);
  const std::int64_t heads = in.heads, tokens = in.tokens;
  const auto gates = [&](const DeviceArray<float>& x) {
    return GateTensor{x.get(), tokens * heads, heads, 1};
  };

  MlstmProblem p;
  p.batch = in.batch, p.tokens = in.tokens, p.heads = in.heads;
  p.key_dim = in.key_dim, p.value_dim = in.value_dim;
  p.dtype = bf16 ? DType::kBFloat16 : DType::kFloat32;
  p.sigmoid_gate = s.sigmoid, p.normalize = s.normalize, p.gate_soft_cap = s.cap;
  p.form = form, p.path = path;
  p.q = q.view(), p.k = k.view(), p.v = v.view(), p.i = gates(i), p.f = gates(f);
  p.reset = reset.get_if(!in.reset.empty());
  p.begin = begin.get_if(!in.begin.empty()), p.end = end.get_if(!in.end.empty());
  p.initial = {c0.get_if(s.initial), n0.get_if(s.initial && s.normalize),
               m0.get_if(s.initial && !s.sigmoid)};

  DeviceArray<std::uint8_t> saved(mlstm_saved_bytes(p));
  const std::size_t workspace_bytes =
      std::max(mlstm_forward_workspace_bytes(p), mlstm_backward_workspace_bytes(p));
  DeviceArray<std::uint8_t> workspace(workspace_bytes);
  const std::size_t units = static_cast<std::size_t>(in.batch * in.heads);
  const DeviceArray<float> c_out(c.out.c.size()), n_out(c.out.n.size()), m_out(units);
  MlstmForward forward{p, h.view(), {}, saved.get(), workspace.get(), workspace_bytes, nullptr};
  if (s.final) {
    forward.final = {c_out.get(), n_out.get_if(s.normalize), m_out.get_if(!s.sigmoid)};
  }
  mlstm_forward(forward);

  Tensor4 dq(in, in.key_dim, bf16), dk(in, in.key_dim, bf16), dv(in, in.value_dim, bf16);
  const DeviceArray<float> di(i_host.size()), df(i_host.size()), dc0(in.c0.size()),
      dn0(in.n0.size());
  MlstmBackward backward;
  backward.problem = p;
  backward.h = h.view(), backward.saved = saved.get(), backward.dh = dh.view();
  if (s.norm_behind) backward.dh_dot_h = gates(dot);
  if (s.final) backward.dfinal = {dc.get(), dn.get_if(s.normalize), nullptr};
  backward.dq = dq.view(), backward.dk = dk.view(), backward.dv = dv.view();
  backward.di = gates(di), backward.df = gates(df);
  if (s.initial) backward.dinitial = {dc0.get(), dn0.get_if(s.normalize), nullptr};
  backward.workspace = workspace.get(), backward.workspace_bytes = workspace_bytes;
  mlstm_backward(backward);
  LRAM_CUDA_CHECK(cudaDeviceSynchronize());

  const auto all_bits = [&] {
    std::vector<std::uint8_t> bits;
    for (const Tensor4* x : {&h, &dq, &dk, &dv}) {
      const auto part = x->raw();
      bits.insert(bits.end(), part.begin(), part.end());
    }
    for (const DeviceArray<float>* x : {&di, &df, &dc0, &dn0, &c_out}) {
      const auto part = x->host();
      const auto* data = reinterpret_cast<const std::uint8_t*>(part.data());
      bits.insert(bits.end(), data, data + part.size() * 4);
    }
    return bits;
  };
  const auto first_bits = all_bits();

  std::map<std::string, Vector> got = {{"di", doubles(di.host())},   {"df", doubles(df.host())},
                                       {"C", doubles(c_out.host())}, {"n", doubles(n_out.host())},
                                       {"m", doubles(m_out.host())}, {"dC0", doubles(dc0.host())},
                                       {"dn0", doubles(dn0.host())}};
  for (const auto& [name, x] : {std::pair("h", &h), {"dq", &dq}, {"dk", &dk}, {"dv", &dv}}) {
    bool untouched = false;
    got[name] = x->get(&untouched);
    EXPECT_TRUE(untouched) << name << " wrote between its rows";
  }
  std::vector<Result> results;
  for (const MlstmErrorTerm& term : mlstm_error_terms(in, s.final, c.out, c.exact, c.dropped)) {
    const auto plain = c.plain.find(term.name);
    const double of_plain = plain != c.plain.end() ? plain->second : NAN;
    results.push_back({term.name, mlstm_relative_error(got[term.name], *term.want, term.least),
                       mlstm_allowed(term.name, bf16, std::isnan(of_plain) ? 0.0 : of_plain),
                       of_plain});
  }
  mlstm_forward(forward);
  mlstm_backward(backward);
  LRAM_CUDA_CHECK(cudaDeviceSynchronize());
  results.push_back({"rerun", all_bits() == first_bits ? 0.0 : 1.0, 0.0, 0.0});
  return results;
}

const char* form_name(MlstmForm form) {
  return form == MlstmForm::kShort ? "short" : form == MlstmForm::kTiled ? "tiled" : "long";
}
const char* path_name(KernelPath path) { return path == KernelPath::kSm90 ? "sm90" : "portable"; }

bool is_named(const Shape& s, const std::string& wanted) {
  std::istringstream parts(wanted);
  for (std::string part; std::getline(parts, part, ';');) {
    if (s.name().find(part) != std::string::npos) return true;
  }
  return false;
}

void walk(bool bf16, MlstmForm form, KernelPath path) {
  if (!has_device()) GTEST_SKIP() << "no GPU";
  const int capability = current_device().compute_capability;
  if (capability < 80 || (path == KernelPath::kSm90 && capability != 90)) {
    GTEST_SKIP() << "the GPU has compute capability " << capability;
  }
  // References on all cores; LRAM_MLSTM_CASES limits to names that contain one of its parts, which
  // semicolons separate.
  const char* wanted = std::getenv("LRAM_MLSTM_CASES");
  const double most_work = form == MlstmForm::kLong ? kMostLongWork : kMostWork;
  int run = 0;
  std::vector<std::pair<const Shape*, std::future<Case>>> cases;
  unsigned seed = 1;
  for (const Shape& s : shapes()) {
    ++seed;
    if (wanted != nullptr ? !is_named(s, wanted) : s.work() > most_work) continue;
    if (form == MlstmForm::kTiled && (s.initial || s.final)) continue;  // it has no states
    MlstmProblem p;
    p.batch = s.batch, p.tokens = s.tokens, p.heads = s.heads, p.key_dim = s.key_dim,
    p.value_dim = s.value_dim;
    p.dtype = bf16 ? DType::kBFloat16 : DType::kFloat32;
    p.sigmoid_gate = s.sigmoid, p.normalize = s.normalize, p.form = form, p.path = path;
    try {
      mlstm_implementation(p);
    } catch (const Error&) {
      continue;  // not for this form; the count below says whether any was
    }
    cases.emplace_back(&s, std::async(std::launch::async, make_case, s, bf16, seed));
  }
  for (auto& [shape, future] : cases) {
    const Case c = future.get();
    SCOPED_TRACE(shape->name());
    std::string line;
    bool failed = false;
    for (const Result& r : run_case(*shape, c, bf16, form, path)) {
      const bool good = r.error <= r.tolerance;  // false for NaN
      failed = failed || !good;
      EXPECT_TRUE(good) << r.name << ": relative error " << r.error << ", wanted at most "
                        << r.tolerance;
      if (r.name == "rerun") continue;
      char text[96];
      std::snprintf(text, sizeof(text), std::isnan(r.plain) ? " %s %.1e%s/-" : " %s %.1e%s/%.1e",
                    r.name.c_str(), r.error, good ? "" : "!", r.plain);
      line += text;
    }
    std::printf("%s %s %s %-44s%s%s\n", form_name(form), path_name(path), bf16 ? "bf16" : "fp32",
                shape->name().c_str(), line.c_str(), failed ? "  FAILED" : "");
    ++run;
  }
  if (run == 0) GTEST_SKIP() << "no shape of the table is for this form and path";
}

TEST(Mlstm, ShortSm90EqualsReference) { walk(true, MlstmForm::kShort, KernelPath::kSm90); }
TEST(Mlstm, TiledSm90EqualsReference) { walk(true, MlstmForm::kTiled, KernelPath::kSm90); }
TEST(Mlstm, LongSm90EqualsReference) { walk(true, MlstmForm::kLong, KernelPath::kSm90); }
TEST(Mlstm, ShortPortableEqualsReference) { walk(true, MlstmForm::kShort, KernelPath::kPortable); }
TEST(Mlstm, LongPortableEqualsReference) { walk(true, MlstmForm::kLong, KernelPath::kPortable); }
TEST(Mlstm, Float32ShortEqualsReference) { walk(false, MlstmForm::kShort, KernelPath::kPortable); }
TEST(Mlstm, Float32LongEqualsReference) { walk(false, MlstmForm::kLong, KernelPath::kPortable); }

}  // namespace
}  // namespace lram::kernels
