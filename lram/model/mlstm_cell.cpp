#include "lram/model/mlstm_cell.h"

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "lram/core/error.h"
#include "lram/model/mlstm_kernel.h"
#include "lram/model/optional_tensor.h"
#include "lram/model/token_mask.h"

// Symbols as in the chunkwise equations of Beck et al. (2024, Appendix A): l log of the forget
// gate, b its running sum, s = K^-1/2 on q, "carry" the weight of the initial state at a token.

namespace lram::model {
namespace {
using torch::Tensor;

constexpr double kNever = -1e30;  // log gate of a token that does not count; finite, so that
                                  // differences of two stay free of NaN

/// [B, T, H, X] -> a contiguous copy [B * H, T, X], zeros where a token does not count.
Tensor heads_first(const Tensor& x, const Tensor& valid) {
  Tensor out = x.transpose(1, 2).clone(at::MemoryFormat::Contiguous);
  if (valid.defined()) out.masked_fill_(valid.logical_not().unsqueeze(1).unsqueeze(-1), 0);
  return out.flatten(0, 1);
}

/// What the gates alone decide about T tokens, [B, H, T].
struct GateSums {
  Tensor row, column;  ///< float64: log weight of value s at token t is row[t] + column[s]
  Tensor carry;        ///< weight of the initial state at token t
  Tensor m;
  Tensor same;  ///< [B, 1, T, T] bool: no reset between s and t; undefined without resets
};

GateSums sum_gates(const Tensor& i, const Tensor& f, const Tensor& m0, const Tensor& valid,
                   const Tensor& reset, bool sigmoid, at::ScalarType dtype) {
  Tensor l = at::log_sigmoid(f.transpose(1, 2).to(torch::kDouble));
  Tensor column = i.transpose(1, 2).to(torch::kDouble);
  if (sigmoid) column = at::log_sigmoid(column);
  if (valid.defined()) l = l.masked_fill(valid.logical_not().unsqueeze(1), 0);
  const Tensor b = l.cumsum(-1);
  column = column - b;
  if (valid.defined()) column.masked_fill_(valid.logical_not().unsqueeze(1), kNever);

  GateSums out;
  Tensor entry = m0.defined() ? b + m0.unsqueeze(-1) : b;  // log weight of the initial state
  Tensor largest, first_segment;
  if (reset.defined()) {
    const Tensor segment = reset.cumsum(1);
    const Tensor index = torch::arange(reset.size(1), segment.options());
    const Tensor start = std::get<0>(at::where(reset, index, 0).cummax(1));
    first_segment = segment.eq(0).unsqueeze(1);
    entry =
        at::where(first_segment, entry, b - (b - l).gather(-1, start.unsqueeze(1).expand_as(b)));
    out.same = segment.unsqueeze(2).eq(segment.unsqueeze(1)).tril().unsqueeze(1);
    if (!sigmoid)
      largest = column.unsqueeze(-2)
                    .masked_fill(out.same.logical_not(), -std::numeric_limits<double>::infinity())
                    .amax(-1);
  } else if (!sigmoid) {
    largest = std::get<0>(column.cummax(-1));
  }
  // Rounded first: C and n are scaled by the m that is handed out.
  out.m = sigmoid ? at::zeros_like(b, b.options().dtype(dtype))
                  : at::maximum(entry, b + largest).to(dtype);
  const Tensor m = out.m.to(torch::kDouble);
  out.row = b - m;
  out.column = column;
  out.carry = (entry - m).exp_();
  if (first_segment.defined()) out.carry.masked_fill_(first_segment.logical_not(), 0);
  out.carry = out.carry.to(dtype);
  return out;
}

/// Weights of value s at token t, [B * H, T, T]. The sums behind row and column grow with T and
/// cancel near the diagonal; in float32 their lower halves are added separately.
Tensor decay_matrix(const GateSums& gates, at::ScalarType dtype) {
  const Tensor row = gates.row.to(dtype), column = gates.column.to(dtype);
  Tensor d = row.unsqueeze(-1) + column.unsqueeze(-2);
  if (dtype != torch::kDouble) {
    d.add_((gates.row - row).to(dtype).unsqueeze(-1));
    d.add_((gates.column - column).to(dtype).unsqueeze(-2));
  }
  d.exp_().tril_();
  if (gates.same.defined()) d.masked_fill_(gates.same.logical_not(), 0);
  return d.flatten(0, 1);
}

/// The quadratic form over T tokens, from a state to a state (kernels.md 2.1, 2.3), with its exact
/// backward (2.4).
class Quadratic : public torch::autograd::Function<Quadratic> {
 public:
  /// Gives h [B, H, T, V], and c, n, m if they are wanted. The optional ones: initial state, mask.
  static torch::autograd::variable_list forward(
      torch::autograd::AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
      const Tensor& i, const Tensor& f, const OptionalTensor& initial_c,
      const OptionalTensor& initial_n, const OptionalTensor& initial_m,
      const OptionalTensor& valid_tokens, const OptionalTensor& reset_tokens, bool sigmoid,
      bool normalize, double eps, bool with_state) {
    const Tensor c0 = initial_c.value_or(Tensor()), n0 = initial_n.value_or(Tensor()),
                 m0 = initial_m.value_or(Tensor()), valid = valid_tokens.value_or(Tensor()),
                 reset = reset_tokens.value_or(Tensor());
    const std::int64_t batch = q.size(0), tokens = q.size(1), heads = q.size(2);
    const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
    const Tensor qs = heads_first(q, valid).mul_(scale);
    const Tensor ks = heads_first(k, valid), vs = heads_first(v, valid);
    const GateSums gates = sum_gates(i, f, m0, valid, reset, sigmoid, q.scalar_type());
    const Tensor d = decay_matrix(gates, q.scalar_type());
    const Tensor carry = gates.carry.flatten(0, 1);

    const Tensor p = at::bmm(qs, ks.transpose(1, 2)).mul_(d);
    Tensor u, beta;
    if (normalize) beta = p.sum(-1);
    Tensor c_first, n_first;
    if (c0.defined()) {
      c_first = c0.flatten(0, 1), n_first = n0.flatten(0, 1);
      const Tensor carried = qs * carry.unsqueeze(-1);
      u = at::baddbmm(at::bmm(carried, c_first), p, vs);
      if (normalize) beta.add_(at::bmm(carried, n_first.unsqueeze(-1)).squeeze(-1));
    } else {
      u = at::bmm(p, vs);
    }
    Tensor denominator, sign;
    if (normalize) {
      const Tensor floor = gates.m.flatten(0, 1).neg().exp_();
      const Tensor size = beta.abs();
      denominator = at::maximum(size, floor).add_(eps);
      sign = beta.sign().mul_(size > floor);
      u.div_(denominator.unsqueeze(-1));
    }
    const Tensor h = u.view({batch, heads, tokens, -1});
    if (valid.defined()) h.masked_fill_(valid.logical_not().view({batch, 1, tokens, 1}), 0);

    Tensor c, n;
    if (with_state) {
      const Tensor weighted = ks * d.select(1, tokens - 1).unsqueeze(-1);
      n = weighted.sum(1);
      if (c0.defined()) {
        const Tensor kept = carry.select(1, tokens - 1).view({-1, 1});
        c = at::baddbmm(c_first * kept.unsqueeze(-1), weighted.transpose(1, 2), vs);
        n.add_(n_first * kept);
      } else {
        c = at::bmm(weighted.transpose(1, 2), vs);
      }
      c = c.view({batch, heads, c.size(1), c.size(2)});
      n = n.view({batch, heads, n.size(1)});
    }
    ctx->save_for_backward({qs, ks, vs, f, d, p, h, denominator, sign, carry, c_first, n_first, c,
                            n, valid, reset, sigmoid ? i : Tensor()});
    ctx->saved_data["scale"] = scale;
    ctx->set_materialize_grads(false);
    if (!with_state) return {h};
    const Tensor m = gates.m.select(-1, tokens - 1).contiguous();
    ctx->mark_non_differentiable({m});
    return {h, c, n, m};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &f = saved[3], &d = saved[4],
                 &p = saved[5], h = saved[6].flatten(0, 1), &denominator = saved[7],
                 &sign = saved[8], &carry = saved[9], &c0 = saved[10], &n0 = saved[11],
                 &valid = saved[14], &reset = saved[15], &sigmoid_of = saved[16];
    const std::int64_t batch = f.size(0), tokens = f.size(1), heads = f.size(2);
    const bool with_state = grads.size() > 1;
    const Tensor dc = with_state && grads[1].defined() ? grads[1].flatten(0, 1) : Tensor();
    const Tensor dn = with_state && grads[2].defined() ? grads[2].flatten(0, 1) : Tensor();

    Tensor du = grads[0].defined() ? grads[0] : at::zeros_like(h).view({batch, heads, tokens, -1});
    if (valid.defined()) du = du.masked_fill(valid.logical_not().view({batch, 1, tokens, 1}), 0);
    du = du.reshape_as(h);
    Tensor dbeta, ds;
    if (denominator.defined()) {
      du = du / denominator.unsqueeze(-1);
      dbeta = (du * h).sum(-1).neg_().mul_(sign).unsqueeze(-1);
      ds = at::baddbmm(dbeta.expand({-1, -1, tokens}), du, v.transpose(1, 2)).mul_(d);
    } else {
      ds = at::bmm(du, v.transpose(1, 2)).mul_(d);
    }
    Tensor dq = at::bmm(ds, k), dk = at::bmm(ds.transpose(1, 2), q);
    Tensor dv = at::bmm(p.transpose(1, 2), du);

    Tensor dc0, dn0;
    if (c0.defined()) {
      Tensor dread = at::bmm(du, c0.transpose(1, 2));
      if (dbeta.defined()) dread.add_(dbeta * n0.unsqueeze(1));
      dq.add_(dread.mul_(carry.unsqueeze(-1)));
      const Tensor carried = (q * carry.unsqueeze(-1)).transpose(1, 2);
      const Tensor kept = carry.select(1, tokens - 1).view({-1, 1});
      dc0 = at::bmm(carried, du);
      dn0 = dbeta.defined() ? at::bmm(carried, dbeta).squeeze(-1) : at::zeros_like(n0);
      if (dc.defined()) dc0.add_(dc * kept.unsqueeze(-1));
      if (dn.defined()) dn0.add_(dn * kept);
      dc0 = dc0.view({batch, heads, dc0.size(1), dc0.size(2)});
      dn0 = dn0.view({batch, heads, dn0.size(1)});
    }
    const Tensor weight = d.select(1, tokens - 1).unsqueeze(-1);
    Tensor end = at::zeros({batch * heads, 1}, q.options().dtype(torch::kDouble));
    if (dc.defined()) {
      dk.add_(at::bmm(v, dc.transpose(1, 2)).mul_(weight));
      dv.add_(at::bmm(k, dc).mul_(weight));
      end.add_((saved[12].flatten(0, 1) * dc).sum({1, 2}).unsqueeze(1));
    }
    if (dn.defined()) {
      dk.add_(weight * dn.unsqueeze(1));
      end.add_((saved[13].flatten(0, 1) * dn).sum(1, /*keepdim=*/true));
    }

    // Every k comes with its input gate; a forget gate scales what earlier tokens give to later
    // ones: the difference of the two running sums. Nothing is earlier than a fresh start.
    const Tensor di = (k * dk).sum(-1);
    const Tensor x = (q * dq).sum(-1).sub_(di).to(torch::kDouble);
    Tensor dl = x.sum(1, /*keepdim=*/true) + end - x.cumsum(1) + x;
    if (!c0.defined()) dl.select(1, 0).zero_();
    const auto tokens_first = [&](const Tensor& g) {
      return g.view({batch, heads, tokens, -1}).transpose(1, 2);
    };
    Tensor df = tokens_first(dl).squeeze(-1) * at::sigmoid(-f.to(torch::kDouble));
    Tensor di_given = tokens_first(di).squeeze(-1);
    if (sigmoid_of.defined()) di_given = di_given * at::sigmoid(-sigmoid_of);
    if (valid.defined()) {
      df.masked_fill_(valid.logical_not().unsqueeze(-1), 0);
      di_given = di_given.masked_fill(valid.logical_not().unsqueeze(-1), 0);
    }
    if (reset.defined()) df.masked_fill_(reset.unsqueeze(-1), 0);
    dq.mul_(ctx->saved_data["scale"].toDouble());
    return {tokens_first(dq),
            tokens_first(dk),
            tokens_first(dv),
            di_given,
            df.to(f.dtype()),
            dc0,
            dn0,
            {},
            {},
            {},
            {},
            {},
            {},
            {}};
  }
};

struct Inputs {
  Tensor q, k, v, i, f;
};

bool is_sigmoid(const MlstmOptions& options) { return options.input_gate == InputGate::kSigmoid; }

/// In pieces of `size` tokens. (Slices would each come back as a gradient of full length.)
std::vector<Inputs> split(const Inputs& x, std::int64_t size) {
  const auto q = x.q.split(size, 1), k = x.k.split(size, 1), v = x.v.split(size, 1),
             i = x.i.split(size, 1), f = x.f.split(size, 1);
  std::vector<Inputs> out;
  for (std::size_t n = 0; n < q.size(); ++n) out.push_back({q[n], k[n], v[n], i[n], f[n]});
  return out;
}

MlstmOutput quadratic(const Inputs& x, const MlstmState& initial, const TokenMask& mask,
                      const MlstmOptions& options) {
  const bool with_state = options.final_state == FinalState::kKept;
  auto out = Quadratic::apply(x.q, x.k, x.v, x.i, x.f, optional(initial.c), optional(initial.n),
                              optional(initial.m), optional(mask.valid), optional(mask.reset),
                              is_sigmoid(options), options.normalize, options.eps, with_state);
  out.resize(4);
  return {out[0].transpose(1, 2), {out[1], out[2], out[3]}};
}

/// One token (T = 1), kernels.md 1.2.
MlstmOutput step(const Inputs& all, const MlstmState& initial, const TokenMask& mask,
                 const MlstmOptions& options) {
  const Inputs x = {
      zero_masked(all.q, mask.valid).squeeze(1), zero_masked(all.k, mask.valid).squeeze(1),
      zero_masked(all.v, mask.valid).squeeze(1), zero_masked(all.i, mask.valid).squeeze(1),
      zero_masked(all.f, mask.valid).squeeze(1)};
  MlstmState old = initial;
  if (old.fresh()) {
    const std::int64_t batch = x.q.size(0), heads = x.q.size(1);
    old = {at::zeros({batch, heads, x.k.size(2), x.v.size(2)}, x.k.options()),
           at::zeros({batch, heads, x.k.size(2)}, x.k.options()),
           at::zeros({batch, heads}, x.k.options())};
  }
  const Tensor m0 = mask.reset.defined() ? old.m.masked_fill(mask.reset, 0) : old.m;
  const Tensor entry = at::log_sigmoid(x.f) + m0;
  const bool sigmoid = is_sigmoid(options);
  const Tensor m = sigmoid ? at::zeros_like(m0) : at::maximum(entry, x.i).detach();
  Tensor keep = (entry - m).exp();
  if (mask.reset.defined()) keep = keep.masked_fill(mask.reset, 0);
  const Tensor key = x.k * (sigmoid ? x.i.sigmoid() : (x.i - m).exp()).unsqueeze(-1);
  keep = keep.unsqueeze(-1);
  MlstmState state = {(old.c * keep.unsqueeze(-1)).addcmul_(key.unsqueeze(-1), x.v.unsqueeze(-2)),
                      at::addcmul(key, old.n, keep), m};
  const Tensor q = (x.q * (1.0 / std::sqrt(static_cast<double>(x.q.size(2))))).unsqueeze(-2);
  Tensor h = at::matmul(q, state.c);
  if (options.normalize) {
    const Tensor beta = at::matmul(q, state.n.unsqueeze(-1));
    h = h / (at::maximum(beta.abs(), m.neg().exp().view_as(beta)) + options.eps);
  }
  h = h.transpose(1, 2);
  if (mask.valid.defined()) {
    h = zero_masked(h, mask.valid);
    const auto choose = [&](const Tensor& now, const Tensor& before) {
      std::vector<std::int64_t> shape(static_cast<std::size_t>(now.dim()), 1);
      shape[0] = now.size(0);
      return at::where(mask.valid.view(shape), now, before);
    };
    state = {choose(state.c, old.c), choose(state.n, old.n), choose(state.m, old.m)};
  }
  return {h, state};
}

MlstmOutput in_pieces(const Inputs& x, const MlstmState& initial, const TokenMask& mask,
                      std::int64_t size, decltype(&quadratic) form, const MlstmOptions& options) {
  if (x.q.size(1) <= size) return form(x, initial, mask, options);
  std::vector<Tensor> h;
  MlstmState state = initial;
  std::int64_t first = 0;
  for (const Inputs& piece : split(x, size)) {
    const std::int64_t count = piece.q.size(1);
    MlstmOptions chosen = options;
    if (first + count < x.q.size(1)) chosen.final_state = FinalState::kKept;
    MlstmOutput out = form(piece, state, mask.narrow(first, count), chosen);
    h.push_back(std::move(out.h));
    state = std::move(out.state);
    first += count;
  }
  return {at::cat(h, 1), state};
}

void check_shapes(const Inputs& x, const MlstmState& state) {
  LRAM_CHECK(x.q.dim() == 4 && x.k.sizes() == x.q.sizes(), "mLSTM: q is ", x.q.sizes().vec(),
             ", k ", x.k.sizes().vec(), ", wanted both [B, T, H, K]");
  const std::int64_t batch = x.q.size(0), tokens = x.q.size(1), heads = x.q.size(2);
  LRAM_CHECK(tokens > 0, "mLSTM: q has no tokens, wanted at least one");
  LRAM_CHECK(x.v.dim() == 4 && x.v.sizes().slice(0, 3) == x.q.sizes().slice(0, 3), "mLSTM: v is ",
             x.v.sizes().vec(), ", wanted [", batch, ", ", tokens, ", ", heads, ", V]");
  LRAM_CHECK(x.i.sizes() == x.q.sizes().slice(0, 3) && x.f.sizes() == x.i.sizes(), "mLSTM: i is ",
             x.i.sizes().vec(), ", f ", x.f.sizes().vec(), ", wanted [", batch, ", ", tokens, ", ",
             heads, "]");
  if (state.fresh()) return;
  const auto check = [](const char* name, const Tensor& found, at::IntArrayRef wanted) {
    LRAM_CHECK(found.defined() && found.sizes() == wanted, "mLSTM: state ", name, " is ",
               found.defined() ? found.sizes().vec() : std::vector<std::int64_t>(), ", wanted ",
               wanted.vec());
  };
  check("c", state.c, {batch, heads, x.q.size(3), x.v.size(3)});
  check("n", state.n, {batch, heads, x.q.size(3)});
  check("m", state.m, {batch, heads});
}

}  // namespace

MlstmOutput mlstm_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& i,
                          const Tensor& f, const MlstmState& initial, const SequenceMask& mask,
                          const MlstmOptions& options) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  check_shapes({q, k, v, i, f}, initial);
  if (auto out = mlstm_kernel(q, k, v, i, f, initial, mask, options)) return *std::move(out);

  const auto dtype = q.scalar_type() == torch::kDouble ? torch::kDouble : torch::kFloat;
  const Inputs x = {q.to(dtype), k.to(dtype), v.to(dtype), i.to(dtype), f.to(dtype)};
  const TokenMask tokens_mask = resolve_mask(mask, q.size(0), q.size(1));
  MlstmState state = initial;
  LRAM_CHECK(options.normalize || is_sigmoid(options),
             "mLSTM: normalize is false, which only sigmoid input gates allow");
  if (!state.fresh()) state = {state.c.to(dtype), state.n.to(dtype), state.m.detach().to(dtype)};
  if (!state.fresh() && is_sigmoid(options)) state.m = at::zeros_like(state.m);

  const std::int64_t tokens = q.size(1), key_dim = q.size(3), value_dim = v.size(3);
  MlstmForm form = options.form;
  if (form == MlstmForm::kAuto) {
    // Where chunks begin to pay, on a CPU at K = V = 32, 64, 128 (T = 70, 100, 170 with chunks of
    // 64).
    const std::int64_t longest =
        options.chunk_size / 2 + 2 * key_dim * value_dim / (key_dim + value_dim);
    form = tokens == 1         ? MlstmForm::kStep
           : tokens <= longest ? MlstmForm::kQuadratic
                               : MlstmForm::kChunkwise;
  }
  LRAM_CHECK(options.chunk_size > 0, "mLSTM: chunk_size is ", options.chunk_size,
             ", wanted at least 1");
  const bool steps = form == MlstmForm::kStep;
  const std::int64_t size = steps ? 1 : form == MlstmForm::kQuadratic ? tokens : options.chunk_size;
  MlstmOutput out = in_pieces(x, state, tokens_mask, size, steps ? &step : &quadratic, options);
  if (options.final_state == FinalState::kDropped) out.state = {};
  return out;
}

}  // namespace lram::model
