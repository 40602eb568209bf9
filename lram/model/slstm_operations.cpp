#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

#include "lram/core/error.h"
#include "lram/model/cell_operations.h"
#include "lram/model/optional_tensor.h"
#include "lram/model/slstm_cell.h"
#include "lram/model/token_mask.h"

// An operation on a token of so small a cell takes a GPU as long as its launch, so what counts is
// how many there are: 12 forward and 7 backward, where LibTorch's own derivatives take some 90. All
// that does not depend on the token after is computed for all tokens at once.

namespace lram::model {
namespace {
using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Tensors are [T, H, B, ., d]. "cells" has the rows c and n, "weights" those of what comes in and
// what is kept.
class SlstmOperations : public torch::autograd::Function<SlstmOperations> {
 public:
  /// gates [B, T, 4D] with the bias, state [B, 4, D], count [B] int64: tokens that count, the
  /// first.
  static variable_list forward(AutogradContext* ctx, const Tensor& gates, const Tensor& recurrent,
                               const Tensor& state, const OptionalTensor& count_of_rows) {
    const std::int64_t batch = gates.size(0), tokens = gates.size(1), heads = recurrent.size(0),
                       unit = recurrent.size(2);
    const Tensor count = count_of_rows.value_or(Tensor());
    const auto empty = [&](at::IntArrayRef shape) { return at::empty(shape, gates.options()); };
    // Becomes what the gates see, then i and the log weight of what is kept.
    const Tensor x = gates.view({batch, tokens, 4, heads, unit})
                         .permute({1, 3, 0, 2, 4})
                         .clone(at::MemoryFormat::Contiguous);
    const Tensor by_input = recurrent.transpose(1, 2);
    const Tensor h = empty({tokens + 1, heads, batch, unit}), m = at::empty_like(h);
    const Tensor cells = empty({tokens + 1, heads, batch, 2, unit});
    const Tensor first = state.view({batch, 4, heads, unit}).permute({1, 2, 0, 3});
    h[0].copy_(first[0]);
    row(cells[0], 0).copy_(first[1]);
    row(cells[0], 1).copy_(first[2]);
    m[0].copy_(first[3]);
    const Tensor log_forget = empty({tokens, heads, batch, unit}),
                 output = at::empty_like(log_forget);
    const Tensor weights = empty({tokens, heads, batch, 2, unit});
    const Tensor values = at::ones_like(weights);  // z for c, 1 for n
    for (std::int64_t t = 0; t < tokens; ++t) {
      const Tensor gate = x[t], weight = weights[t], value = values[t], cell = cells[t + 1];
      gate.view({heads, batch, 4 * unit}).baddbmm_(h[t], by_input);
      Tensor log_kept = log_forget[t], entry = row(gate, 1), now = m[t + 1], next = h[t + 1];
      at::log_sigmoid_out(log_kept, entry);
      at::add_out(entry, log_kept, m[t]);
      at::maximum_out(now, entry, row(gate, 0));
      if (t == 0) now.copy_(at::where(row(cells[0], 1) == 0, row(gate, 0), now));
      Tensor exponent = weight, z = row(value, 0), o = output[t], kept = cell;
      at::sub_out(exponent, rows(gate, 0, 2), now.unsqueeze(-2));
      if (t == 0) exponent.clamp_max_(80);  // a unit with n = 0: only a gradient passes
      exponent.exp_();
      at::tanh_out(z, row(gate, 2));
      at::sigmoid_out(o, row(gate, 3));
      at::mul_out(kept, cells[t], rows(weight, 1, 1));
      kept.addcmul_(value, rows(weight, 0, 1));
      at::div_out(next, row(cell, 0), row(cell, 1));
      next.mul_(o);
    }
    ctx->save_for_backward({recurrent, h, cells, log_forget, output, weights, values, count});
    ctx->set_materialize_grads(false);
    const Tensor last = at::stack({last_of_rows(h, count), last_of_rows(row(cells, 0), count),
                                   last_of_rows(row(cells, 1), count), last_of_rows(m, count)},
                                  1);
    return {after_tokens(h), last};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &recurrent = saved[0], &all_h = saved[1], &cells = saved[2],
                 &log_forget = saved[3], &output = saved[4], &weights = saved[5],
                 &values = saved[6], &count = saved[7];
    const std::int64_t tokens = weights.size(0), heads = weights.size(1), batch = weights.size(2),
                       unit = weights.size(4);
    const Tensor h = all_h.narrow(0, 1, tokens), before = cells.narrow(0, 0, tokens);
    const Tensor n = row(cells, 1).narrow(0, 1, tokens), input = row(weights, 0),
                 z = row(values, 0);
    // What h gives to c and n; what c, n and h give to the gates i, f and z, and h to o.
    const Tensor by_h = at::stack({output / n, -(h / n)}, -2);
    const Tensor slope = -(row(weights, 1) * log_forget.expm1());
    const Tensor by_c =
        at::stack({input * z, slope * row(before, 0), input * (1 - z.square())}, -2);
    const Tensor by_n = at::stack({input, slope * row(before, 1)}, -2);
    const Tensor output_by_h = (1 - output) * h;

    // [B, 4, D] -> [4, H, B, d]
    const Tensor last = grads[1].defined()
                            ? grads[1].view({batch, 4, heads, unit}).permute({1, 2, 0, 3})
                            : Tensor();
    const Tensor last_cells = last.defined() ? at::stack({last[1], last[2]}, -2) : Tensor();
    Tensor dh = at::zeros({heads, batch, unit}, h.options());
    Tensor dcells = at::zeros({heads, batch, 2, unit}, h.options());
    /// The gradient of the last state, in the rows of which it is the state after `t` tokens.
    const auto add_last = [&](std::int64_t t) {
      if (!last.defined() || (!count.defined() && t != tokens)) return;
      if (!count.defined()) {
        dh = dh + last[0], dcells = dcells + last_cells;
        return;
      }
      const Tensor ends = count.eq(t).view({1, batch, 1}).to(h.scalar_type());
      dh = dh + last[0] * ends, dcells = dcells + last_cells * ends.unsqueeze(-1);
    };
    const Tensor given = grads[0].defined() ? tokens_first(grads[0], heads) : at::zeros_like(h);
    const Tensor dgates = at::empty({tokens, heads, batch, 4, unit}, h.options());
    for (std::int64_t t = tokens - 1; t >= 0; --t) {
      add_last(t + 1);
      const Tensor dy = given[t] + dh, dgate = dgates[t];
      dcells = at::addcmul(dcells, by_h[t], dy.unsqueeze(-2));
      Tensor of_cells = rows(dgate, 0, 3), of_output = row(dgate, 3);
      at::mul_out(of_cells, by_c[t], rows(dcells, 0, 1));
      rows(dgate, 0, 2).addcmul_(by_n[t], rows(dcells, 1, 1));
      at::mul_out(of_output, output_by_h[t], dy);
      dh = at::bmm(dgate.view({heads, batch, 4 * unit}), recurrent);
      dcells = dcells * rows(weights[t], 1, 1);
    }
    add_last(0);

    const Tensor dstate = at::stack({dh, row(dcells, 0), row(dcells, 1), at::zeros_like(dh)}, 0)
                              .permute({2, 0, 1, 3})
                              .reshape({batch, 4, heads * unit});
    return {dgates.permute({2, 0, 3, 1, 4}).reshape({batch, tokens, 4 * heads * unit}),
            recurrent_gradient(dgates, all_h),
            dstate,
            {}};
  }
};
}  // namespace

SlstmOutput slstm_operations(const Tensor& gates, const Tensor& recurrent, const Tensor& bias,
                             const Tensor& state, const SequenceMask& mask) {
  if (mask.begin.defined() || mask.reset.defined())
    return slstm_reference(gates, recurrent, bias, state, mask);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const SlstmInputs in = slstm_inputs(gates, recurrent, bias, state, mask);
  Tensor count;
  if (in.mask.valid.defined()) count = in.mask.valid.sum(1);
  const auto out = SlstmOperations::apply(zero_masked(in.gates, in.mask.valid) + in.bias,
                                          in.recurrent, in.state.contiguous(), optional(count));
  return {zero_masked(out[0], in.mask.valid), out[1]};
}

}  // namespace lram::model
