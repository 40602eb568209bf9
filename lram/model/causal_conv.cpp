#include "lram/model/causal_conv.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "lram/core/error.h"
#include "lram/model/optional_tensor.h"
#include "lram/model/token_mask.h"

namespace lram::model {
namespace {
using torch::Tensor;

const bool* row_of(const Tensor& mask, std::int64_t b) {
  return mask.defined() ? mask.const_data_ptr<bool>() + b * mask.size(1) : nullptr;
}

/// Goes through the tokens of a row that count; `rows` holds the K inputs that meet in token t
/// (null before a reset), oldest first, when visit(t) runs. It comes in with the window in its last
/// K-1 places and goes out with the new window there.
template <typename Row, typename RowOf, typename Visit>
void walk(std::int64_t tokens, const bool* valid, const bool* reset, std::vector<Row>& rows,
          const RowOf& row_of_token, const Visit& visit) {
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (valid != nullptr && !valid[t]) continue;
    if (reset != nullptr && reset[t]) std::fill(rows.begin(), rows.end(), Row{});
    std::rotate(rows.begin(), rows.begin() + 1, rows.end());
    rows.back() = row_of_token(t);
    visit(t);
  }
}

class CausalConv : public torch::autograd::Function<CausalConv> {
 public:
  /// Gives y and the new window.
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx,
                                                const Tensor& x_in, const OptionalTensor& window_in,
                                                const Tensor& weight, const OptionalTensor& bias_in,
                                                const OptionalTensor& valid_tokens,
                                                const OptionalTensor& reset_tokens) {
    const Tensor valid = valid_tokens.value_or(Tensor()), reset = reset_tokens.value_or(Tensor());
    const Tensor x = x_in.stride(-1) == 1 ? x_in : x_in.contiguous();
    const std::int64_t batch = x.size(0), tokens = x.size(1), dim = x.size(2);
    const std::int64_t taps = weight.size(2);
    const Tensor w = weight.view({dim, taps}).t().contiguous();
    const Tensor window = window_in ? window_in->contiguous() : Tensor();
    const Tensor bias = bias_in ? bias_in->contiguous() : at::zeros({dim}, w.options());
    const Tensor y = valid.defined() ? at::zeros({batch, tokens, dim}, x.options())
                                     : at::empty({batch, tokens, dim}, x.options());
    const Tensor last = at::zeros({batch, taps - 1, dim}, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "causal_conv", [&] {
      const scalar_t* w_data = w.const_data_ptr<scalar_t>();
      const scalar_t* b_data = bias.const_data_ptr<scalar_t>();
      at::parallel_for(0, batch, grain(tokens, dim), [&](std::int64_t first, std::int64_t end) {
        for (std::int64_t b = first; b < end; ++b) {
          const scalar_t* x_row = x.const_data_ptr<scalar_t>() + b * x.stride(0);
          scalar_t* y_row = y.data_ptr<scalar_t>() + b * tokens * dim;
          std::vector<const scalar_t*> rows(static_cast<std::size_t>(taps), nullptr);
          if (window.defined())
            for (std::int64_t j = 1; j < taps; ++j)
              rows[static_cast<std::size_t>(j)] =
                  window.const_data_ptr<scalar_t>() + (b * (taps - 1) + j - 1) * dim;
          walk(
              tokens, row_of(valid, b), row_of(reset, b), rows,
              [&](std::int64_t t) { return x_row + t * x.stride(1); },
              [&](std::int64_t t) {
                scalar_t* out = y_row + t * dim;
                std::copy(b_data, b_data + dim, out);
                for (std::int64_t j = 0; j < taps; ++j) {
                  const scalar_t* in = rows[static_cast<std::size_t>(j)];
                  const scalar_t* tap = w_data + j * dim;
                  if (in == nullptr) continue;
                  for (std::int64_t d = 0; d < dim; ++d) out[d] += tap[d] * in[d];
                }
              });
          for (std::int64_t j = 1; j < taps; ++j) {
            const scalar_t* in = rows[static_cast<std::size_t>(j)];
            if (in != nullptr)
              std::copy(in, in + dim, last.data_ptr<scalar_t>() + (b * (taps - 1) + j - 1) * dim);
          }
        }
      });
    });
    ctx->save_for_backward({x, window, w, valid, reset});
    ctx->saved_data["has_bias"] = bias_in.has_value();
    return {y, last};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &window = saved[1], &w = saved[2], &valid = saved[3],
                 &reset = saved[4];
    const std::int64_t batch = x.size(0), tokens = x.size(1), dim = x.size(2), taps = w.size(0);
    const Tensor dy = grads[0].contiguous(), dlast = grads[1].contiguous();
    const Tensor dx = at::zeros({batch, tokens, dim}, x.options());
    const Tensor dwindow = at::zeros({batch, taps - 1, dim}, x.options());
    const Tensor dw = at::zeros({batch, taps + 1, dim}, x.options());  // the bias in the last row
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "causal_conv_backward", [&] {
      struct Row {
        const scalar_t* x = nullptr;
        scalar_t* dx = nullptr;
      };
      const scalar_t* w_data = w.const_data_ptr<scalar_t>();
      at::parallel_for(0, batch, grain(tokens, dim), [&](std::int64_t first, std::int64_t end) {
        const std::vector<scalar_t> zeros(static_cast<std::size_t>(dim), 0);
        for (std::int64_t b = first; b < end; ++b) {
          const scalar_t* x_row = x.const_data_ptr<scalar_t>() + b * x.stride(0);
          scalar_t* dx_row = dx.data_ptr<scalar_t>() + b * tokens * dim;
          scalar_t* dw_row = dw.data_ptr<scalar_t>() + b * (taps + 1) * dim;
          std::vector<Row> rows(static_cast<std::size_t>(taps));
          for (std::int64_t j = 1; j < taps; ++j) {
            const std::int64_t offset = (b * (taps - 1) + j - 1) * dim;
            rows[static_cast<std::size_t>(j)] = {
                window.defined() ? window.const_data_ptr<scalar_t>() + offset : zeros.data(),
                dwindow.data_ptr<scalar_t>() + offset};
          }
          walk(
              tokens, row_of(valid, b), row_of(reset, b), rows,
              [&](std::int64_t t) {
                return Row{x_row + t * x.stride(1), dx_row + t * dim};
              },
              [&](std::int64_t t) {
                const scalar_t* g = dy.const_data_ptr<scalar_t>() + (b * tokens + t) * dim;
                scalar_t* dbias = dw_row + taps * dim;
                for (std::int64_t d = 0; d < dim; ++d) dbias[d] += g[d];
                for (std::int64_t j = 0; j < taps; ++j) {
                  const Row& row = rows[static_cast<std::size_t>(j)];
                  if (row.x == nullptr) continue;
                  const scalar_t* tap = w_data + j * dim;
                  scalar_t* dtap = dw_row + j * dim;
                  for (std::int64_t d = 0; d < dim; ++d) {
                    row.dx[d] += tap[d] * g[d];
                    dtap[d] += row.x[d] * g[d];
                  }
                }
              });
          for (std::int64_t j = 1; j < taps; ++j) {
            const Row& row = rows[static_cast<std::size_t>(j)];
            const scalar_t* g = dlast.const_data_ptr<scalar_t>() + (b * (taps - 1) + j - 1) * dim;
            if (row.x == nullptr) continue;
            for (std::int64_t d = 0; d < dim; ++d) row.dx[d] += g[d];
          }
        }
      });
    });
    const Tensor dw_sum = dw.sum(0);
    return {dx,
            window.defined() ? dwindow : Tensor(),
            dw_sum.narrow(0, 0, taps).t().reshape({dim, 1, taps}),
            ctx->saved_data["has_bias"].toBool() ? dw_sum.select(0, taps) : Tensor(),
            {},
            {}};
  }

 private:
  static std::int64_t grain(std::int64_t tokens, std::int64_t dim) {
    return std::max<std::int64_t>(1, 16384 / (tokens * dim));
  }
};

