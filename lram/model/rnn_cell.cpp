#include "lram/model/rnn_cell.h"

#include <ATen/Dispatch.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

#include "lram/core/error.h"
#include "lram/model/cell_loop.h"
#include "lram/model/optional_tensor.h"

namespace lram::model {
namespace {
using torch::Tensor;

/// One unit's numbers in memory, a gate or state to a row.
template <typename Scalar>
struct Rows {
  Scalar* first;
  std::int64_t stride;
  Scalar& operator[](int row) const { return first[row * stride]; }
};

// One unit of each kind. forward(): x, the input gates; a, recurrent sums with their biases; b, the
// biases; s, the states, old in and new out; k, kKept numbers for the backward, the first of them
// the old h. backward(): ds, the gradients of the states, new in and old out, but for what passes
// through the recurrent sums; dg, the gradients of the biases at this token, of which the first
// `recurrent` are those of the sums and the last `inputs` those of the input gates.

struct Lstm {
  static constexpr RnnGates kGates = {4, 4, 4, 2};
  static constexpr int kKept = 7;  // h, c, i, f, z, o, tanh of the new c

  template <typename T>
  static void forward(Rows<const T> x, Rows<const T> a, Rows<const T>, Rows<T> s, Rows<T> k) {
    k[1] = s[1];
    k[2] = logistic(x[0] + a[0]);
    k[3] = logistic(x[1] + a[1]);
    k[4] = hyperbolic_tangent(x[2] + a[2]);
    k[5] = logistic(x[3] + a[3]);
    s[1] = k[3] * k[1] + k[2] * k[4];
    k[6] = hyperbolic_tangent(s[1]);
    s[0] = k[5] * k[6];
  }
  template <typename T>
  static void backward(Rows<const T> k, Rows<T> ds, Rows<T> dg) {
    const T i = k[2], f = k[3], z = k[4], o = k[5], tanh_c = k[6];
    const T dc = ds[1] + ds[0] * o * (1 - tanh_c * tanh_c);
    dg[0] = dc * z * i * (1 - i);
    dg[1] = dc * k[1] * f * (1 - f);
    dg[2] = dc * i * (1 - z * z);
    dg[3] = ds[0] * tanh_c * o * (1 - o);
    ds[0] = 0;
    ds[1] = dc * f;
  }
};

struct Gru {
  static constexpr RnnGates kGates = {3, 3, 4, 1};
  static constexpr int kKept = 5;  // h, g, r, z, n

  template <typename T>
  static void forward(Rows<const T> x, Rows<const T> a, Rows<const T> b, Rows<T> s, Rows<T> k) {
    k[1] = a[0];
    k[2] = logistic(x[0] + a[1]);
    k[3] = logistic(x[1] + a[2]);
    k[4] = hyperbolic_tangent(x[2] + b[3] + k[2] * k[1]);
    s[0] = k[3] * s[0] + (1 - k[3]) * k[4];
  }
  template <typename T>
  static void backward(Rows<const T> k, Rows<T> ds, Rows<T> dg) {
    const T h = k[0], g = k[1], r = k[2], z = k[3], n = k[4];
    dg[3] = ds[0] * (1 - z) * (1 - n * n);
    dg[2] = ds[0] * (h - n) * z * (1 - z);
    dg[1] = dg[3] * g * r * (1 - r);
    dg[0] = dg[3] * r;
    ds[0] = ds[0] * z;
  }
};

struct Elman {
  static constexpr RnnGates kGates = {1, 1, 1, 1};
  static constexpr int kKept = 2;  // old h, new h

