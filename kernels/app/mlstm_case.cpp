// The mLSTM as a row of `lram bench kernels`, checked against LibTorch's mlstm_forward in float64.
#include <torch/autograd.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <future>
#include <limits>
#include <map>

#include "kernels/app/op_case.h"
#include "kernels/mlstm/mlstm_implementation.h"
#include "kernels/mlstm/mlstm_plain.h"
#include "lram/model/kernel_call.h"
#include "lram/model/mlstm_cell.h"

namespace lram::kernels {
namespace {
using model::floats;
using model::gate_view;
using model::head_view;
using torch::Tensor;

double squared(const Tensor& x) { return x.to(torch::kDouble).pow(2).sum().item<double>(); }

// The plain run costs T^2 on a core: so many heads, of each so many tokens.
constexpr std::int64_t kPlainHeads = 16, kPlainTokens = 512;

std::vector<double> to_doubles(const Tensor& x) {
  if (!x.defined()) return {};
  const Tensor here = x.to(torch::kCPU, torch::kDouble).contiguous();
  return {here.const_data_ptr<double>(), here.const_data_ptr<double>() + here.numel()};
}

void append(std::vector<double>& to, const std::vector<double>& from) {
  to.insert(to.end(), from.begin(), from.end());
}
void append(MlstmReferenceOutput& to, const MlstmReferenceOutput& from) {
  append(to.h, from.h), append(to.c, from.c), append(to.n, from.n), append(to.m, from.m);
}
void append(MlstmReferenceGradient& to, const MlstmReferenceGradient& from) {
  append(to.dq, from.dq), append(to.dk, from.dk), append(to.dv, from.dv);
  append(to.di, from.di), append(to.df, from.df), append(to.df_floor, from.df_floor);
  append(to.dc0, from.dc0), append(to.dn0, from.dn0);
}

/// Sums over slices of one compared tensor: squares of the error, of the exact result, of the one
/// without the normaliser's part, and of df's floor.
struct Deviation {
  double error = 0.0, size = 0.0, dropped = 0.0, floor = 0.0;
  double ratio() const {
    const double scale = std::sqrt(std::max({size, dropped, floor}));
    const double out = error == 0.0 ? 0.0 : std::sqrt(error) / scale;
    return out == out ? out : std::numeric_limits<double>::infinity();
  }
};

class MlstmCase : public OpCase {
 public:
  explicit MlstmCase(const CaseOptions& options)
      : options_(options),
        shape_(options.shape),
        b_(shape_.batch),
        t_(shape_.tokens),
        h_(shape_.heads),
        k_(shape_.key_dim),
        v_(shape_.value_dim) {
    torch::manual_seed(options.seed);
    const bool half = options.dtype == DType::kBFloat16;
    const auto device = torch::device(torch::kCUDA);
    data_ = device.dtype(half ? torch::kBFloat16 : torch::kFloat);
    f32_ = device.dtype(torch::kFloat);
    normalize_ = !options.sigmoid || options.normalize;
    // Slices of a projection's output, as in the model.
    const Tensor qkv = torch::randn({b_, t_, h_ * (2 * k_ + v_)}, data_);
    const auto slice = [&](std::int64_t first, std::int64_t dim) {
      return qkv.narrow(2, first, h_ * dim).unflatten(2, {h_, dim});
    };
    q_ = slice(0, k_), k_in_ = slice(h_ * k_, k_), v_in_ = slice(2 * h_ * k_, v_);
    i_ = torch::randn({b_, t_, h_}, f32_);
    f_ = torch::randn({b_, t_, h_}, f32_) + 3.0;
    dh_ = torch::randn({b_, t_, h_, v_}, data_);
    if (options.resets > 0) {
      reset_ = torch::zeros({b_, t_}, device.dtype(torch::kUInt8));
      const Tensor at = torch::randint(0, b_ * t_, {options.resets}, device.dtype(torch::kLong));
      reset_.view({-1}).index_fill_(0, at, 1);
    }
    h_out_ = torch::empty({b_, t_, h_, v_}, data_);
    const auto like = [&](std::int64_t dim) { return torch::empty({b_, t_, h_, dim}, data_); };
    dq_ = like(k_), dk_ = like(k_), dv_ = like(v_);
    di_ = torch::empty_like(i_), df_ = torch::empty_like(f_);
    if (options.states) {
      initial_ = random_state();
      final_ = random_state();
      dfinal_ = random_state();
      dinitial_ = random_state();
    }

    MlstmProblem& p = forward_.problem;
    p.batch = shape_.batch, p.tokens = shape_.tokens, p.heads = shape_.heads;
    p.key_dim = shape_.key_dim, p.value_dim = shape_.value_dim;
    p.dtype = options.dtype;
    p.sigmoid_gate = options.sigmoid;
    p.normalize = normalize_;
    p.form = options.form, p.path = options.path;
    p.q = head_view(q_), p.k = head_view(k_in_), p.v = head_view(v_in_);
    p.i = gate_view(i_), p.f = gate_view(f_);
    if (reset_.defined()) p.reset = reset_.const_data_ptr<std::uint8_t>();
    p.initial = view(initial_, /*gradient=*/false);
    p.final_state = options.states;
    saved_ = model::device_bytes(mlstm_saved_bytes(p), q_);
    forward_.h = head_view(h_out_);
    forward_.final = view(final_, /*gradient=*/false);
    forward_.saved = saved_.mutable_data_ptr();
    forward_.workspace_bytes = mlstm_forward_workspace_bytes(p);
    backward_.workspace_bytes = mlstm_backward_workspace_bytes(p);
    workspace_ =
        model::device_bytes(std::max(forward_.workspace_bytes, backward_.workspace_bytes), q_);
    forward_.workspace = backward_.workspace = workspace_.mutable_data_ptr();
    backward_.problem = p;
    backward_.h = forward_.h;
    backward_.saved = forward_.saved;
    backward_.dh = head_view(dh_);
    backward_.dfinal = view(dfinal_, /*gradient=*/true);
    backward_.dinitial = view(dinitial_, /*gradient=*/true);
    backward_.dq = head_view(dq_), backward_.dk = head_view(dk_), backward_.dv = head_view(dv_);
    backward_.di = gate_view(di_), backward_.df = gate_view(df_);
    if (options.norm) put_norm_behind();
  }

