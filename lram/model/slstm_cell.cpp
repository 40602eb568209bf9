#include "lram/model/slstm_cell.h"

#include <ATen/Dispatch.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

#include "lram/core/error.h"
#include "lram/model/cell_loop.h"
#include "lram/model/optional_tensor.h"
#include "lram/model/token_mask.h"

// The gates of a unit, their order in memory and the backward: kernels.md 1.1.

namespace lram::model {
namespace {
using torch::Tensor;

// What the forward loop keeps for the backward, rows of [B, T, kKept, D].
enum Kept {
  kInput,
  kForget,
  kForgetSlope,
  kZ,
  kOutput,
  kC,
  kN,
  kPreviousH,
  kPreviousC,
  kPreviousN,
  kKept
};

// As hyperbolic_tangent: through float64.
template <typename Scalar>
Scalar log_one_plus(Scalar x) {
  if constexpr (std::is_same_v<Scalar, double>) return std::log1p(x);
  return static_cast<Scalar>(std::log(1.0 + x));
}

/// One head of one row, forward through all tokens. Pointers are at the head's first unit; rows of
/// `gates` have 4D numbers, of `h_out` D, of `kept` kKept * D (null: keep nothing). `state` [4][D]
/// comes in as the state before and goes out as the state after. `recurrent`: [d][4d], from inputs
/// to gates. `sums`: room for 4d.
template <typename Scalar>
void forward_head(const HeadSizes& size, const Scalar* gates, const Scalar* recurrent,
                  const Scalar* bias, const bool* valid, const bool* reset, Scalar* state,
                  Scalar* h_out, Scalar* kept, Scalar* sums) {
  const std::int64_t unit = size.unit, dim = size.dim();
  Scalar *h = state, *c = state + dim, *n = state + 2 * dim, *m = state + 3 * dim;
  for (std::int64_t t = 0; t < size.tokens; ++t) {
    if (valid != nullptr && !valid[t]) continue;
    const bool cut = reset != nullptr && reset[t];
    if (cut)
      for (int row = 0; row < 4; ++row) std::fill_n(state + row * dim, unit, Scalar(0));
    for (int gate = 0; gate < 4; ++gate)
      for (std::int64_t j = 0; j < unit; ++j)
        sums[gate * unit + j] = gates[(t * 4 + gate) * dim + j] + bias[gate * dim + j];
    add_rows(recurrent, h, unit, 4 * unit, sums);
    for (std::int64_t j = 0; j < unit; ++j) {
      const Scalar i = sums[j], f = sums[unit + j];
      const Scalar z = hyperbolic_tangent(sums[2 * unit + j]), o = logistic(sums[3 * unit + j]);
      const Scalar tail = std::exp(-std::abs(f));  // log(sigmoid(f)) = min(f, 0) - log(1 + tail)
      const Scalar entry = std::min(f, Scalar(0)) - log_one_plus(tail) + m[j];
      const Scalar now = n[j] == 0 ? i : std::max(entry, i);
      // Where n = 0 only a gradient passes through `keep`; bounded, so that 0 * keep stays 0.
      const Scalar keep = entry == now ? 1 : std::exp(std::min(entry - now, Scalar(80)));
      const Scalar input = i == now ? 1 : std::exp(i - now);
      const Scalar c_now = keep * c[j] + input * z, n_now = keep * n[j] + input;
      if (kept != nullptr) {
        Scalar* row = kept + t * kKept * dim + j;
        row[kInput * dim] = input;
        row[kForget * dim] = cut ? 0 : keep;
        row[kForgetSlope * dim] = (f < 0 ? 1 : tail) / (1 + tail);
        row[kZ * dim] = z;
        row[kOutput * dim] = o;
        row[kC * dim] = c_now;
        row[kN * dim] = n_now;
        row[kPreviousH * dim] = h[j];
        row[kPreviousC * dim] = c[j];
        row[kPreviousN * dim] = n[j];
      }
      c[j] = c_now, n[j] = n_now, m[j] = now;
      h[j] = h_out[t * dim + j] = o * c_now / n_now;
    }
  }
}

/// The way back: `dh` [T][D] gives `dgates` [T][4D]; `dstate` [4][D] comes in as the gradient of
/// the state after and goes out as that of the state before. `recurrent`: [4d][d].
template <typename Scalar>
void backward_head(const HeadSizes& size, const Scalar* kept, const Scalar* recurrent,
                   const Scalar* dh_out, const bool* valid, const bool* reset, Scalar* dstate,
                   Scalar* dgates) {
  const std::int64_t unit = size.unit, dim = size.dim();
  Scalar *dh = dstate, *dc = dstate + dim, *dn = dstate + 2 * dim;
  for (std::int64_t t = size.tokens - 1; t >= 0; --t) {
    if (valid != nullptr && !valid[t]) continue;
    const Scalar* row = kept + t * kKept * dim;
    Scalar* dg = dgates + t * 4 * dim;
    for (std::int64_t j = 0; j < unit; ++j) {
      const Scalar input = row[kInput * dim + j], keep = row[kForget * dim + j];
      const Scalar z = row[kZ * dim + j], o = row[kOutput * dim + j];
      const Scalar n = row[kN * dim + j], h = o * row[kC * dim + j] / n;
      const Scalar dy = dh_out[t * dim + j] + dh[j];
      const Scalar ratio = dy / n;
      const Scalar dc_now = dc[j] + o * ratio, dn_now = dn[j] - h * ratio;
      dg[j] = input * (z * dc_now + dn_now);
      dg[dim + j] = keep * row[kForgetSlope * dim + j] *
                    (row[kPreviousC * dim + j] * dc_now + row[kPreviousN * dim + j] * dn_now);
      dg[2 * dim + j] = input * dc_now * (1 - z * z);
      dg[3 * dim + j] = (1 - o) * h * dy;
      dc[j] = keep * dc_now;
      dn[j] = keep * dn_now;
      dh[j] = 0;
    }
    if (reset != nullptr && reset[t]) continue;
    for (int gate = 0; gate < 4; ++gate)
      add_rows(recurrent + gate * unit * unit, dg + gate * dim, unit, unit, dh);
  }
  std::fill_n(dstate + 3 * dim, unit, Scalar(0));
}

class Slstm : public torch::autograd::Function<Slstm> {
 public:
  /// All contiguous. Gives h and the last state.
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx,
                                                const Tensor& gates, const Tensor& recurrent,
                                                const Tensor& bias, const Tensor& state,
                                                const OptionalTensor& valid_tokens,
                                                const OptionalTensor& reset_tokens,
                                                bool for_backward) {
    const Tensor valid = valid_tokens.value_or(Tensor()), reset = reset_tokens.value_or(Tensor());
    const HeadSizes size = {gates.size(0), gates.size(1), recurrent.size(0), recurrent.size(2)};
    const std::int64_t dim = size.dim();
    const Tensor h = valid.defined() ? at::zeros({size.batch, size.tokens, dim}, gates.options())
                                     : at::empty({size.batch, size.tokens, dim}, gates.options());
    const Tensor last = state.clone();
    const Tensor by_input = recurrent.transpose(1, 2).contiguous();
    const Tensor kept =
        for_backward ? at::zeros({size.batch, size.tokens, kKept, dim}, gates.options()) : Tensor();
    AT_DISPATCH_FLOATING_TYPES(gates.scalar_type(), "slstm", [&] {
      for_heads(size, [&](std::int64_t b, std::int64_t head) {
        std::vector<scalar_t> sums(static_cast<std::size_t>(4 * size.unit));
        const std::int64_t offset = head * size.unit;
        forward_head<scalar_t>(
            size, gates.const_data_ptr<scalar_t>() + b * size.tokens * 4 * dim + offset,
            by_input.const_data_ptr<scalar_t>() + head * 4 * size.unit * size.unit,
            bias.const_data_ptr<scalar_t>() + offset, mask_row(valid, b), mask_row(reset, b),
            last.data_ptr<scalar_t>() + b * 4 * dim + offset,
            h.data_ptr<scalar_t>() + b * size.tokens * dim + offset,
            for_backward ? kept.data_ptr<scalar_t>() + b * size.tokens * kKept * dim + offset
                         : nullptr,
            sums.data());
      });
    });
    if (for_backward) ctx->save_for_backward({recurrent, kept, valid, reset});
    return {h, last};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &recurrent = saved[0], &kept = saved[1], &valid = saved[2], &reset = saved[3];
    const HeadSizes size = {kept.size(0), kept.size(1), recurrent.size(0), recurrent.size(2)};
    const std::int64_t dim = size.dim();
    const Tensor dh = grads[0].contiguous();
    const Tensor dstate = grads[1].clone(at::MemoryFormat::Contiguous);
    const Tensor dgates = at::zeros({size.batch, size.tokens, 4 * dim}, kept.options());
    AT_DISPATCH_FLOATING_TYPES(kept.scalar_type(), "slstm_backward", [&] {
      for_heads(size, [&](std::int64_t b, std::int64_t head) {
        const std::int64_t offset = head * size.unit;
        backward_head<scalar_t>(
            size, kept.const_data_ptr<scalar_t>() + b * size.tokens * kKept * dim + offset,
            recurrent.const_data_ptr<scalar_t>() + head * 4 * size.unit * size.unit,
            dh.const_data_ptr<scalar_t>() + b * size.tokens * dim + offset, mask_row(valid, b),
            mask_row(reset, b), dstate.data_ptr<scalar_t>() + b * 4 * dim + offset,
            dgates.data_ptr<scalar_t>() + b * size.tokens * 4 * dim + offset);
      });
    });
    const std::int64_t all = size.batch * size.tokens;
    const Tensor by_head = dgates.view({all, 4, size.heads, size.unit}).permute({2, 1, 3, 0});
    const Tensor previous =
        kept.select(2, kPreviousH).reshape({all, size.heads, size.unit}).transpose(0, 1);
    const Tensor drecurrent = at::bmm(by_head.reshape({size.heads, 4 * size.unit, all}), previous);
    return {dgates, drecurrent, dgates.sum(at::IntArrayRef({0, 1})), dstate, {}, {}, {}};
  }
};

}  // namespace

