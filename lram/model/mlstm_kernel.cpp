#include "lram/model/mlstm_kernel.h"

#include "lram/model/kernel_call.h"

#ifdef LRAM_HAVE_KERNELS
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/variable.h>

#include "lram/core/error.h"
#include "lram/model/optional_tensor.h"
#endif

namespace lram::model {
using torch::Tensor;

#ifdef LRAM_HAVE_KERNELS
namespace {
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What both directions of the mLSTM need. Tensors fit; state and mask may be undefined.
struct MlstmInputs {
  Tensor q, k, v, i, f, c, n, m, reset, begin, end;
  bool sigmoid = false, normalize = true, final_state = true;
  double eps = 1e-6;

  kernels::MlstmStateView state(const Tensor& c_of, const Tensor& n_of, const Tensor& m_of) const {
    return {floats(c_of), normalize ? floats(n_of) : nullptr, sigmoid ? nullptr : floats(m_of)};
  }
  kernels::MlstmProblem problem() const {
    kernels::MlstmProblem p;
    p.batch = static_cast<int>(q.size(0));
    p.tokens = static_cast<int>(q.size(1));
    p.heads = static_cast<int>(q.size(2));
    p.key_dim = static_cast<int>(q.size(3));
    p.value_dim = static_cast<int>(v.size(3));
    p.dtype = kernel_dtype(q);
    p.sigmoid_gate = sigmoid;
    p.normalize = normalize;
    p.final_state = final_state;
    p.eps = static_cast<float>(eps);
    p.q = head_view(q), p.k = head_view(k), p.v = head_view(v);
    p.i = gate_view(i), p.f = gate_view(f);
    if (reset.defined()) p.reset = reset.const_data_ptr<std::uint8_t>();
    if (begin.defined()) p.begin = begin.const_data_ptr<std::int32_t>();
    if (end.defined()) p.end = end.const_data_ptr<std::int32_t>();
    p.initial = state(c, n, m);
    return p;
  }
};

struct MlstmResult {
  Tensor h, c, n, m, saved;
};

MlstmResult run_forward(const MlstmInputs& in, bool with_backward) {
  const c10::DeviceGuard guard(in.q.device());
  kernels::MlstmForward args;
  args.problem = in.problem();
  const std::int64_t batch = in.q.size(0), heads = in.q.size(2), key = in.q.size(3);
  const auto f32 = in.i.options();
  MlstmResult out;
  out.h = at::empty(in.v.sizes(), in.v.options());
  args.h = head_view(out.h);
  if (in.final_state) {
    out.c = at::empty({batch, heads, key, in.v.size(3)}, f32);
    // Where the op has no n or m, the model's state holds zeros.
    out.n =
        in.normalize ? at::empty({batch, heads, key}, f32) : at::zeros({batch, heads, key}, f32);
    out.m = in.sigmoid ? at::zeros({batch, heads}, f32) : at::empty({batch, heads}, f32);
    args.final = in.state(out.c, out.n, out.m);
  }
  if (with_backward) {
    out.saved = device_bytes(kernels::mlstm_saved_bytes(args.problem), in.q);
    args.saved = out.saved.mutable_data_ptr();
  }
  const Tensor workspace = device_bytes(kernels::mlstm_forward_workspace_bytes(args.problem), in.q);
  args.workspace = workspace.mutable_data_ptr();
  args.workspace_bytes = workspace.nbytes();
  args.stream = current_stream(in.q);
  kernels::mlstm_forward(args);
  return out;
}

class MlstmFunction : public torch::autograd::Function<MlstmFunction> {
 public:
  /// Gives h, at kDot a tensor [B, T, H] that stands for dh . h (mlstm_kernel_dot), and c, n, m if
  /// they are wanted.
  static constexpr std::uint32_t kDot = 1;
  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& k,
                               const Tensor& v, const Tensor& i, const Tensor& f,
                               const OptionalTensor& c, const OptionalTensor& n,
                               const OptionalTensor& m, const OptionalTensor& reset,
                               const OptionalTensor& begin, const OptionalTensor& end, bool sigmoid,
                               bool normalize, double eps, bool final_state) {
    const auto given = [](const OptionalTensor& x) { return x.value_or(Tensor()); };
    const MlstmInputs in = {q,
                            k,
                            v,
                            i,
                            f,
                            given(c),
                            given(n),
                            given(m),
                            given(reset),
                            given(begin),
                            given(end),
                            sigmoid,
                            normalize,
                            final_state,
                            eps};
    const MlstmResult out = run_forward(in, /*with_backward=*/true);
    const Tensor dot = at::empty(i.sizes(), i.options());
    ctx->save_for_backward(
        {q, k, v, i, f, in.c, in.n, in.m, in.reset, in.begin, in.end, out.h, out.saved});
    ctx->saved_data["sigmoid"] = sigmoid;
    ctx->saved_data["normalize"] = normalize;
    ctx->saved_data["final_state"] = final_state;
    ctx->saved_data["eps"] = eps;
    ctx->set_materialize_grads(false);
    if (!final_state) return {out.h, dot};
    variable_list constants = {out.m};
    if (!normalize) constants.push_back(out.n);
    ctx->mark_non_differentiable(constants);
    return {out.h, dot, out.c, out.n, out.m};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto s = ctx->get_saved_variables();
    const MlstmInputs in = {s[0],
                            s[1],
                            s[2],
                            s[3],
                            s[4],
                            s[5],
                            s[6],
                            s[7],
                            s[8],
                            s[9],
                            s[10],
                            ctx->saved_data["sigmoid"].toBool(),
                            ctx->saved_data["normalize"].toBool(),
                            ctx->saved_data["final_state"].toBool(),
                            ctx->saved_data["eps"].toDouble()};
    const Tensor &h = s[11], &saved = s[12];
    const c10::DeviceGuard guard(h.device());
    kernels::MlstmBackward args;
    args.problem = in.problem();
    args.h = head_view(h);
    args.saved = saved.const_data_ptr();
    const Tensor dh = grads[0].defined() ? fitting(grads[0]) : at::zeros_like(h);
    args.dh = head_view(dh);
    const Tensor dot = grads[0].defined() ? grads[kDot] : Tensor();
    args.dh_dot_h = gate_view(dot);
    Tensor dc, dn;
    if (in.final_state) dc = grads[kDot + 1], dn = grads[kDot + 2];
    if (dc.defined() || dn.defined()) {
      dc = dc.defined()
               ? dc.contiguous()
               : at::zeros({h.size(0), h.size(2), in.q.size(3), h.size(3)}, in.i.options());
      if (in.normalize)
        dn = dn.defined() ? dn.contiguous()
                          : at::zeros({h.size(0), h.size(2), in.q.size(3)}, in.i.options());
      args.dfinal = {floats(dc), in.normalize ? floats(dn) : nullptr, nullptr};
    }
    const auto like = [](const Tensor& x) { return at::empty(x.sizes(), x.options()); };
    const Tensor dq = like(in.q), dk = like(in.k), dv = like(in.v), di = like(in.i),
                 df = like(in.f);
    args.dq = head_view(dq), args.dk = head_view(dk), args.dv = head_view(dv);
    args.di = gate_view(di), args.df = gate_view(df);
    Tensor dc0, dn0;
    if (in.c.defined()) {
      dc0 = like(in.c);
      if (in.normalize) dn0 = like(in.n);
      args.dinitial = {floats(dc0), floats(dn0), nullptr};
    }
    const Tensor workspace = device_bytes(kernels::mlstm_backward_workspace_bytes(args.problem), h);
    args.workspace = workspace.mutable_data_ptr();
    args.workspace_bytes = workspace.nbytes();
    args.stream = current_stream(h);
    kernels::mlstm_backward(args);
    return {dq, dk, dv, di, df, dc0, dn0, {}, {}, {}, {}, {}, {}, {}, {}};
  }
};

bool fits(std::int64_t dim) { return dim >= 8 && dim <= 1024 && dim % 8 == 0; }

void check(const SequenceMask& mask, std::int64_t batch, std::int64_t tokens) {
  for (const Tensor* bound : {&mask.begin, &mask.end})
    LRAM_CHECK(!bound->defined() || (bound->sizes() == at::IntArrayRef({batch}) &&
                                     bound->scalar_type() == torch::kInt32),
               "SequenceMask.", bound == &mask.begin ? "begin" : "end", " is ", bound->toString(),
               " ", bound->sizes().vec(), ", wanted int32 [", batch, "]");
  const Tensor& reset = mask.reset;
  LRAM_CHECK(!reset.defined() ||
                 (reset.sizes() == at::IntArrayRef({batch, tokens}) && reset.element_size() == 1),
             "SequenceMask.reset is ", reset.toString(), " ", reset.sizes().vec(),
             ", wanted uint8 [", batch, ", ", tokens, "]");
}

}  // namespace

