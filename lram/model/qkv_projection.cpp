#include "lram/model/qkv_projection.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "lram/model/block_linear.h"

namespace lram::model {
namespace {
using torch::Tensor;

constexpr std::int64_t kSize = 4;
constexpr std::int64_t kSlices = 16;  // of the sum over rows, whatever the number of threads
constexpr std::int64_t kTile = 8;     // rows that stay in cache while blocks take turns

/// Four numbers in a row, read and written in place; the compiler picks the instructions.
template <typename Scalar>
using Four
    __attribute__((vector_size(kSize * sizeof(Scalar)), aligned(alignof(Scalar)), may_alias)) =
        Scalar;

/// Rows of a matrix whose columns are contiguous.
template <typename Scalar>
struct Rows {
  Scalar* data;
  std::int64_t stride;
  Scalar* operator[](std::int64_t n) const { return data + n * stride; }
};

/// y[n, 4g + o] (+)= sum_i matrix[g][i][o] x[n, 4g + i] for rows [first, end).
template <typename Scalar>
void multiply(Rows<const Scalar> x, const Scalar* matrix, Rows<Scalar> y, std::int64_t groups,
              std::int64_t first, std::int64_t end, bool add) {
  using Vector = Four<Scalar>;
  for (std::int64_t n = first; n < end; ++n) {
    const auto* m = reinterpret_cast<const Vector*>(matrix);
    const Scalar* in = x[n];
    auto* out = reinterpret_cast<Vector*>(y[n]);
    for (std::int64_t g = 0; g < groups; ++g, m += kSize, in += kSize, ++out) {
      const Vector sum = m[0] * in[0] + m[1] * in[1] + m[2] * in[2] + m[3] * in[3];
      *out = add ? *out + sum : sum;
    }
  }
}

/// dw[g][o][i] += sum_n dy[n, 4g + o] x[n, 4g + i] for rows [first, end).
template <typename Scalar>
void outer(Rows<const Scalar> x, Rows<const Scalar> dy, Scalar* dw, std::int64_t groups,
           std::int64_t first, std::int64_t end) {
  using Vector = Four<Scalar>;
  for (std::int64_t tile = first; tile < end; tile += kTile) {
    for (std::int64_t g = 0; g < groups; ++g) {
      auto* sum = reinterpret_cast<Vector*>(dw) + g * kSize;
      Vector a = sum[0], b = sum[1], c = sum[2], d = sum[3];
      for (std::int64_t n = tile; n < std::min(tile + kTile, end); ++n) {
        const Vector in = reinterpret_cast<const Vector*>(x[n])[g];
        const Scalar* out = dy[n] + g * kSize;
        a += in * out[0];
        b += in * out[1];
        c += in * out[2];
        d += in * out[3];
      }
      sum[0] = a, sum[1] = b, sum[2] = c, sum[3] = d;
    }
  }
}

template <typename Scalar>
Rows<const Scalar> rows_of(const Tensor& x) {
  return {x.const_data_ptr<Scalar>(), x.stride(0)};
}

class FourByFour : public torch::autograd::Function<FourByFour> {
 public:
  /// conv, plain: [N, I], unit stride within a row; weights [I/4, 4, 4]. Gives [N, 3I].
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& conv,
                        const Tensor& plain, const Tensor& wq, const Tensor& wk, const Tensor& wv) {
    const std::int64_t rows = conv.size(0), inner = conv.size(1), groups = inner / kSize;
    const Tensor out = at::empty({rows, 3 * inner}, conv.options());
    const Tensor by_input = at::stack({wq, wk, wv}).transpose(2, 3).contiguous();
    AT_DISPATCH_FLOATING_TYPES(conv.scalar_type(), "qkv_projection", [&] {
      const scalar_t* matrix = by_input.const_data_ptr<scalar_t>();
      at::parallel_for(0, rows, grain(inner), [&](std::int64_t first, std::int64_t end) {
        for (std::int64_t part = 0; part < 3; ++part)
          multiply<scalar_t>(rows_of<scalar_t>(part < 2 ? conv : plain),
                             matrix + part * inner * kSize,
                             {out.data_ptr<scalar_t>() + part * inner, 3 * inner}, groups, first,
                             end, /*add=*/false);
      });
    });
    ctx->save_for_backward({conv, plain, wq, wk, wv});
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &conv = saved[0], &plain = saved[1];
    const Tensor matrix = at::stack({saved[2], saved[3], saved[4]});
    const Tensor dy = grads[0].contiguous();
    const std::int64_t rows = conv.size(0), inner = conv.size(1), groups = inner / kSize;
    const Tensor dconv = at::empty({rows, inner}, dy.options());
    const Tensor dplain = at::empty({rows, inner}, dy.options());
    const Tensor parts = at::zeros({kSlices, 3, groups, kSize, kSize}, dy.options());
    AT_DISPATCH_FLOATING_TYPES(dy.scalar_type(), "qkv_projection_backward", [&] {
      const scalar_t* m = matrix.const_data_ptr<scalar_t>();
      at::parallel_for(0, kSlices, 1, [&](std::int64_t first_slice, std::int64_t end_slice) {
        for (std::int64_t slice = first_slice; slice < end_slice; ++slice) {
          const std::int64_t first = rows * slice / kSlices, end = rows * (slice + 1) / kSlices;
          for (std::int64_t part = 0; part < 3; ++part) {
            const Rows<const scalar_t> dy_part = {dy.const_data_ptr<scalar_t>() + part * inner,
                                                  3 * inner};
            const Tensor& dx = part < 2 ? dconv : dplain;
            multiply<scalar_t>(dy_part, m + part * inner * kSize, {dx.data_ptr<scalar_t>(), inner},
                               groups, first, end, /*add=*/part == 1);
            outer<scalar_t>(rows_of<scalar_t>(part < 2 ? conv : plain), dy_part,
                            parts.data_ptr<scalar_t>() + (slice * 3 + part) * inner * kSize, groups,
                            first, end);
          }
        }
      });
    });
    const auto dw = parts.sum(0).unbind(0);
    return {dconv, dplain, dw[0], dw[1], dw[2]};
  }