SlstmInputs slstm_inputs(const Tensor& gates, const Tensor& recurrent, const Tensor& bias,
                         const Tensor& state, const SequenceMask& mask) {
  LRAM_CHECK(recurrent.dim() == 3 && recurrent.size(1) == 4 * recurrent.size(2),
             "sLSTM: recurrent is ", recurrent.sizes().vec(), ", wanted [H, 4d, d]");
  const std::int64_t dim = recurrent.size(0) * recurrent.size(2);
  LRAM_CHECK(gates.dim() == 3 && gates.size(1) > 0 && gates.size(2) == 4 * dim, "sLSTM: gates is ",
             gates.sizes().vec(), ", wanted [B, T, ", 4 * dim, "]");
  LRAM_CHECK(bias.sizes() == at::IntArrayRef({4 * dim}), "sLSTM: bias is ", bias.sizes().vec(),
             ", wanted [", 4 * dim, "]");
  LRAM_CHECK(!state.defined() || state.sizes() == at::IntArrayRef({gates.size(0), 4, dim}),
             "sLSTM: state is ", state.sizes().vec(), ", wanted [", gates.size(0), ", 4, ", dim,
             "]");
  const auto dtype = gates.scalar_type() == torch::kDouble ? torch::kDouble : torch::kFloat;
  const Tensor x = gates.to(dtype);
  return {x, recurrent.to(dtype), bias.to(dtype),
          state.defined() ? state.to(dtype) : at::zeros({x.size(0), 4, dim}, x.options()),
          resolve_mask(mask, x.size(0), x.size(1))};
}

