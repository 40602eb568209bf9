// The CUDA kernels behind mlstm_forward() and head_norm_gate() against LibTorch in float64.
#include "lram/model/mlstm_kernel.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/cuda.h>
#include <torch/utils.h>

#include <string>
#include <vector>

#include "lram/model/head_norm_gate.h"
#include "lram/model/kernel_call.h"
#include "lram/model/xlstm_block.h"
#include "tests/lram/model/random_sequence.h"

namespace lram::model {
namespace {
using test::Draw;
using test::relative_error;
using torch::Tensor;

// The kernels' own tests hold their accuracy; these hold that every tensor arrives where it should.
// float32 sums of some hundred terms; bf16 operands of them, each rounded by up to 2^-9.
double tolerance(at::ScalarType dtype) { return dtype == torch::kBFloat16 ? 3e-2 : 2e-4; }

class MlstmKernel : public testing::Test {
 protected:
  void TearDown() override { set_kernel_use(before_); }
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no NVIDIA GPU that LibTorch can use";
    if (!kernels_take(torch::zeros({1}, torch::kCUDA)))
      GTEST_SKIP() << "built without a CUDA compiler";
    before_ = set_kernel_use(KernelUse::kAlways);
  }
  KernelUse before_ = kernel_use();
};

Tensor on_gpu(const Tensor& x) { return x.defined() ? x.to(torch::kCUDA) : x; }

SequenceMask on_gpu(const SequenceMask& mask) {
  return {on_gpu(mask.reset), on_gpu(mask.begin), on_gpu(mask.end)};
}

struct Case {
  std::vector<Tensor> inputs;  // q, k, v, i, f, c0, n0 (the last two may be undefined), float64
  Tensor m0, dh, dc, dn;
  SequenceMask mask;
  MlstmOptions options;

  /// h, c, n, m (h alone where the state is dropped) and the gradients of the inputs.
  std::vector<Tensor> run(at::ScalarType dtype, bool kernel) const {
    std::vector<Tensor> leaves, in;
    for (std::size_t n = 0; n < inputs.size(); ++n) {
      if (!inputs[n].defined()) {
        in.emplace_back();
        continue;
      }
      leaves.push_back(on_gpu(kernel ? inputs[n].to(n < 3 ? dtype : torch::kFloat) : inputs[n])
                           .requires_grad_());
      in.push_back(leaves.back());
    }
    MlstmOptions chosen = options;
    if (!kernel) chosen.form = MlstmForm::kQuadratic;
    const MlstmState initial =
        in[5].defined() ? MlstmState{in[5], in[6], on_gpu(m0).to(in[5].dtype())} : MlstmState();
    const MlstmOutput out =
        kernel
            ? mlstm_kernel(in[0], in[1], in[2], in[3], in[4], initial, on_gpu(mask), chosen).value()
            : mlstm_forward(in[0], in[1], in[2], in[3], in[4], initial, on_gpu(mask), chosen);
    const bool kept = options.final_state == FinalState::kKept;
    std::vector<Tensor> outputs = {out.h}, upstream = {dh};
    if (kept) outputs.push_back(out.state.c), upstream.push_back(dc);
    if (kept && options.normalize) outputs.push_back(out.state.n), upstream.push_back(dn);
    for (std::size_t n = 0; n < upstream.size(); ++n)
      upstream[n] = on_gpu(upstream[n]).to(outputs[n].dtype());
    auto gradients = torch::autograd::grad(outputs, leaves, upstream, {}, false, true);
    std::vector<Tensor> all = outputs;
    if (kept) all.push_back(out.state.m);
    all.insert(all.end(), gradients.begin(), gradients.end());
    return all;
  }
};

Case random_case(Draw& draw, at::ScalarType dtype) {
  Case out;
  const std::int64_t batch = draw.integer(1, 3), tokens = draw.integer(1, 300);
  const std::int64_t heads = draw.integer(1, 3), value = 8 * draw.integer(1, 16),
                     key = draw.coin() ? value : 8 * draw.integer(1, 16);
  out.options.input_gate = draw.coin() ? InputGate::kExp : InputGate::kSigmoid;
  out.options.normalize = out.options.input_gate == InputGate::kExp || draw.coin();
  out.options.final_state = draw.coin() ? FinalState::kKept : FinalState::kDropped;
  out.mask = draw.mask(batch, tokens);
  // Rounded first: both sides read the same numbers.
  const auto input = [&](at::IntArrayRef shape, at::ScalarType type, double mean) {
    return test::poison((draw.normal(shape, torch::kDouble) + mean).to(type).to(torch::kDouble),
                        out.mask);
  };
  out.inputs = {input({batch, tokens, heads, key}, dtype, 0),
                input({batch, tokens, heads, key}, dtype, 0),
                input({batch, tokens, heads, value}, dtype, 0),
                input({batch, tokens, heads}, torch::kFloat, -1),
                input({batch, tokens, heads}, torch::kFloat, 4),
                Tensor(),
                Tensor()};
  const auto state = [&](at::IntArrayRef shape) {
    return draw.normal(shape, torch::kFloat).to(torch::kDouble);
  };
  if (draw.coin()) {
    out.inputs[5] = state({batch, heads, key, value});
    out.inputs[6] = state({batch, heads, key});
    out.m0 = state({batch, heads});
  }
  out.dh = draw.normal({batch, tokens, heads, value}, torch::kDouble).to(dtype).to(torch::kDouble);
  out.dc = state({batch, heads, key, value});
  out.dn = state({batch, heads, key});
  return out;
}

TEST_F(MlstmKernel, EqualsTheReference) {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    const auto dtype = seed % 2 == 0 ? torch::kBFloat16 : torch::kFloat;
    Draw draw(seed);
    const Case made = random_case(draw, dtype);
    const auto got = made.run(dtype, true), want = made.run(dtype, false);
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t n = 0; n < got.size(); ++n) {
      if (!got[n].defined()) {  // an n0 that nothing reads has no gradient
        EXPECT_TRUE(!want[n].defined() || want[n].norm().item<double>() == 0.0) << n;
        continue;
      }
      EXPECT_EQ(got[n].sizes(), want[n].sizes());
      EXPECT_LE(relative_error(got[n], want[n]), tolerance(dtype))
          << "seed " << seed << ", result " << n << " of h, c, (n), m and the gradients, q is "
          << made.inputs[0].sizes();
    }
    EXPECT_EQ(got[0].scalar_type(), dtype);
  }
}

