#include "lram/model/selective_scan.h"

#include <ATen/Dispatch.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

#include "lram/core/error.h"
#include "lram/model/cell_loop.h"
#include "lram/model/optional_tensor.h"
#include "lram/model/token_mask.h"

namespace lram::model {
namespace {
using torch::Tensor;

struct Inputs {
  Tensor u, dt, a, b, c, d, state;
};

struct ScanSizes {
  std::int64_t batch, tokens, channels, states;
  std::int64_t row() const { return channels * states; }
};

ScanSizes sizes_of(const Inputs& in) {
  return {in.u.size(0), in.u.size(1), in.a.size(0), in.a.size(1)};
}

/// exp(dt a) of one row, [T, I, N]: LibTorch's exp works on vectors, the C library's does not.
Tensor decays(const Tensor& dt_row, const Tensor& a) { return dt_row.unsqueeze(-1).mul(a).exp_(); }

/// One row forward. `history` [T][I][N]: null, or room for every h_t. `state` [I][N]: before, then
/// after.
template <typename T>
void forward_row(const ScanSizes& size, const T* u, const T* dt, const T* b, const T* c, const T* d,
                 const T* decay, const bool* valid, const bool* reset, T* state, T* y, T* history) {
  const std::int64_t n_states = size.states;
  for (std::int64_t t = 0; t < size.tokens; ++t) {
    if (valid != nullptr && !valid[t]) continue;
    if (reset != nullptr && reset[t]) std::fill_n(state, size.row(), T(0));
    const T *bt = b + t * n_states, *ct = c + t * n_states;
    for (std::int64_t i = 0; i < size.channels; ++i) {
      const std::int64_t at = t * size.channels + i;
      const T input = dt[at] * u[at];
      const T* keep = decay + at * n_states;
      T* h = state + i * n_states;
      T sum = 0;
      for (std::int64_t n = 0; n < n_states; ++n) {
        h[n] = keep[n] * h[n] + input * bt[n];
        sum += ct[n] * h[n];
      }
      if (y != nullptr) y[at] = sum + d[i] * u[at];
    }
    if (history != nullptr) std::copy_n(state, size.row(), history + t * size.row());
  }
}

/// The way back of one row. `dstate` [I][N]: gradient of the state after, then of that before. The
/// gradients of a and d add up over the tokens.
template <typename T>
void backward_row(const ScanSizes& size, const T* u, const T* dt, const T* a, const T* b,
                  const T* c, const T* d, const T* decay, const bool* valid, const bool* reset,
                  const T* first_state, const T* history, const T* dy, T* dstate, T* du, T* ddt,
                  T* da, T* db, T* dc, T* dd) {
  const std::int64_t n_states = size.states;
  std::vector<std::int64_t> order;
  for (std::int64_t t = 0; t < size.tokens; ++t)
    if (valid == nullptr || valid[t]) order.push_back(t);
  for (std::size_t k = order.size(); k-- > 0;) {
    const std::int64_t t = order[k];
    const bool cut = reset != nullptr && reset[t];
    const T* previous = k > 0 ? history + order[k - 1] * size.row() : first_state;
    const T *bt = b + t * n_states, *ct = c + t * n_states;
    T *dbt = db + t * n_states, *dct = dc + t * n_states;
    for (std::int64_t i = 0; i < size.channels; ++i) {
      const std::int64_t at = t * size.channels + i;
      const T *keep = decay + at * n_states, *h = history + at * n_states;
      const T *old = previous + i * n_states, *ai = a + i * n_states;
      T *dh = dstate + i * n_states, *dai = da + i * n_states;
      const T input = dt[at] * u[at], dy_at = dy[at], past = cut ? 0 : 1;
      T dinput = 0, dstep = 0;
      for (std::int64_t n = 0; n < n_states; ++n) {
        const T g = dh[n] + dy_at * ct[n];
        dct[n] += dy_at * h[n];
        dbt[n] += g * input;
        dinput += g * bt[n];
        const T through = past * g * keep[n];
        const T exponent = through * old[n];  // gradient of dt a
        dstep += exponent * ai[n];
        dai[n] += exponent * dt[at];
        dh[n] = through;
      }
      du[at] = dinput * dt[at] + dy_at * d[i];
      ddt[at] = dinput * u[at] + dstep;
      dd[i] += dy_at * u[at];
    }
  }
}

class Scan : public torch::autograd::Function<Scan> {
 public:
  /// All contiguous. Gives y and the last state.
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx,
                                                const Tensor& u, const Tensor& dt, const Tensor& a,
                                                const Tensor& b, const Tensor& c, const Tensor& d,
                                                const Tensor& state,
                                                const OptionalTensor& valid_tokens,
                                                const OptionalTensor& reset_tokens) {
    const Tensor valid = valid_tokens.value_or(Tensor()), reset = reset_tokens.value_or(Tensor());
    const Inputs in = {u, dt, a, b, c, d, state};
    const ScanSizes size = sizes_of(in);
    const Tensor y = at::zeros_like(u), last = state.clone();
    AT_DISPATCH_FLOATING_TYPES(u.scalar_type(), "selective_scan", [&] {
      at::parallel_for(0, size.batch, 1, [&](std::int64_t begin, std::int64_t end) {
        const torch::NoGradGuard no_grad;
        for (std::int64_t row = begin; row < end; ++row) {
          const Tensor decay = decays(dt[row], a);
          forward_row<scalar_t>(size, at_row<scalar_t>(u, row), at_row<scalar_t>(dt, row),
                                at_row<scalar_t>(b, row), at_row<scalar_t>(c, row),
                                d.const_data_ptr<scalar_t>(), decay.const_data_ptr<scalar_t>(),
                                mask_row(valid, row), mask_row(reset, row),
                                row_of<scalar_t>(last, row), row_of<scalar_t>(y, row), nullptr);
        }
      });
    });
    ctx->save_for_backward({u, dt, a, b, c, d, state, valid, reset});
    return {y, last};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto s = ctx->get_saved_variables();
    const Inputs in = {s[0], s[1], s[2], s[3], s[4], s[5], s[6]};
    const Tensor &valid = s[7], &reset = s[8];
    const ScanSizes size = sizes_of(in);
    const Tensor dy = grads[0].contiguous();
    const Tensor dstate = grads[1].clone(at::MemoryFormat::Contiguous);
    const Tensor du = at::zeros_like(in.u), ddt = at::zeros_like(in.dt);
    const Tensor db = at::zeros_like(in.b), dc = at::zeros_like(in.c);
    const Tensor da = at::zeros({size.batch, size.channels, size.states}, in.a.options());
    const Tensor dd = at::zeros({size.batch, size.channels}, in.d.options());
    AT_DISPATCH_FLOATING_TYPES(in.u.scalar_type(), "selective_scan_backward", [&] {
      at::parallel_for(0, size.batch, 1, [&](std::int64_t begin, std::int64_t end) {
        const torch::NoGradGuard no_grad;
        for (std::int64_t row = begin; row < end; ++row) {
          // The states once more, for this row alone: all rows' would be [B, T, I, N].
          const Tensor decay = decays(in.dt[row], in.a), history = at::empty_like(decay);
          const Tensor now = in.state[row].clone();
          forward_row<scalar_t>(size, at_row<scalar_t>(in.u, row), at_row<scalar_t>(in.dt, row),
                                at_row<scalar_t>(in.b, row), at_row<scalar_t>(in.c, row),
                                in.d.const_data_ptr<scalar_t>(), decay.const_data_ptr<scalar_t>(),
                                mask_row(valid, row), mask_row(reset, row),
                                now.data_ptr<scalar_t>(), nullptr, history.data_ptr<scalar_t>());
          backward_row<scalar_t>(
              size, at_row<scalar_t>(in.u, row), at_row<scalar_t>(in.dt, row),
              in.a.const_data_ptr<scalar_t>(), at_row<scalar_t>(in.b, row),
              at_row<scalar_t>(in.c, row), in.d.const_data_ptr<scalar_t>(),
              decay.const_data_ptr<scalar_t>(), mask_row(valid, row), mask_row(reset, row),
              at_row<scalar_t>(in.state, row), history.const_data_ptr<scalar_t>(),
              at_row<scalar_t>(dy, row), row_of<scalar_t>(dstate, row), row_of<scalar_t>(du, row),
              row_of<scalar_t>(ddt, row), row_of<scalar_t>(da, row), row_of<scalar_t>(db, row),
              row_of<scalar_t>(dc, row), row_of<scalar_t>(dd, row));
        }
      });
    });
    return {du, ddt, da.sum(0), db, dc, dd.sum(0), dstate, {}, {}};
  }

