#include "lram/model/head_norm_gate.h"

#include "lram/model/kernel_call.h"

#ifdef LRAM_HAVE_KERNELS
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/head_norm_gate/head_norm_gate.h"
#include "lram/model/mlstm_kernel.h"
#include "lram/model/optional_tensor.h"
#endif

namespace lram::model {
namespace {
using torch::Tensor;

/// The same by LibTorch.
Tensor composed(const Tensor& h, const Tensor& z, const Tensor& conv, const Tensor& weight,
                const Tensor& skip, const HeadNormGateOptions& options) {
  const Tensor normed = at::layer_norm(h, {h.size(3)}, {}, {}, options.eps).flatten(2);
  Tensor scaled = normed * (options.weight_offset == 0.0 ? weight : weight + options.weight_offset);
  if (options.bias.defined()) scaled = scaled + options.bias;
  const Tensor mixed = skip.defined() ? at::addcmul(scaled, skip, conv) : scaled;
  return mixed * (options.sigmoid ? at::sigmoid(z) : at::silu(z));
}

#ifdef LRAM_HAVE_KERNELS
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class HeadNormGateFunction : public torch::autograd::Function<HeadNormGateFunction> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& h, const OptionalTensor& dot,
                        const Tensor& z, const OptionalTensor& conv, const Tensor& weight,
                        const OptionalTensor& skip, bool sigmoid, double eps,
                        double weight_offset) {
    const c10::DeviceGuard guard(h.device());
    const Tensor y = at::empty(h.sizes(), h.options());
    ctx->save_for_backward({h, z, conv.value_or(Tensor()), weight, skip.value_or(Tensor())});
    ctx->saved_data["with_dot"] = dot.has_value();
    ctx->saved_data["sigmoid"] = sigmoid;
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["offset"] = weight_offset;
    kernels::head_norm_gate_forward(
        {problem(ctx, h, z, conv.value_or(Tensor()), weight, skip.value_or(Tensor())), head_view(y),
         current_stream(h)});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto s = ctx->get_saved_variables();
    const Tensor &h = s[0], &z = s[1], &conv = s[2], &weight = s[3], &skip = s[4];
    const c10::DeviceGuard guard(h.device());
    const auto like = [](const Tensor& x) {
      return x.defined() ? at::empty(x.sizes(), x.options()) : Tensor();
    };
    const Tensor dy = fitting(grads[0]), dh = like(h), dz = like(z), dconv = like(conv),
                 dweight = like(weight), dskip = like(skip);
    Tensor dot;
    if (ctx->saved_data["with_dot"].toBool())
      dot = at::empty(h.sizes().slice(0, 3), weight.options());
    kernels::HeadNormGateBackward args;
    args.problem = problem(ctx, h, z, conv, weight, skip);
    args.dy = head_view(dy), args.dh = head_view(dh), args.dz = head_view(dz);
    args.dconv = head_view(dconv);
    args.dweight = floats(dweight), args.dskip = floats(dskip);
    args.dh_dot_h = gate_view(dot);
    const Tensor workspace = device_bytes(kernels::head_norm_gate_workspace_bytes(args.problem), h);
    args.workspace = workspace.mutable_data_ptr();
    args.workspace_bytes = workspace.nbytes();
    args.stream = current_stream(h);
    kernels::head_norm_gate_backward(args);
    return {dh, dot, dz, dconv, dweight, dskip, {}, {}, {}};
  }

 private:
  static kernels::HeadNormGateProblem problem(AutogradContext* ctx, const Tensor& h,
                                              const Tensor& z, const Tensor& conv,
                                              const Tensor& weight, const Tensor& skip) {
    kernels::HeadNormGateProblem p;
    p.batch = static_cast<int>(h.size(0));
    p.tokens = static_cast<int>(h.size(1));
    p.heads = static_cast<int>(h.size(2));
    p.dim = static_cast<int>(h.size(3));
    p.dtype = kernel_dtype(h);
    p.gate = ctx->saved_data["sigmoid"].toBool() ? kernels::GateFunction::kSigmoid
                                                 : kernels::GateFunction::kSilu;
    p.eps = static_cast<float>(ctx->saved_data["eps"].toDouble());
    p.weight_offset = static_cast<float>(ctx->saved_data["offset"].toDouble());
    p.h = head_view(h), p.z = head_view(z), p.conv = head_view(conv);
    p.weight = floats(weight), p.skip = floats(skip);
    return p;
  }
};

#endif

}  // namespace

Tensor head_norm_gate(const Tensor& h, const Tensor& z, const Tensor& conv, const Tensor& weight,
                      const Tensor& skip, const HeadNormGateOptions& options) {
#ifdef LRAM_HAVE_KERNELS
  if (kernels_take(h) && !options.bias.defined() && h.size(3) % 8 == 0 && h.size(3) <= 768) {
    const auto by_head = [&](const Tensor& x) {
      return x.defined() ? optional(fitting(x.to(h.scalar_type()).view(h.sizes()))) : std::nullopt;
    };
    const auto column = [](const Tensor& x) {
      return x.defined() ? optional(x.to(torch::kFloat).contiguous()) : std::nullopt;
    };
    return HeadNormGateFunction::apply(fitting(h), optional(mlstm_kernel_dot(h)), *by_head(z),
                                       by_head(conv), *column(weight), column(skip),
                                       options.sigmoid, options.eps, options.weight_offset)
        .flatten(2);
  }
#endif
  return composed(h, z, conv, weight, skip, options);
}

}  // namespace lram::model