  std::string implementation() const override {
    return mlstm_implementation(forward_.problem).name;
  }
  void forward() override {
    forward_.stream = model::current_stream(q_);
    mlstm_forward(forward_);
  }
  void backward() override {
    backward_.stream = model::current_stream(q_);
    mlstm_backward(backward_);
  }

  Work forward_work() const override {
    const double rows = row_count(), state = options_.states ? 2.0 * state_bytes() : 0.0;
    return {rows * (element() * double_of(2 * k_ + 2 * v_) + 8.0) + state,
            std::min(quadratic_flops(double_of(k_ + v_)), rows * (4.0 * double_of(k_ * v_)))};
  }
  Work backward_work() const override {
    const double rows = row_count(), state = options_.states ? 3.0 * state_bytes() : 0.0;
    // q, k, v, h, dh in; dq, dk, dv out; gates in and out.
    return {
        rows * (element() * double_of(4 * k_ + 4 * v_) + 16.0) + state,
        std::min(quadratic_flops(double_of(3 * k_ + 2 * v_)), rows * (10.0 * double_of(k_ * v_)))};
  }
  double memory_bytes() const override {
    double sum = 0.0;
    for (const Tensor* x : {&h_out_, &dq_, &dk_, &dv_, &di_, &df_, &saved_, &workspace_})
      sum += static_cast<double>(x->nbytes());
    return sum;
  }

  std::vector<Check> check() override;

 private:
  static double double_of(std::int64_t x) { return static_cast<double>(x); }
  double element() const { return options_.dtype == DType::kBFloat16 ? 2.0 : 4.0; }
  double row_count() const { return double_of(b_ * t_ * h_); }
  double state_bytes() const { return 4.0 * double_of(b_ * h_ * k_ * v_); }
  /// The causal half of `width` multiply-adds for each pair of tokens.
  double quadratic_flops(double width) const { return row_count() * double_of(t_) * width; }

  model::MlstmState random_state() const {
    model::MlstmState out = {torch::randn({b_, h_, k_, v_}, f32_), torch::randn({b_, h_, k_}, f32_),
                             torch::randn({b_, h_}, f32_)};
    return out;
  }
  MlstmStateView view(const model::MlstmState& s, bool gradient) const {
    if (s.fresh()) return {};
    return {floats(s.c), normalize_ ? floats(s.n) : nullptr,
            options_.sigmoid || gradient ? nullptr : floats(s.m)};
  }

  std::map<std::string, double> plain_errors() const;

  /// Replaces dh by the gradient behind a layer norm over each head's units, and gives dh . h.
  void put_norm_behind() {
    forward();
    const auto norm = [&](const Tensor& h) { return at::layer_norm(h, {v_}, {}, {}, 1e-6); };
    const Tensor h = h_out_.to(torch::kFloat).requires_grad_();
    const Tensor dh = torch::autograd::grad({norm(h)}, {h}, {dh_.to(torch::kFloat)})[0];
    const Tensor h64 = h.detach().to(torch::kDouble).requires_grad_();
    const Tensor dh64 = torch::autograd::grad({norm(h64)}, {h64}, {dh_.to(torch::kDouble)})[0];
    dot_ = (dh64 * h64.detach()).sum(-1).to(torch::kFloat);
    dh_ = dh.to(data_.dtype());
    backward_.dh = head_view(dh_);
    backward_.dh_dot_h = gate_view(dot_);
  }

