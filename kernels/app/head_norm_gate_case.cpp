// head_norm_gate as a row of `lram bench kernels`: the first version's with SiLU, xLSTM-7B's with
// sigmoid; checked against LibTorch in float64.
#include <torch/autograd.h>
#include <torch/utils.h>

#include <cmath>
#include <limits>

#include "kernels/app/op_case.h"
#include "kernels/head_norm_gate/head_norm_gate.h"
#include "lram/model/head_norm_gate.h"
#include "lram/model/kernel_call.h"

namespace lram::kernels {
namespace {
using model::floats;
using model::head_view;
using torch::Tensor;

class HeadNormGateCase : public OpCase {
 public:
  explicit HeadNormGateCase(const CaseOptions& options) : options_(options) {
    torch::manual_seed(options.seed);
    const Shape& s = options.shape;
    const bool half = options.dtype == DType::kBFloat16;
    const auto data = torch::device(torch::kCUDA).dtype(half ? torch::kBFloat16 : torch::kFloat);
    const auto f32 = torch::device(torch::kCUDA).dtype(torch::kFloat);
    const std::vector<std::int64_t> sizes = {s.batch, s.tokens, s.heads, s.value_dim};
    with_conv_ = !options.sigmoid;
    torch_ = options.sigmoid
                 ? model::HeadNormGateOptions{.sigmoid = true, .eps = 1e-6, .weight_offset = 0.0}
                 : model::HeadNormGateOptions{};
    h_ = torch::randn(sizes, data), z_ = torch::randn(sizes, data), dy_ = torch::randn(sizes, data);
    y_ = torch::empty_like(h_), dh_ = torch::empty_like(h_), dz_ = torch::empty_like(h_);
    const std::int64_t columns = std::int64_t{s.heads} * s.value_dim;
    weight_ = torch::randn({columns}, f32), dweight_ = torch::empty_like(weight_);
    dot_ = torch::empty({s.batch, s.tokens, s.heads}, f32);
    if (with_conv_) {
      conv_ = torch::randn(sizes, data), dconv_ = torch::empty_like(conv_);
      skip_ = torch::randn({columns}, f32), dskip_ = torch::empty_like(skip_);
    }
    HeadNormGateProblem& p = forward_.problem;
    p.batch = s.batch, p.tokens = s.tokens, p.heads = s.heads, p.dim = s.value_dim;
    p.dtype = options.dtype;
    p.gate = options.sigmoid ? GateFunction::kSigmoid : GateFunction::kSilu;
    p.eps = static_cast<float>(torch_.eps);
    p.weight_offset = static_cast<float>(torch_.weight_offset);
    p.h = head_view(h_), p.z = head_view(z_), p.conv = head_view(conv_);
    p.weight = floats(weight_), p.skip = floats(skip_);
    forward_.y = head_view(y_);
    backward_.problem = p;
    backward_.dy = head_view(dy_), backward_.dh = head_view(dh_), backward_.dz = head_view(dz_);
    backward_.dconv = head_view(dconv_);
    backward_.dweight = floats(dweight_), backward_.dskip = floats(dskip_);
    backward_.dh_dot_h = model::gate_view(dot_);
    backward_.workspace_bytes = head_norm_gate_workspace_bytes(p);
    workspace_ = model::device_bytes(backward_.workspace_bytes, h_);
    backward_.workspace = workspace_.mutable_data_ptr();
  }

  std::string implementation() const override { return options_.sigmoid ? "sigmoid" : "silu+skip"; }
  void forward() override {
    forward_.stream = model::current_stream(h_);
    head_norm_gate_forward(forward_);
  }
  void backward() override {
    backward_.stream = model::current_stream(h_);
    head_norm_gate_backward(backward_);
  }
  Work forward_work() const override { return {bytes(with_conv_ ? 4.0 : 3.0), 0.0}; }
  Work backward_work() const override { return {bytes(with_conv_ ? 7.0 : 5.0), 0.0}; }
  double memory_bytes() const override {
    return bytes(with_conv_ ? 4.0 : 3.0) + static_cast<double>(workspace_.nbytes());
  }

  std::vector<Check> check() override {
    for (Tensor* x : {&y_, &dh_, &dz_, &dconv_, &dweight_, &dskip_, &dot_})
      if (x->defined()) x->fill_(std::numeric_limits<double>::quiet_NaN());
    forward();
    backward();
    const auto leaf = [](const Tensor& x, bool flat) {
      if (!x.defined()) return x;
      return (flat ? x.flatten(2) : x).to(torch::kDouble).requires_grad_();
    };
    const Tensor h = leaf(h_, false), z = leaf(z_, true), conv = leaf(conv_, true);
    const Tensor weight = weight_.to(torch::kDouble).requires_grad_();
    const Tensor skip = with_conv_ ? skip_.to(torch::kDouble).requires_grad_() : Tensor();
    const Tensor y = model::head_norm_gate(h, z, conv, weight, skip, torch_);
    std::vector<Tensor> leaves = {h, z, weight};
    if (with_conv_) leaves.push_back(conv), leaves.push_back(skip);
    const auto g = torch::autograd::grad({y}, leaves, {dy_.flatten(2).to(torch::kDouble)});
    const bool half = options_.dtype == DType::kBFloat16;
    const double rounded = half ? 2.5e-3 : 1e-5, exact = 1e-5;
    std::vector<Check> out = {{"y", error(y_, y), rounded},
                              {"dh", error(dh_, g[0]), rounded},
                              {"dz", error(dz_, g[1]), rounded},
                              {"dweight", error(dweight_, g[2]), exact},
                              {"dh.h", error(dot_, (g[0] * h).sum(-1)), exact}};
    if (with_conv_) {
      out.push_back({"dconv", error(dconv_, g[3]), rounded});
      out.push_back({"dskip", error(dskip_, g[4]), exact});
    }
    return out;
  }

 private:
  double bytes(double tensors) const { return tensors * static_cast<double>(h_.nbytes()); }
  static double error(const Tensor& got, const Tensor& want) {
    const Tensor wanted = want.detach().flatten();
    const double out =
        ((got.to(torch::kDouble).flatten() - wanted).norm() / wanted.norm()).item<double>();
    return out == out ? out : std::numeric_limits<double>::infinity();
  }

  CaseOptions options_;
  bool with_conv_ = true;
  model::HeadNormGateOptions torch_;
  Tensor h_, z_, conv_, dy_, weight_, skip_, y_, dh_, dz_, dconv_, dweight_, dskip_, dot_,
      workspace_;
  HeadNormGateForward forward_;
  HeadNormGateBackward backward_;
};

}  // namespace

std::unique_ptr<OpCase> make_head_norm_gate_case(const CaseOptions& options) {
  return std::make_unique<HeadNormGateCase>(options);
}

}  // namespace lram::kernels