  template <typename T>
  static void forward(Rows<const T> x, Rows<const T> a, Rows<const T>, Rows<T> s, Rows<T> k) {
    s[0] = k[1] = hyperbolic_tangent(x[0] + a[0]);
  }
  template <typename T>
  static void backward(Rows<const T> k, Rows<T> ds, Rows<T> dg) {
    dg[0] = ds[0] * (1 - k[1] * k[1]);
    ds[0] = 0;
  }
};

template <typename Work>
auto with_cell(RnnKind kind, const Work& work) {
  switch (kind) {
    case RnnKind::kLstm:
      return work(Lstm());
    case RnnKind::kGru:
      return work(Gru());
    case RnnKind::kElman:
      return work(Elman());
  }
  throw_error(ErrorKind::kInternal, "RNN kind {} is unknown", static_cast<int>(kind));
}

/// One head of one row, forward through all tokens. Pointers are at the head's first unit; `gates`
/// [T][inputs][D], `recurrent` [d_in][recurrent][d_out] of this head alone, `bias` [biases][D],
/// `state` [S][D] (the state before, then the one after), `states` [T][S][D], `kept`
/// [T][kKept][D] or null, `sums` room for recurrent * d, `spare` for kKept.
template <typename Cell, typename T>
void forward_head(const HeadSizes& size, const T* gates, const T* recurrent, const T* bias,
                  const bool* valid, const bool* reset, T* state, T* states, T* kept, T* sums,
                  T* spare) {
  constexpr RnnGates n = Cell::kGates;
  const std::int64_t unit = size.unit, dim = size.dim();
  for (std::int64_t t = 0; t < size.tokens; ++t) {
    if (valid != nullptr && !valid[t]) continue;
    if (reset != nullptr && reset[t])
      for (std::int64_t s = 0; s < n.states; ++s) std::fill_n(state + s * dim, unit, T(0));
    for (std::int64_t g = 0; g < n.recurrent; ++g)
      std::copy_n(bias + g * dim, unit, sums + g * unit);
    add_rows(recurrent, state, unit, n.recurrent * unit, sums);
    for (std::int64_t j = 0; j < unit; ++j) {
      const Rows<T> now = {state + j, dim};
      const Rows<T> keep =
          kept != nullptr ? Rows<T>{kept + t * Cell::kKept * dim + j, dim} : Rows<T>{spare, 1};
      keep[0] = now[0];
      Cell::template forward<T>({gates + t * n.inputs * dim + j, dim}, {sums + j, unit},
                                {bias + j, dim}, now, keep);
      for (int s = 0; s < n.states; ++s) states[(t * n.states + s) * dim + j] = now[s];
    }
  }
}

/// The way back: `dstates` [T][S][D] gives `dgates` [T][biases][D]; `dstate` [S][D] comes in as the
/// gradient of the state after and goes out as that of the state before. `recurrent`:
/// [recurrent][d_out][d_in].
template <typename Cell, typename T>
void backward_head(const HeadSizes& size, const T* kept, const T* recurrent, const T* dstates,
                   const bool* valid, const bool* reset, T* dstate, T* dgates) {
  constexpr RnnGates n = Cell::kGates;
  const std::int64_t unit = size.unit, dim = size.dim();
  for (std::int64_t t = size.tokens - 1; t >= 0; --t) {
    if (valid != nullptr && !valid[t]) continue;
    T* dg = dgates + t * n.biases * dim;
    for (std::int64_t j = 0; j < unit; ++j) {
      const Rows<T> ds = {dstate + j, dim};
      for (int s = 0; s < n.states; ++s) ds[s] += dstates[(t * n.states + s) * dim + j];
      Cell::template backward<T>({kept + t * Cell::kKept * dim + j, dim}, ds, {dg + j, dim});
    }
    if (reset != nullptr && reset[t]) {
      for (std::int64_t s = 0; s < n.states; ++s) std::fill_n(dstate + s * dim, unit, T(0));
      continue;
    }
    for (std::int64_t g = 0; g < n.recurrent; ++g)
      add_rows(recurrent + g * unit * unit, dg + g * dim, unit, unit, dstate);
  }
}

class Rnn : public torch::autograd::Function<Rnn> {
 public:
  /// All contiguous. Gives the states after each token and the last.
  static torch::autograd::variable_list forward(
      torch::autograd::AutogradContext* ctx, std::int64_t kind_number, const Tensor& gates,
      const Tensor& recurrent, const Tensor& bias, const Tensor& state,
      const OptionalTensor& valid_tokens, const OptionalTensor& reset_tokens, bool for_backward) {
    const auto kind = static_cast<RnnKind>(kind_number);
    const Tensor valid = valid_tokens.value_or(Tensor()), reset = reset_tokens.value_or(Tensor());
    const HeadSizes size = {gates.size(0), gates.size(1), recurrent.size(1), recurrent.size(2)};
    const std::int64_t dim = size.dim();
    const RnnGates n = rnn_gates(kind);
    const Tensor states = at::zeros({size.batch, size.tokens, n.states, dim}, gates.options());
    const Tensor last = state.clone();
    const Tensor by_input = recurrent.permute({1, 3, 0, 2}).contiguous();
    const Tensor kept = with_cell(kind, [&](auto cell) {
      using Cell = decltype(cell);
      const Tensor keep =
          for_backward ? at::zeros({size.batch, size.tokens, Cell::kKept, dim}, gates.options())
                       : Tensor();
      AT_DISPATCH_FLOATING_TYPES(gates.scalar_type(), "rnn", [&] {
        for_heads(size, [&](std::int64_t b, std::int64_t head) {
          std::vector<scalar_t> sums(static_cast<std::size_t>(n.recurrent * size.unit));
          scalar_t spare[Cell::kKept];
          const std::int64_t offset = head * size.unit;
          forward_head<Cell, scalar_t>(
              size, gates.const_data_ptr<scalar_t>() + b * size.tokens * n.inputs * dim + offset,
              by_input.const_data_ptr<scalar_t>() + head * n.recurrent * size.unit * size.unit,
              bias.const_data_ptr<scalar_t>() + offset, mask_row(valid, b), mask_row(reset, b),
              last.data_ptr<scalar_t>() + b * n.states * dim + offset,
              states.data_ptr<scalar_t>() + b * size.tokens * n.states * dim + offset,
              for_backward
                  ? keep.data_ptr<scalar_t>() + b * size.tokens * Cell::kKept * dim + offset
                  : nullptr,
              sums.data(), spare);
        });
      });
      return keep;
    });
    if (for_backward) ctx->save_for_backward({recurrent, kept, valid, reset});
    ctx->saved_data["kind"] = kind_number;
    return {states, last};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &recurrent = saved[0], &kept = saved[1], &valid = saved[2], &reset = saved[3];
    const auto kind = static_cast<RnnKind>(ctx->saved_data["kind"].toInt());
    const HeadSizes size = {kept.size(0), kept.size(1), recurrent.size(1), recurrent.size(2)};
    const std::int64_t dim = size.dim();
    const RnnGates n = rnn_gates(kind);
    const Tensor by_output = recurrent.transpose(0, 1).contiguous();
    const Tensor dstates = grads[0].contiguous();
    const Tensor dstate = grads[1].clone(at::MemoryFormat::Contiguous);
    const Tensor dgates = at::zeros({size.batch, size.tokens, n.biases, dim}, kept.options());
    with_cell(kind, [&](auto cell) {
      using Cell = decltype(cell);
      AT_DISPATCH_FLOATING_TYPES(kept.scalar_type(), "rnn_backward", [&] {
        for_heads(size, [&](std::int64_t b, std::int64_t head) {
          const std::int64_t offset = head * size.unit;
          backward_head<Cell, scalar_t>(
              size, kept.const_data_ptr<scalar_t>() + b * size.tokens * Cell::kKept * dim + offset,
              by_output.const_data_ptr<scalar_t>() + head * n.recurrent * size.unit * size.unit,
              dstates.const_data_ptr<scalar_t>() + b * size.tokens * n.states * dim + offset,
              mask_row(valid, b), mask_row(reset, b),
              dstate.data_ptr<scalar_t>() + b * n.states * dim + offset,
              dgates.data_ptr<scalar_t>() + b * size.tokens * n.biases * dim + offset);
        });
      });
    });
    const std::int64_t all = size.batch * size.tokens;
    const Tensor sums = dgates.narrow(2, 0, n.recurrent)
                            .reshape({all, n.recurrent, size.heads, size.unit})
                            .permute({2, 1, 3, 0})
                            .reshape({size.heads, n.recurrent * size.unit, all});
    const Tensor previous = kept.select(2, 0).reshape({all, size.heads, size.unit}).transpose(0, 1);
    const Tensor drecurrent = at::bmm(sums, previous)
                                  .view({size.heads, n.recurrent, size.unit, size.unit})
                                  .transpose(0, 1);
    const Tensor dinputs = dgates.narrow(2, n.biases - n.inputs, n.inputs)
                               .reshape({size.batch, size.tokens, n.inputs * dim});
    const Tensor dbias =
        dgates.sum(at::IntArrayRef({0, 1})).view({n.biases, size.heads, size.unit});
    return {{}, dinputs, drecurrent, dbias, dstate, {}, {}, {}};
  }
};

/// The new states out of whole gates, [B, D] each: x [B, inputs, D], a [B, recurrent, D] recurrent
/// sums with their biases, b [biases, D].
std::vector<Tensor> next_states(RnnKind kind, const Tensor& x, const Tensor& a, const Tensor& b,
                                const std::vector<Tensor>& s) {
  if (kind == RnnKind::kLstm) {
    const auto gate = (x + a).unbind(1);
    const Tensor c = gate[1].sigmoid() * s[1] + gate[0].sigmoid() * gate[2].tanh();
    return {gate[3].sigmoid() * c.tanh(), c};
  }
  if (kind == RnnKind::kGru) {
    const Tensor r = (x.select(1, 0) + a.select(1, 1)).sigmoid();
    const Tensor z = (x.select(1, 1) + a.select(1, 2)).sigmoid();
    const Tensor n = (x.select(1, 2) + b.select(0, 3) + r * a.select(1, 0)).tanh();
    return {z * s[0] + (1 - z) * n};
  }
  return {(x + a).select(1, 0).tanh()};
}

}  // namespace

RnnGates rnn_gates(RnnKind kind) {
  return with_cell(kind, [](auto cell) { return decltype(cell)::kGates; });
}

std::string_view rnn_name(RnnKind kind) {
  constexpr std::string_view kNames[] = {"lstm", "gru", "elman"};
  return kNames[static_cast<std::size_t>(kind)];
}

RnnInputs rnn_inputs(RnnKind kind, const Tensor& gates, const Tensor& recurrent, const Tensor& bias,
                     const Tensor& state, const SequenceMask& mask) {
  const std::string_view name = rnn_name(kind);
  const RnnGates n = rnn_gates(kind);
  LRAM_CHECK(recurrent.dim() == 4 && recurrent.size(0) == n.recurrent &&
                 recurrent.size(2) == recurrent.size(3),
             name, ": recurrent is ", recurrent.sizes().vec(), ", wanted [", n.recurrent,
             ", H, d, d]");
  const std::int64_t heads = recurrent.size(1), unit = recurrent.size(2), dim = heads * unit;
  LRAM_CHECK(gates.dim() == 3 && gates.size(1) > 0 && gates.size(2) == n.inputs * dim, name,
             ": gates is ", gates.sizes().vec(), ", wanted [B, T, ", n.inputs * dim, "]");
  LRAM_CHECK(bias.sizes() == at::IntArrayRef({n.biases, heads, unit}), name, ": bias is ",
             bias.sizes().vec(), ", wanted [", n.biases, ", ", heads, ", ", unit, "]");
  LRAM_CHECK(!state.defined() || state.sizes() == at::IntArrayRef({gates.size(0), n.states, dim}),
             name, ": state is ", state.sizes().vec(), ", wanted [", gates.size(0), ", ", n.states,
             ", ", dim, "]");
  const auto dtype = gates.scalar_type() == torch::kDouble ? torch::kDouble : torch::kFloat;
  const Tensor x = gates.to(dtype);
  return {x, recurrent.to(dtype), bias.to(dtype),
          state.defined() ? state.to(dtype) : at::zeros({x.size(0), n.states, dim}, x.options()),
          resolve_mask(mask, x.size(0), x.size(1))};
}

RnnOutput rnn_forward(RnnKind kind, const Tensor& gates, const Tensor& recurrent,
                      const Tensor& bias, const Tensor& state, const SequenceMask& mask) {
  if (!gates.device().is_cpu())
    return kind == RnnKind::kLstm ? lstm_operations(gates, recurrent, bias, state, mask)
                                  : rnn_reference(kind, gates, recurrent, bias, state, mask);
  const RnnInputs in = rnn_inputs(kind, gates, recurrent, bias, state, mask);
  const auto dense = [](const Tensor& x) { return x.defined() ? x.contiguous() : x; };
  const bool for_backward =
      torch::GradMode::is_enabled() && (in.gates.requires_grad() || in.recurrent.requires_grad() ||
                                        in.bias.requires_grad() || in.state.requires_grad());
  auto out = Rnn::apply(static_cast<std::int64_t>(kind), dense(in.gates), dense(in.recurrent),
                        dense(in.bias), dense(in.state), optional(dense(in.mask.valid)),
                        optional(dense(in.mask.reset)), for_backward);
  return {out[0].select(2, 0), out[0], out[1]};
}

RnnOutput rnn_reference(RnnKind kind, const Tensor& gates, const Tensor& recurrent,
                        const Tensor& bias, const Tensor& state, const SequenceMask& mask) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const RnnInputs in = rnn_inputs(kind, gates, recurrent, bias, state, mask);
  const RnnGates n = rnn_gates(kind);
  const std::int64_t batch = gates.size(0), tokens = gates.size(1), heads = recurrent.size(1),
                     unit = recurrent.size(2), dim = heads * unit;
  const Tensor x = zero_masked(in.gates, in.mask.valid).view({batch, tokens, n.inputs, dim});
  const Tensor b = in.bias.view({n.biases, dim});
  const Tensor by_input =
      in.recurrent.permute({1, 3, 0, 2}).reshape({heads, unit, n.recurrent * unit});
  std::vector<Tensor> now = in.state.unbind(1), all;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::vector<Tensor> old = now;
    if (in.mask.reset.defined())
      for (Tensor& s : now) s = s.masked_fill(in.mask.reset.select(1, t).unsqueeze(1), 0);
    const Tensor mixed = at::bmm(now[0].view({batch, heads, unit}).transpose(0, 1), by_input)
                             .view({heads, batch, n.recurrent, unit})
                             .permute({1, 2, 0, 3})
                             .reshape({batch, n.recurrent, dim});
    now = next_states(kind, x.select(1, t), mixed + b.narrow(0, 0, n.recurrent), b, now);
    all.push_back(at::stack(now, 1));
    if (!in.mask.valid.defined()) continue;
    const Tensor counts = in.mask.valid.select(1, t).unsqueeze(1);
    for (std::size_t s = 0; s < now.size(); ++s) now[s] = at::where(counts, now[s], old[s]);
  }
  const Tensor states = zero_masked(at::stack(all, 1), in.mask.valid);
  return {states.select(2, 0), states, at::stack(now, 1)};
}

}  // namespace lram::model