TEST_F(MlstmKernel, TakesSlicesOfAProjectionAndLeavesTheRestToLibTorch) {
  torch::manual_seed(2);
  const auto options = torch::dtype(torch::kBFloat16).device(torch::kCUDA);
  const Tensor all = torch::randn({2, 50, 12, 32}, options);
  const Tensor gates = torch::randn({2, 50, 8}, options.dtype(torch::kFloat));
  const auto parts = all.chunk(3, 2), gate = gates.chunk(2, -1);
  const auto run = [&](const Tensor& q, const Tensor& k, const Tensor& v) {
    return mlstm_kernel(q, k, v, gate[0], gate[1], {}, {}, {});
  };
  const auto sliced = run(parts[0], parts[1], parts[2]);
  const auto dense = run(parts[0].contiguous(), parts[1].contiguous(), parts[2].contiguous());
  ASSERT_TRUE(sliced && dense);
  EXPECT_TRUE(torch::equal(sliced->h, dense->h));
  EXPECT_FALSE(run(parts[0].to(torch::kDouble), parts[1], parts[2]));
  const auto odd = [&](const Tensor& x) { return x.narrow(3, 0, 12); };
  EXPECT_FALSE(run(odd(parts[0]), odd(parts[1]), odd(parts[2])));  // 12 is no multiple of 8
  const KernelUse before = set_kernel_use(KernelUse::kNever);
  EXPECT_FALSE(run(parts[0], parts[1], parts[2]));
  set_kernel_use(before);
}

TEST_F(MlstmKernel, HeadNormGateEqualsLibTorch) {
  for (std::uint64_t seed = 0; seed < 24; ++seed) {
    Draw draw(seed);
    const auto dtype = seed % 2 == 0 ? torch::kBFloat16 : torch::kFloat;
    const std::int64_t batch = draw.integer(1, 4), tokens = draw.integer(1, 60),
                       heads = draw.integer(1, 4), dim = 8 * draw.integer(1, 80);
    const bool with_conv = draw.coin();
    const HeadNormGateOptions options{.sigmoid = draw.coin(),
                                      .eps = draw.coin() ? 1e-5 : 1e-2,
                                      .weight_offset = draw.coin() ? 1.0 : 0.0};
    const auto rounded = [&](at::IntArrayRef shape, at::ScalarType type) {
      return draw.normal(shape, torch::kDouble).to(type).to(torch::kDouble);
    };
    std::vector<Tensor> inputs = {rounded({batch, tokens, heads, dim}, dtype),
                                  rounded({batch, tokens, heads * dim}, dtype),
                                  rounded({heads * dim}, torch::kFloat)};
    if (with_conv) {
      inputs.push_back(rounded({batch, tokens, heads * dim}, dtype));
      inputs.push_back(rounded({heads * dim}, torch::kFloat));
    }
    const Tensor upstream = rounded({batch, tokens, heads * dim}, dtype);
    const auto run = [&](bool kernel) {
      std::vector<Tensor> x;
      for (std::size_t n = 0; n < inputs.size(); ++n)
        x.push_back(
            on_gpu(kernel ? inputs[n].to(n % 2 == 0 && n > 0 ? torch::kFloat : dtype) : inputs[n])
                .requires_grad_());
      const Tensor y = head_norm_gate(x[0], x[1], with_conv ? x[3] : Tensor(), x[2],
                                      with_conv ? x[4] : Tensor(), options);
      auto out = torch::autograd::grad({y}, x, {on_gpu(upstream).to(y.dtype())});
      out.push_back(y);
      return out;
    };
    const auto got = run(true), want = run(false);
    for (std::size_t n = 0; n < want.size(); ++n)
      EXPECT_LE(relative_error(got[n], want[n]), dtype == torch::kFloat ? 1e-4 : 1e-2)
          << "seed " << seed << ", gradient " << n << " of h, z, weight, (conv, skip), then y";
  }
}