SlstmOutput slstm_forward(const Tensor& gates, const Tensor& recurrent, const Tensor& bias,
                          const Tensor& state, const SequenceMask& mask) {
  if (!gates.device().is_cpu()) return slstm_operations(gates, recurrent, bias, state, mask);
  const SlstmInputs in = slstm_inputs(gates, recurrent, bias, state, mask);
  const auto dense = [](const Tensor& x) { return x.defined() ? x.contiguous() : x; };
  const bool for_backward =
      torch::GradMode::is_enabled() && (in.gates.requires_grad() || in.recurrent.requires_grad() ||
                                        in.bias.requires_grad() || in.state.requires_grad());
  auto out =
      Slstm::apply(dense(in.gates), dense(in.recurrent), dense(in.bias), dense(in.state),
                   optional(dense(in.mask.valid)), optional(dense(in.mask.reset)), for_backward);
  return {out[0], out[1]};
}

SlstmOutput slstm_reference(const Tensor& gates, const Tensor& recurrent, const Tensor& bias,
                            const Tensor& state, const SequenceMask& mask) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const SlstmInputs in = slstm_inputs(gates, recurrent, bias, state, mask);
  const std::int64_t batch = gates.size(0), tokens = gates.size(1), heads = recurrent.size(0),
                     unit = recurrent.size(2);
  const Tensor x = zero_masked(in.gates, in.mask.valid);
  const Tensor by_input = in.recurrent.transpose(1, 2);
  Tensor h = in.state.select(1, 0), c = in.state.select(1, 1), n = in.state.select(1, 2),
         m = in.state.select(1, 3).detach();
  std::vector<Tensor> all_h;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const Tensor old_h = h, old_c = c, old_n = n, old_m = m;
    if (in.mask.reset.defined()) {
      const Tensor cut = in.mask.reset.select(1, t).unsqueeze(1);
      h = h.masked_fill(cut, 0), c = c.masked_fill(cut, 0), n = n.masked_fill(cut, 0);
      m = m.masked_fill(cut, 0);
    }
    const Tensor mixed = at::bmm(h.view({batch, heads, unit}).transpose(0, 1), by_input)
                             .view({heads, batch, 4, unit})
                             .permute({1, 2, 0, 3})
                             .reshape({batch, 4 * heads * unit});
    const auto gate = (x.select(1, t) + mixed + in.bias).chunk(4, 1);
    const Tensor entry = at::log_sigmoid(gate[1]) + m;
    m = at::where(n == 0, gate[0], at::maximum(entry, gate[0])).detach();
    const Tensor keep = (entry - m).clamp_max(80).exp();
    const Tensor input = (gate[0] - m).exp();
    c = keep * c + input * gate[2].tanh();
    n = keep * n + input;
    h = gate[3].sigmoid() * c / n;
    all_h.push_back(h);
    if (in.mask.valid.defined()) {
      const Tensor counts = in.mask.valid.select(1, t).unsqueeze(1);
      h = at::where(counts, h, old_h), c = at::where(counts, c, old_c);
      n = at::where(counts, n, old_n), m = at::where(counts, m, old_m);
    }
  }
  return {zero_masked(at::stack(all_h, 1), in.mask.valid), at::stack({h, c, n, m}, 1)};
}

}  // namespace lram::model