void check_shapes(const Tensor& x, const Tensor& window, const Tensor& weight) {
  LRAM_CHECK(
      x.dim() == 3 && weight.dim() == 3 && weight.size(0) == x.size(2) && weight.size(1) == 1,
      "causal_conv: x is ", x.sizes().vec(), ", weight ", weight.sizes().vec(),
      ", wanted [B, T, D] and [D, 1, K]");
  LRAM_CHECK(!window.defined() ||
                 window.sizes() == at::IntArrayRef({x.size(0), weight.size(2) - 1, x.size(2)}),
             "causal_conv: window is ", window.sizes().vec(), ", wanted [", x.size(0), ", ",
             weight.size(2) - 1, ", ", x.size(2), "]");
}

}  // namespace

CausalConvOutput causal_conv(const Tensor& x, const Tensor& window, const Tensor& weight,
                             const Tensor& bias, const SequenceMask& mask) {
  if (!x.device().is_cpu() || x.scalar_type() != weight.scalar_type())
    return causal_conv_reference(x, window, weight, bias, mask);
  check_shapes(x, window, weight);
  const TokenMask tokens = resolve_mask(mask, x.size(0), x.size(1));
  const auto dense = [](const Tensor& m) { return optional(m.defined() ? m.contiguous() : m); };
  auto out = CausalConv::apply(x, optional(window), weight, optional(bias), dense(tokens.valid),
                               dense(tokens.reset));
  return {out[0], out[1]};
}