TEST_F(MlstmKernel, TheNormBehindGivesDhDotH) {
  // Behind the norm dh . h is nearly nothing; the sum over bf16 dh and h is noise of 1e-2 |dh| |h|.
  torch::manual_seed(6);
  const auto options = torch::dtype(torch::kBFloat16).device(torch::kCUDA);
  const auto input = [&] { return torch::randn({2, 100, 2, 64}, options).requires_grad_(); };
  const Tensor q = input(), k = input(), v = input();
  const auto gate = [&](double mean) {
    return (torch::randn({2, 100, 2}, options.dtype(torch::kFloat)) + mean).requires_grad_();
  };
  const Tensor i = gate(0), f = gate(3), z = torch::randn({2, 100, 128}, options);
  const Tensor weight = torch::ones({128}, options.dtype(torch::kFloat));
  const auto cell = mlstm_kernel(q, k, v, i, f, {}, {}, {});
  ASSERT_TRUE(cell);
  EXPECT_EQ(mlstm_kernel_dot(cell->h).sizes(), at::IntArrayRef({2, 100, 2}));
  EXPECT_FALSE(mlstm_kernel_dot(cell->h.clone()).defined());
  EXPECT_FALSE(mlstm_kernel_dot(cell->state.c).defined());
  const HeadNormGateOptions gate_options{.sigmoid = true, .eps = 1e-6, .weight_offset = 0.0};
  const Tensor upstream = torch::randn({2, 100, 128}, options);
  const auto gradient = [&](const Tensor& h) {
    const Tensor y = head_norm_gate(h, z, {}, weight, {}, gate_options);
    return torch::autograd::grad({y}, {q, f}, {upstream}, /*retain_graph=*/true);
  };
  std::vector<Tensor> leaves;
  for (const Tensor& x : {q, k, v, i, f})
    leaves.push_back(x.detach().to(torch::kDouble).requires_grad_());
  const Tensor h64 = mlstm_forward(leaves[0], leaves[1], leaves[2], leaves[3], leaves[4]).h;
  const Tensor y64 =
      head_norm_gate(h64, z.to(torch::kDouble), {}, weight.to(torch::kDouble), {}, gate_options);
  const auto want =
      torch::autograd::grad({y64}, {leaves[0], leaves[4]}, {upstream.to(torch::kDouble)});
  const auto with_dot = gradient(cell->h), without = gradient(cell->h.clone());
  EXPECT_LE(relative_error(with_dot[0], want[0]), 1.5e-2);
  EXPECT_LE(relative_error(with_dot[0], want[0]), relative_error(without[0], want[0]));
}

/// Output and parameters' gradients of a block.
std::vector<Tensor> run_block(XlstmBlock& block, const Tensor& x, const SequenceMask& mask,
                              bool kernels, bool autocast) {
  const KernelUse before = set_kernel_use(kernels ? KernelUse::kAlways : KernelUse::kNever);
  block.zero_grad();
  at::autocast::set_autocast_enabled(torch::kCUDA, autocast);
  at::autocast::set_autocast_dtype(torch::kCUDA, torch::kBFloat16);
  const Tensor y = block.forward(x, {}, mask).x;
  at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(torch::kCUDA, false);
  y.to(torch::kFloat).pow(2).mean().backward();
  std::vector<Tensor> out = {y.detach()};
  for (const auto& item : block.named_parameters()) out.push_back(item.value().grad().clone());
  set_kernel_use(before);
  return out;
}

TEST_F(MlstmKernel, ABlockComputesTheSameOnBothPaths) {
  for (const bool autocast : {false, true}) {
    torch::manual_seed(4);
    const auto block = make_xlstm_block({.embed_dim = 128, .num_heads = 4, .num_blocks = 2});
    for (const auto& item : block->named_parameters()) {  // gate weights start at zero
      torch::NoGradGuard no_grad;
      if (item.key().find("gate.weight") != std::string::npos) item.value().normal_(0.0, 0.02);
    }
    block->to(torch::kCUDA);
    const Tensor x = torch::randn({3, 150, 128}, torch::kCUDA);
    SequenceMask mask;
    mask.reset = torch::rand({3, 150}, torch::kCUDA).lt(0.02).to(torch::kUInt8);
    const auto got = run_block(*block, x, mask, true, autocast);
    const auto want = run_block(*block, x, mask, false, autocast);
    // Under autocast both sides round to bf16, in other places.
    for (std::size_t n = 0; n < got.size(); ++n)
      EXPECT_LE(relative_error(got[n], want[n]), autocast ? 4e-2 : 1e-3)
          << (n == 0 ? "output" : block->named_parameters().keys()[n - 1])
          << (autocast ? " under autocast" : "");
  }
}

}  // namespace
}  // namespace lram::model