 private:
  template <typename T>
  static const T* at_row(const Tensor& x, std::int64_t row) {
    return x.const_data_ptr<T>() + row * x.stride(0);
  }
  template <typename T>
  static T* row_of(const Tensor& x, std::int64_t row) {
    return x.data_ptr<T>() + row * x.stride(0);
  }
};

Inputs checked(const Tensor& u, const Tensor& dt, const Tensor& a, const Tensor& b, const Tensor& c,
               const Tensor& d, const Tensor& state) {
  LRAM_CHECK(u.dim() == 3 && u.size(1) > 0 && dt.sizes() == u.sizes(), "selective scan: u is ",
             u.sizes().vec(), ", dt ", dt.sizes().vec(), ", wanted [B, T, I] twice");
  LRAM_CHECK(a.dim() == 2 && a.size(0) == u.size(2) && d.sizes() == at::IntArrayRef({a.size(0)}),
             "selective scan: a is ", a.sizes().vec(), ", d ", d.sizes().vec(), ", wanted [",
             u.size(2), ", N] and [", u.size(2), "]");
  for (const Tensor& x : {b, c})
    LRAM_CHECK(x.sizes() == at::IntArrayRef({u.size(0), u.size(1), a.size(1)}),
               "selective scan: b or c is ", x.sizes().vec(), ", wanted [", u.size(0), ", ",
               u.size(1), ", ", a.size(1), "]");
  LRAM_CHECK(
      !state.defined() || state.sizes() == at::IntArrayRef({u.size(0), a.size(0), a.size(1)}),
      "selective scan: state is ", state.sizes().vec(), ", wanted [", u.size(0), ", ", a.size(0),
      ", ", a.size(1), "]");
  const auto dtype = u.scalar_type() == torch::kDouble ? torch::kDouble : torch::kFloat;
  return {u.to(dtype),
          dt.to(dtype),
          a.to(dtype),
          b.to(dtype),
          c.to(dtype),
          d.to(dtype),
          state.defined() ? state.to(dtype)
                          : at::zeros({u.size(0), a.size(0), a.size(1)}, u.options().dtype(dtype))};
}

}  // namespace