  CaseOptions options_;
  Shape shape_;
  std::int64_t b_, t_, h_, k_, v_;
  bool normalize_ = true;
  torch::TensorOptions data_, f32_;
  Tensor q_, k_in_, v_in_, i_, f_, dh_, dot_, reset_, h_out_, dq_, dk_, dv_, di_, df_, saved_,
      workspace_;
  model::MlstmState initial_, final_, dfinal_, dinitial_;
  MlstmForward forward_;
  MlstmBackward backward_;
};

/// By result, over the first tokens of some heads that lie apart.
std::map<std::string, double> MlstmCase::plain_errors() const {
  struct Unit {
    MlstmReferenceOutput out;
    MlstmReferenceGradient exact, dropped;
    MlstmPlainRun plain;
  };
  const bool bf16 = options_.dtype == DType::kBFloat16;
  const std::int64_t units = std::min(b_ * h_, kPlainHeads), tokens = std::min(t_, kPlainTokens);
  std::vector<std::future<Unit>> running;
  MlstmReferenceInput kind;
  for (std::int64_t n = 0; n < units; ++n) {
    const std::int64_t unit = n * (b_ * h_) / units, b = unit / h_, h = unit % h_;
    const auto rows = [&](const Tensor& x) {
      return x.defined() ? to_doubles(x[b].narrow(0, 0, tokens).select(1, h))
                         : std::vector<double>();
    };
    const auto state = [&](const Tensor& x) {
      return options_.states && x.defined() ? to_doubles(x[b][h]) : std::vector<double>();
    };
    MlstmReferenceInput in;
    in.tokens = static_cast<int>(tokens);
    in.key_dim = shape_.key_dim, in.value_dim = shape_.value_dim;
    in.sigmoid_gate = options_.sigmoid, in.normalize = normalize_;
    in.eps = forward_.problem.eps;
    in.q = rows(q_), in.k = rows(k_in_), in.v = rows(v_in_), in.i = rows(i_), in.f = rows(f_);
    if (reset_.defined()) {
      for (const double x : to_doubles(reset_[b].narrow(0, 0, tokens)))
        in.reset.push_back(static_cast<std::uint8_t>(x));
    }
    in.c0 = state(initial_.c);
    if (normalize_) in.n0 = state(initial_.n);
    if (!options_.sigmoid) in.m0 = state(initial_.m);
    const auto run = [in, bf16, dh = rows(dh_), dot = rows(dot_), dc = state(dfinal_.c),
                      dn = normalize_ ? state(dfinal_.n) : std::vector<double>()] {
      return Unit{mlstm_reference_forward(in), mlstm_reference_backward(in, dh, dc, dn, true, dot),
                  mlstm_reference_backward(in, dh, dc, dn, false, dot),
                  mlstm_plain_run_of(in, dh, dc, dn, dot, bf16)};
    };
    if (n == 0) kind = in;
    running.push_back(std::async(std::launch::async, run));
  }
  Unit all;
  for (auto& future : running) {
    const Unit unit = future.get();
    append(all.out, unit.out), append(all.exact, unit.exact), append(all.dropped, unit.dropped);
    append(all.plain.out, unit.plain.out), append(all.plain.gradient, unit.plain.gradient);
  }
  std::map<std::string, double> errors;
  for (const auto& term :
       mlstm_error_terms(kind, options_.states, all.out, all.exact, all.dropped)) {
    errors[term.name] = mlstm_relative_error(
        mlstm_result(term.name, all.plain.out, all.plain.gradient), *term.want, term.least);
  }
  return errors;
}

std::vector<Check> MlstmCase::check() {
  for (Tensor* x :
       {&h_out_, &dq_, &dk_, &dv_, &di_, &df_, &final_.c, &final_.n, &dinitial_.c, &dinitial_.n})
    if (x->defined()) x->fill_(std::numeric_limits<double>::quiet_NaN());
  forward();
  backward();
  std::map<std::string, Deviation> deviations;

  // Slices of the batch bound the memory of the float64 reference.
  const std::int64_t slice = std::max<std::int64_t>(1, 65536 / t_);
  for (std::int64_t row = 0; row < b_; row += slice) {
    const std::int64_t rows = std::min(slice, b_ - row);
    const auto part = [&](const Tensor& x) {
      return x.defined() ? x.narrow(0, row, rows).to(torch::kDouble) : Tensor();
    };
    std::vector<Tensor> leaves;
    for (const Tensor* x : {&q_, &k_in_, &v_in_, &i_, &f_, &initial_.c, &initial_.n})
      if (x->defined()) leaves.push_back(part(*x).requires_grad_());
    const auto run = [&](const Tensor& i, const model::MlstmState& initial, model::InputGate gate,
                         bool normalize) {
      return model::mlstm_forward(
          leaves[0], leaves[1], leaves[2], i, leaves[4], initial,
          {.reset = reset_.defined() ? reset_.narrow(0, row, rows) : Tensor()},
          {.input_gate = gate,
           .normalize = normalize,
           .form = t_ <= 256 ? model::MlstmForm::kQuadratic : model::MlstmForm::kChunkwise});
    };
    const auto gradients = [&](const model::MlstmOutput& out, const Tensor& dh,
                               const Tensor& state_scale) {
      std::vector<Tensor> results = {out.h}, upstream = {dh};
      if (options_.states) {
        results.push_back(out.state.c);
        upstream.push_back(part(dfinal_.c) * state_scale.unsqueeze(-1).unsqueeze(-1));
        if (normalize_) {
          results.push_back(out.state.n);
          upstream.push_back(part(dfinal_.n) * state_scale.unsqueeze(-1));
        }
      }
      return torch::autograd::grad(results, leaves, upstream, {}, false, true);
    };
    const auto initial_state = [&] {
      return options_.states ? model::MlstmState{leaves[5], leaves[6], part(initial_.m)}
                             : model::MlstmState();
    };
    const auto gate = options_.sigmoid ? model::InputGate::kSigmoid : model::InputGate::kExp;
    const model::MlstmOutput want = run(leaves[3], initial_state(), gate, normalize_);
    const std::vector<Tensor> exact =
        gradients(want, part(dh_), torch::ones({rows, h_}, leaves[3].options()));
    // With the normaliser N a constant: U = h N out of the sigmoid gate without normaliser, whose
    // i' is exp(i - top), and dh / N sent into it.
    std::vector<Tensor> dropped;
    if (normalize_) {
      Tensor i = leaves[3], scale = torch::ones({rows, h_}, i.options());
      model::MlstmState initial = initial_state();
      if (!options_.sigmoid) {
        const double top = i.detach().max().item<double>() + 1.0;
        i = at::logit(at::exp(i - top));
        if (options_.states) {
          const Tensor kept = at::exp(initial.m - top);
          initial.c = initial.c * kept.unsqueeze(-1).unsqueeze(-1);
          initial.n = initial.n * kept.unsqueeze(-1);
        }
        scale = at::exp(top - want.state.m);
      }
      const model::MlstmOutput free = run(i, initial, model::InputGate::kSigmoid, false);
      const Tensor h = want.h.detach(), u = free.h.detach();
      const Tensor over = h.square().sum(-1, true) / (u * h).sum(-1, true);
      dropped = gradients(free, part(dh_) * over, scale);
    }
    const auto add = [&](const char* name, const Tensor& got, const Tensor& wanted) {
      deviations[name].error += squared(part(got) - wanted);
      deviations[name].size += squared(wanted);
    };
    const auto add_gradient = [&](const char* name, const Tensor& got, std::size_t n) {
      add(name, got, exact[n]);
      if (!dropped.empty() && dropped[n].defined()) deviations[name].dropped += squared(dropped[n]);
    };
    add("h", h_out_, want.h);
    add_gradient("dq", dq_, 0);
    add_gradient("dk", dk_, 1);
    add_gradient("dv", dv_, 2);
    add_gradient("di", di_, 3);
    add_gradient("df", df_, 4);
    deviations["df"].floor += 1e-4 * squared(exact[3] * at::sigmoid(-leaves[4].detach()));
    if (!options_.states) continue;
    add("C", final_.c, want.state.c);
    add_gradient("dC0", dinitial_.c, 5);
    if (!normalize_) continue;
    add("n", final_.n, want.state.n);
    add_gradient("dn0", dinitial_.n, 6);
  }
  const std::map<std::string, double> plain = plain_errors();
  std::vector<Check> checks;
  for (const auto& [name, deviation] : deviations) {
    checks.push_back({name, deviation.ratio(),
                      mlstm_allowed(name, options_.dtype == DType::kBFloat16, plain.at(name)),
                      plain.at(name)});
  }
  return checks;
}

}  // namespace

std::unique_ptr<OpCase> make_mlstm_case(const CaseOptions& options) {
  return std::make_unique<MlstmCase>(options);
}

}  // namespace lram::kernels
