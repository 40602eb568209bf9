#include "lram/model/block_linear.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "lram/core/error.h"

namespace lram::model {
namespace {
using torch::Tensor;

constexpr std::int64_t kSize = 4;
constexpr std::int64_t kSlices = 16;  // of the sum over rows, whatever the number of threads

/// y[n, 4g + o] = sum_i matrix[g][i][o] x[n, 4g + i], for rows x of the given stride.
template <typename Scalar>
void multiply(const Scalar* x, std::int64_t stride, const Scalar* matrix, Scalar* y,
              std::int64_t rows, std::int64_t groups) {
  const std::int64_t grain = std::max<std::int64_t>(1, 8192 / (groups * kSize));
  at::parallel_for(0, rows, grain, [&](std::int64_t first, std::int64_t end) {
    for (std::int64_t n = first; n < end; ++n) {
      for (std::int64_t g = 0; g < groups; ++g) {
        const Scalar* in = x + n * stride + g * kSize;
        const Scalar* m = matrix + g * kSize * kSize;
        Scalar* out = y + (n * groups + g) * kSize;
        for (std::int64_t o = 0; o < kSize; ++o)
          out[o] = m[o] * in[0] + m[kSize + o] * in[1] + m[2 * kSize + o] * in[2] +
                   m[3 * kSize + o] * in[3];
      }
    }
  });
}

class FourByFour : public torch::autograd::Function<FourByFour> {
 public:
  /// x: [N, 4G], unit stride within a row; weight [G, 4, 4].
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x,
                        const Tensor& weight) {
    const Tensor y = at::empty({x.size(0), x.size(1)}, x.options());
    const Tensor by_input = weight.transpose(1, 2).contiguous();
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "block_linear", [&] {
      multiply(x.const_data_ptr<scalar_t>(), x.stride(0), by_input.const_data_ptr<scalar_t>(),
               y.data_ptr<scalar_t>(), x.size(0), weight.size(0));
    });
    ctx->save_for_backward({x, weight});
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], weight = saved[1].contiguous(), dy = grads[0].contiguous();
    const std::int64_t rows = x.size(0), groups = weight.size(0);
    const Tensor dx = at::empty({rows, groups * kSize}, x.options());
    const Tensor parts = at::zeros({kSlices, groups, kSize, kSize}, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "block_linear_backward", [&] {
      const scalar_t* dy_data = dy.const_data_ptr<scalar_t>();
      multiply(dy_data, groups * kSize, weight.const_data_ptr<scalar_t>(), dx.data_ptr<scalar_t>(),
               rows, groups);
      at::parallel_for(0, kSlices, 1, [&](std::int64_t first, std::int64_t end) {
        for (std::int64_t slice = first; slice < end; ++slice) {
          scalar_t* dw = parts.data_ptr<scalar_t>() + slice * groups * kSize * kSize;
          for (std::int64_t n = rows * slice / kSlices; n < rows * (slice + 1) / kSlices; ++n) {
            for (std::int64_t g = 0; g < groups; ++g) {
              const scalar_t* in = x.const_data_ptr<scalar_t>() + n * x.stride(0) + g * kSize;
              const scalar_t* out = dy_data + (n * groups + g) * kSize;
              scalar_t* sum = dw + g * kSize * kSize;
              for (std::int64_t o = 0; o < kSize; ++o)
                for (std::int64_t i = 0; i < kSize; ++i) sum[o * kSize + i] += out[o] * in[i];
            }
          }
        }
      });
    });
    return {dx, parts.sum(0)};
  }
};

}  // namespace

Tensor block_linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const std::int64_t groups = weight.size(0), out = weight.size(1), in = weight.size(2);
  LRAM_CHECK(x.size(-1) == groups * in, "block_linear: x is ", x.sizes().vec(), ", weight ",
             weight.sizes().vec(), ", wanted a last size of ", groups * in);
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = groups * out;
  const Tensor rows = x.reshape({-1, groups * in});
  Tensor y;
  if (x.device().is_cpu() && in == kSize && out == kSize &&
      x.scalar_type() == weight.scalar_type() && x.is_floating_point()) {
    y = FourByFour::apply(rows.stride(1) == 1 ? rows : rows.contiguous(), weight);
  } else {
    y = at::matmul(rows.view({-1, groups, in}).transpose(0, 1), weight.transpose(1, 2))
            .transpose(0, 1);
  }
  y = y.reshape(shape);
  return bias.defined() ? y + bias : y;
}

}  // namespace lram::model