SelectiveScanOutput selective_scan(const Tensor& u, const Tensor& dt, const Tensor& a,
                                   const Tensor& b, const Tensor& c, const Tensor& d,
                                   const Tensor& state, const SequenceMask& mask) {
  if (!u.device().is_cpu()) return selective_scan_reference(u, dt, a, b, c, d, state, mask);
  const Inputs in = checked(u, dt, a, b, c, d, state);
  const TokenMask tokens = resolve_mask(mask, u.size(0), u.size(1));
  const auto dense = [](const Tensor& x) { return x.defined() ? x.contiguous() : x; };
  // A masked dt may hold anything; its decay is computed and not used.
  const auto out =
      Scan::apply(dense(in.u), dense(in.dt), dense(in.a), dense(in.b), dense(in.c), dense(in.d),
                  dense(in.state), optional(dense(tokens.valid)), optional(dense(tokens.reset)));
  return {out[0], out[1]};
}

SelectiveScanOutput selective_scan_reference(const Tensor& u_in, const Tensor& dt_in,
                                             const Tensor& a_in, const Tensor& b_in,
                                             const Tensor& c_in, const Tensor& d_in,
                                             const Tensor& state_in, const SequenceMask& mask) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const Inputs in = checked(u_in, dt_in, a_in, b_in, c_in, d_in, state_in);
  const TokenMask tokens = resolve_mask(mask, u_in.size(0), u_in.size(1));
  const std::int64_t length = in.u.size(1);
  const Tensor u = zero_masked(in.u, tokens.valid), b = zero_masked(in.b, tokens.valid),
               c = zero_masked(in.c, tokens.valid);
  const Tensor dt = zero_masked(in.dt, tokens.valid);  // exp(0) = 1: such a token keeps the state
  Tensor keep = dt.unsqueeze(-1).mul(in.a).exp();      // [B, T, I, N]
  if (tokens.reset.defined()) keep = keep.masked_fill(tokens.reset.unsqueeze(-1).unsqueeze(-1), 0);
  // (keep, h) of token t stands for h -> keep h + h_t of the tokens up to t; each round joins it
  // with as many tokens before as it has itself.
  Tensor h = (dt * u).unsqueeze(-1) * b.unsqueeze(2);
  for (std::int64_t reach = 1; reach < length; reach *= 2) {
    const std::int64_t rest = length - reach;
    const Tensor later = keep.narrow(1, reach, rest);
    h = at::cat({h.narrow(1, 0, reach), h.narrow(1, reach, rest) + later * h.narrow(1, 0, rest)},
                1);
    keep = at::cat({keep.narrow(1, 0, reach), later * keep.narrow(1, 0, rest)}, 1);
  }
  h = h + keep * in.state.unsqueeze(1);
  const Tensor y = (h * c.unsqueeze(2)).sum(-1) + u * in.d;
  return {zero_masked(y, tokens.valid), h.select(1, length - 1)};
}

}  // namespace lram::model
