#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

#include "lram/model/cell_operations.h"
#include "lram/model/optional_tensor.h"
#include "lram/model/rnn_cell.h"

// As slstm_operations.cpp: few operations a token, 7 forward and 6 backward. Rows of gates are
// i, f, z, o; all that does not depend on the token after is computed for all tokens at once.

namespace lram::model {
namespace {
using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Tensors are [T, H, B, ., d].
class LstmOperations : public torch::autograd::Function<LstmOperations> {
 public:
  /// gates [B, T, 4D] with the bias, recurrent [H, 4d, d], state [B, 2, D], count [B] int64: tokens
  /// that count, the first. Gives h and c after each token, [B, T, D], and the last state.
  static variable_list forward(AutogradContext* ctx, const Tensor& gates, const Tensor& recurrent,
                               const Tensor& state, const OptionalTensor& count_of_rows) {
    const std::int64_t batch = gates.size(0), tokens = gates.size(1), heads = recurrent.size(0),
                       unit = recurrent.size(2);
    const Tensor count = count_of_rows.value_or(Tensor());
    // Becomes what the gates see, then the gates.
    const Tensor x = gates.view({batch, tokens, 4, heads, unit})
                         .permute({1, 3, 0, 2, 4})
                         .clone(at::MemoryFormat::Contiguous);
    const Tensor by_input = recurrent.transpose(1, 2);
    const Tensor h = at::empty({tokens + 1, heads, batch, unit}, gates.options()),
                 c = at::empty_like(h);
    const Tensor tanh_c = at::empty({tokens, heads, batch, unit}, gates.options());
    const Tensor first = state.view({batch, 2, heads, unit}).permute({1, 2, 0, 3});
    h[0].copy_(first[0]);
    c[0].copy_(first[1]);
    for (std::int64_t t = 0; t < tokens; ++t) {
      const Tensor gate = x[t];
      Tensor next = h[t + 1], now = c[t + 1], shaped = tanh_c[t];
      gate.view({heads, batch, 4 * unit}).baddbmm_(h[t], by_input);
      rows(gate, 0, 2).sigmoid_();
      row(gate, 2).tanh_();
      row(gate, 3).sigmoid_();
      at::mul_out(now, row(gate, 1), c[t]);
      now.addcmul_(row(gate, 0), row(gate, 2));
      at::tanh_out(shaped, now);
      at::mul_out(next, row(gate, 3), shaped);
    }
    ctx->save_for_backward({recurrent, h, c, tanh_c, x, count});
    ctx->set_materialize_grads(false);
    return {after_tokens(h), after_tokens(c),
            at::stack({last_of_rows(h, count), last_of_rows(c, count)}, 1)};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &recurrent = saved[0], &h = saved[1], &c = saved[2], &tanh_c = saved[3],
                 &gates = saved[4], &count = saved[5];
    const std::int64_t tokens = gates.size(0), heads = gates.size(1), batch = gates.size(2),
                       unit = gates.size(4);
    const Tensor i = row(gates, 0), f = row(gates, 1), z = row(gates, 2), o = row(gates, 3);
    // What h gives to c; what c gives to the gates i, f and z, and h to o.
    const Tensor by_h = o * (1 - tanh_c.square());
    const Tensor by_c = at::stack(
        {z * i * (1 - i), c.narrow(0, 0, tokens) * f * (1 - f), i * (1 - z.square())}, -2);
    const Tensor output_by_h = tanh_c * o * (1 - o);

    const Tensor given_h = grads[0].defined() ? tokens_first(grads[0], heads) : Tensor();
    const Tensor given_c = grads[1].defined() ? tokens_first(grads[1], heads) : Tensor();
    const Tensor last = grads[2].defined()
                            ? grads[2].view({batch, 2, heads, unit}).permute({1, 2, 0, 3})
                            : Tensor();
    Tensor dh = at::zeros({heads, batch, unit}, h.options()), dc = at::zeros_like(dh);
    /// The gradient of the last state, in the rows of which it is the state after `t` tokens.
    const auto add_last = [&](std::int64_t t) {
      if (!last.defined() || (!count.defined() && t != tokens)) return;
      const Tensor ends = count.defined() ? count.eq(t).view({1, batch, 1}).to(h.scalar_type())
                                          : at::ones({1, 1, 1}, h.options());
      dh = dh + last[0] * ends, dc = dc + last[1] * ends;
    };
    const Tensor dgates = at::empty_like(gates);
    for (std::int64_t t = tokens - 1; t >= 0; --t) {
      add_last(t + 1);
      const Tensor dy = given_h.defined() ? given_h[t] + dh : dh, dgate = dgates[t];
      if (given_c.defined()) dc = dc + given_c[t];
      dc = at::addcmul(dc, dy, by_h[t]);
      Tensor of_c = rows(dgate, 0, 3), of_output = row(dgate, 3);
      at::mul_out(of_c, by_c[t], dc.unsqueeze(-2));
      at::mul_out(of_output, output_by_h[t], dy);
      dh = at::bmm(dgate.view({heads, batch, 4 * unit}), recurrent);
      dc = dc * row(gates[t], 1);
    }
    add_last(0);
    const Tensor dstate =
        at::stack({dh, dc}, 0).permute({2, 0, 1, 3}).reshape({batch, 2, heads * unit});
    return {dgates.permute({2, 0, 3, 1, 4}).reshape({batch, tokens, 4 * heads * unit}),
            recurrent_gradient(dgates, h),
            dstate,
            {}};
  }
};
}  // namespace

RnnOutput lstm_operations(const Tensor& gates, const Tensor& recurrent, const Tensor& bias,
                          const Tensor& state, const SequenceMask& mask) {
  if (mask.begin.defined() || mask.reset.defined())
    return rnn_reference(RnnKind::kLstm, gates, recurrent, bias, state, mask);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const RnnInputs in = rnn_inputs(RnnKind::kLstm, gates, recurrent, bias, state, mask);
  Tensor count;
  if (in.mask.valid.defined()) count = in.mask.valid.sum(1);
  const auto out = LstmOperations::apply(zero_masked(in.gates, in.mask.valid) + in.bias.flatten(),
                                         in.recurrent.transpose(0, 1).flatten(1, 2).contiguous(),
                                         in.state.contiguous(), optional(count));
  const Tensor h = zero_masked(out[0], in.mask.valid), c = zero_masked(out[1], in.mask.valid);
  return {h, at::stack({h, c}, 2), out[2]};
}

}  // namespace lram::model
