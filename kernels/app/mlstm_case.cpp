// The mLSTM as a row of `lram bench kernels`, checked against LibTorch's mlstm_forward in float64.
#include <torch/autograd.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/app/op_case.h"
#include "kernels/mlstm/mlstm_implementation.h"
#include "lram/model/kernel_call.h"
#include "lram/model/mlstm_cell.h"

namespace lram::kernels {
namespace {
using model::floats;
using model::gate_view;
using model::head_view;
using torch::Tensor;

double squared(const Tensor& x) { return x.to(torch::kDouble).pow(2).sum().item<double>(); }

/// Sums over slices of one compared tensor.
struct Deviation {
  double error = 0.0, size = 0.0, floor = 0.0;
  double ratio() const {
    const double scale = std::sqrt(std::max(size, floor));
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

std::vector<Check> MlstmCase::check() {
  for (Tensor* x :
       {&h_out_, &dq_, &dk_, &dv_, &di_, &df_, &final_.c, &final_.n, &dinitial_.c, &dinitial_.n})
    if (x->defined()) x->fill_(std::numeric_limits<double>::quiet_NaN());
  forward();
  backward();
  const bool half = options_.dtype == DType::kBFloat16;
  // Bars of bf16: one rounding of the outputs, sums of rounded products in the gradients.
  const auto bar = [&](double bf16) { return half ? bf16 : 1e-5; };
  std::vector<Check> checks = {{"h", 0, bar(5e-3)},  {"dq", 0, bar(1e-2)}, {"dk", 0, bar(1e-2)},
                               {"dv", 0, bar(5e-3)}, {"di", 0, bar(1e-2)}, {"df", 0, bar(1.5e-2)}};
  if (options_.states) {
    checks.push_back({"c", 0, bar(5e-3)});
    checks.push_back({"dc0", 0, bar(1e-2)});
    if (normalize_) {
      checks.push_back({"n", 0, bar(5e-3)});
      checks.push_back({"dn0", 0, bar(1e-2)});
    }
  }
  std::vector<Deviation> deviations(checks.size());

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
    const auto reference = [&] {
      const model::MlstmState initial =
          options_.states ? model::MlstmState{leaves[5], leaves[6], part(initial_.m)}
                          : model::MlstmState();
      return model::mlstm_forward(
          leaves[0], leaves[1], leaves[2], leaves[3], leaves[4], initial,
          {.reset = reset_.defined() ? reset_.narrow(0, row, rows) : Tensor()},
          {.input_gate = options_.sigmoid ? model::InputGate::kSigmoid : model::InputGate::kExp,
           .normalize = normalize_,
           .form = t_ <= 256 ? model::MlstmForm::kQuadratic : model::MlstmForm::kChunkwise});
    };
    const auto gradients = [&](const model::MlstmOutput& out) {
      std::vector<Tensor> results = {out.h}, upstream = {part(dh_)};
      if (options_.states) {
        results.push_back(out.state.c), upstream.push_back(part(dfinal_.c));
        if (normalize_) results.push_back(out.state.n), upstream.push_back(part(dfinal_.n));
      }
      return torch::autograd::grad(results, leaves, upstream, {}, false, true);
    };
    const model::MlstmOutput want = reference();
    const std::vector<Tensor> exact = gradients(want);
    const auto add = [&](const char* name, const Tensor& got, const Tensor& wanted, double floor) {
      for (std::size_t n = 0; n < checks.size(); ++n) {
        if (checks[n].name != name) continue;
        deviations[n].error += squared(part(got) - wanted);
        deviations[n].size += squared(wanted);
        deviations[n].floor += floor;
      }
    };
    add("h", h_out_, want.h, 0.0);
    add("dq", dq_, exact[0], 0.0);
    add("dk", dk_, exact[1], 0.0);
    add("dv", dv_, exact[2], 0.0);
    add("di", di_, exact[3], 0.0);
    add("df", df_, exact[4], 1e-4 * squared(exact[3] * at::sigmoid(-leaves[4].detach())));
    if (!options_.states) continue;
    add("c", final_.c, want.state.c, 0.0);
    add("dc0", dinitial_.c, exact[5], 0.0);
    if (!normalize_) continue;
    add("n", final_.n, want.state.n, 0.0);
    add("dn0", dinitial_.n, exact[6], 0.0);
  }
  for (std::size_t n = 0; n < checks.size(); ++n) checks[n].error = deviations[n].ratio();
  return checks;
}

}  // namespace

std::unique_ptr<OpCase> make_mlstm_case(const CaseOptions& options) {
  return std::make_unique<MlstmCase>(options);
}

}  // namespace lram::kernels