Tensor mlstm_kernel_dot(const Tensor& h) {
  const auto& node = h.grad_fn();
  if (dynamic_cast<torch::autograd::CppNode<MlstmFunction>*>(node.get()) == nullptr ||
      h.output_nr() != 0)
    return Tensor();
  const Tensor dot = at::empty(h.sizes().slice(0, 3), h.options().dtype(torch::kFloat));
  torch::autograd::impl::set_gradient_edge(dot, {node, MlstmFunction::kDot});
  return dot;
}

std::optional<MlstmOutput> mlstm_kernel(const Tensor& q, const Tensor& k, const Tensor& v,
                                        const Tensor& i, const Tensor& f, const MlstmState& initial,
                                        const SequenceMask& mask, const MlstmOptions& options) {
  if (options.form != MlstmForm::kAuto || !kernels_take(q) || !kernels_take(k) ||
      !kernels_take(v) || !fits(q.size(3)) || !fits(v.size(3)))
    return std::nullopt;
  check(mask, q.size(0), q.size(1));
  LRAM_CHECK(options.normalize || options.input_gate == InputGate::kSigmoid,
             "mLSTM: normalize is false, which only sigmoid input gates allow");
  const bool half = q.scalar_type() == torch::kBFloat16 && k.scalar_type() == torch::kBFloat16 &&
                    v.scalar_type() == torch::kBFloat16;
  const auto input = [&](const Tensor& x) {
    return fitting(x.to(half ? torch::kBFloat16 : torch::kFloat));
  };
  const auto dense = [](const Tensor& x, at::ScalarType type) {
    return x.defined() ? x.to(type).contiguous() : Tensor();
  };
  const MlstmInputs in = {input(q),
                          input(k),
                          input(v),
                          i.to(torch::kFloat),
                          f.to(torch::kFloat),
                          dense(initial.c, torch::kFloat),
                          dense(initial.n, torch::kFloat),
                          initial.fresh() ? Tensor() : dense(initial.m.detach(), torch::kFloat),
                          dense(mask.reset, torch::kUInt8),
                          dense(mask.begin, torch::kInt32),
                          dense(mask.end, torch::kInt32),
                          options.input_gate == InputGate::kSigmoid,
                          options.normalize,
                          options.final_state == FinalState::kKept,
                          options.eps};
  if (kernel_use() == KernelUse::kWhereQuicker && !kernels::mlstm_is_tuned(in.problem()))
    return std::nullopt;
  bool record = false;
  for (const Tensor* x : {&in.q, &in.k, &in.v, &in.i, &in.f, &in.c, &in.n})
    record = record || (x->defined() && x->requires_grad());
  if (!record || !at::GradMode::is_enabled()) {
    const MlstmResult out = run_forward(in, /*with_backward=*/false);
    return MlstmOutput{out.h, {out.c, out.n, out.m}};
  }
  auto out =
      MlstmFunction::apply(in.q, in.k, in.v, in.i, in.f, optional(in.c), optional(in.n),
                           optional(in.m), optional(in.reset), optional(in.begin), optional(in.end),
                           in.sigmoid, in.normalize, in.eps, in.final_state);
  out.resize(5);
  return MlstmOutput{out[0], {out[2], out[3], out[4]}};
}

#else
Tensor mlstm_kernel_dot(const Tensor&) { return {}; }

std::optional<MlstmOutput> mlstm_kernel(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                        const Tensor&, const MlstmState&, const SequenceMask&,
                                        const MlstmOptions&) {
  return std::nullopt;
}

#endif

}  // namespace lram::model