 private:
  static std::int64_t grain(std::int64_t inner) { return std::max<std::int64_t>(1, 8192 / inner); }
};

}  // namespace

Tensor qkv_projection(const Tensor& conv, const Tensor& plain, const std::array<Tensor, 3>& weights,
                      const std::array<Tensor, 3>& biases) {
  const bool own_loop =
      conv.device().is_cpu() && weights[0].size(1) == kSize &&
      conv.scalar_type() == weights[0].scalar_type() &&
      plain.scalar_type() == conv.scalar_type() &&  // autocast rounds one of them alone
      (conv.scalar_type() == torch::kFloat || conv.scalar_type() == torch::kDouble);
  if (!own_loop) return qkv_projection_reference(conv, plain, weights, biases);
  const auto rows = [](const Tensor& x) {
    const Tensor flat = x.flatten(0, -2);
    return flat.stride(-1) == 1 ? flat : flat.contiguous();
  };
  Tensor out = FourByFour::apply(rows(conv), rows(plain), weights[0], weights[1], weights[2]);
  std::vector<std::int64_t> shape = conv.sizes().vec();
  shape.back() *= 3;
  out = out.view(shape);
  return biases[0].defined() ? out + at::cat({biases[0], biases[1], biases[2]}) : out;
}

Tensor qkv_projection_reference(const Tensor& conv, const Tensor& plain,
                                const std::array<Tensor, 3>& weights,
                                const std::array<Tensor, 3>& biases) {
  return at::cat(
      {block_linear(conv, weights[0], biases[0]), block_linear(conv, weights[1], biases[1]),
       block_linear(plain, weights[2], biases[2])},
      -1);
}

}  // namespace lram::model