CausalConvOutput causal_conv_reference(const Tensor& x, const Tensor& window, const Tensor& weight,
                                       const Tensor& bias, const SequenceMask& mask) {
  check_shapes(x, window, weight);
  const std::int64_t batch = x.size(0), tokens = x.size(1), dim = x.size(2);
  const std::int64_t past = weight.size(2) - 1;
  const TokenMask resolved = resolve_mask(mask, batch, tokens);

  // The inputs on one line, the window right before the first token that counts.
  Tensor line = at::cat({window.defined() ? window : at::zeros({batch, past, dim}, x.options()),
                         zero_masked(x, resolved.valid)},
                        1);
  Tensor last = line.narrow(1, tokens, past);
  Tensor last_index;  // [B, K-1] places of the new window on the line
  if (resolved.valid.defined()) {
    const Tensor step = torch::arange(past, torch::dtype(torch::kLong).device(x.device()));
    const Tensor count = resolved.valid.sum(1, /*keepdim=*/true);
    const Tensor begin = std::get<1>(resolved.valid.max(1, /*keepdim=*/true));  // 0 where empty
    const auto places = [&](const Tensor& index) {
      return index.unsqueeze(-1).expand({batch, past, dim});
    };
    const Tensor first = line.narrow(1, 0, past);
    line = at::cat({at::zeros_like(first), line.narrow(1, past, tokens)}, 1)
               .scatter(1, places(begin + step), first);
    last_index = begin + count + step;
    last = line.gather(1, places(last_index));
  }
  Tensor segment;
  if (resolved.reset.defined()) {
    segment = at::constant_pad_nd(resolved.reset.cumsum(1), {past, 0});
    const Tensor at_last =
        last_index.defined() ? segment.gather(1, last_index) : segment.narrow(1, tokens, past);
    last = last.masked_fill(
        at_last.ne(segment.select(1, tokens + past - 1).unsqueeze(1)).unsqueeze(-1), 0);
  }
  Tensor y = bias.defined() ? bias : at::zeros({dim}, x.options());
  for (std::int64_t j = 0; j <= past; ++j) {
    Tensor input = line.narrow(1, j, tokens);
    if (segment.defined())
      input = input.masked_fill(
          segment.narrow(1, j, tokens).ne(segment.narrow(1, past, tokens)).unsqueeze(-1), 0);
    y = y + weight.select(2, j).squeeze(1) * input;
  }
  return {zero_masked(y, resolved.valid), last};
}

}  // namespace lram::model
