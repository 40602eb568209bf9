#include "lram/model/xlstm_block.h"

#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "lram/core/error.h"
#include "lram/model/block_linear.h"
#include "lram/model/causal_conv.h"
#include "lram/model/mlstm_cell.h"
#include "lram/model/named_parameter.h"
#include "lram/model/qkv_projection.h"
#include "lram/model/slstm_cell.h"

namespace lram::model {
namespace {
using torch::Tensor;

constexpr double kNormEps = 1e-5;

std::int64_t round_up_to_64(double width) {
  return static_cast<std::int64_t>(std::ceil(width / 64.0)) * 64;
}

// Initial values: kernels.md 1.5, column v1.
Tensor small_init(at::IntArrayRef shape, std::int64_t embed_dim) {
  return torch::randn(shape) * std::sqrt(2.0 / (5.0 * static_cast<double>(embed_dim)));
}

Tensor wang_init(at::IntArrayRef shape, const XlstmBlockConfig& config) {
  return torch::randn(shape) * (2.0 / (static_cast<double>(config.num_blocks) *
                                       std::sqrt(static_cast<double>(config.embed_dim))));
}

Tensor uniform_init(at::IntArrayRef shape, std::int64_t fan_in) {
  return (torch::rand(shape) * 2 - 1) / std::sqrt(static_cast<double>(fan_in));
}

/// Forget gates between e^5 : 1 for the first unit of a head and 1 : e^7 for the last, nearer to
/// the latter in later blocks. [4D], gate-major i, f, z, o.
Tensor slstm_bias_init(const XlstmBlockConfig& config) {
  const std::int64_t unit = config.embed_dim / config.num_heads;
  const double depth = config.num_blocks > 1 ? static_cast<double>(config.index) /
                                                   static_cast<double>(config.num_blocks - 1)
                                             : 0.0;
  const Tensor place = torch::arange(unit, torch::kDouble) /
                       static_cast<double>(std::max<std::int64_t>(unit - 1, 1));
  Tensor bias = torch::zeros({4, config.num_heads, unit});
  bias.select(0, 1).copy_(5.0 - 12.0 * place.pow(0.3 + 1.3 * depth));
  return bias.flatten();
}

/// SiLU of the causal convolution; keeps the window.
class ConvBranch {
 public:
  ConvBranch(torch::nn::Module& module, std::int64_t dim, std::int64_t kernel)
      : dim_(dim), past_(kernel - 1) {
    weight_ =
        add_parameter(module, "xlstm.conv1d.conv.weight", uniform_init({dim, 1, kernel}, kernel));
    bias_ = add_parameter(module, "xlstm.conv1d.conv.bias", uniform_init({dim}, kernel));
  }

  Tensor initial_window(std::int64_t batch) const {
    return torch::zeros({batch, past_, dim_}, weight_.options().requires_grad(false));
  }

  Tensor forward(const Tensor& x, Tensor& window, const SequenceMask& mask) const {
    CausalConvOutput out = causal_conv(x, window, weight_, bias_, mask);
    window = std::move(out.window);
    return at::silu(out.y);
  }

 private:
  std::int64_t dim_, past_;
  Tensor weight_, bias_;
};

class MlstmBlock : public XlstmBlock {
 public:
  explicit MlstmBlock(const XlstmBlockConfig& config)
      : config_(config), conv_(*this, config.inner_dim(), config.conv_kernel) {
    const std::int64_t dim = config.embed_dim, inner = config.inner_dim(), heads = config.num_heads;
    const std::int64_t block = config.qkv_blocksize;
    const auto bias = [&](const std::string& name, std::int64_t size) {
      return config.bias ? add_parameter(*this, name, torch::zeros({size})) : Tensor();
    };
    norm_ = add_parameter(*this, "xlstm_norm.weight", torch::zeros({dim}));
    up_ = add_parameter(*this, "xlstm.proj_up.weight", small_init({2 * inner, dim}, dim));
    up_bias_ = bias("xlstm.proj_up.bias", 2 * inner);
    for (std::size_t i = 0; i < 3; ++i) {
      const std::string name = std::string("xlstm.") + "qkv"[i] + "_proj.";
      qkv_[i] =
          add_parameter(*this, name + "weight", small_init({inner / block, block, block}, dim));
      qkv_bias_[i] = bias(name + "bias", inner);
    }
    const std::string cell = "xlstm.mlstm_cell.";
    input_gate_ = add_parameter(*this, cell + "igate.weight", torch::zeros({heads, 3 * inner}));
    input_bias_ = add_parameter(*this, cell + "igate.bias", torch::randn({heads}) * 0.1);
    forget_gate_ = add_parameter(*this, cell + "fgate.weight", torch::zeros({heads, 3 * inner}));
    forget_bias_ = add_parameter(*this, cell + "fgate.bias", torch::linspace(3.0, 6.0, heads));
    head_norm_ = add_parameter(*this, cell + "outnorm.weight", torch::zeros({inner}));
    skip_ = add_parameter(*this, "xlstm.learnable_skip", torch::ones({inner}));
    down_ = add_parameter(*this, "xlstm.proj_down.weight", wang_init({dim, inner}, config));
    down_bias_ = bias("xlstm.proj_down.bias", dim);
  }

  std::vector<Tensor> initial_state(std::int64_t batch) const override {
    const std::int64_t heads = config_.num_heads, unit = config_.inner_dim() / heads;
    const auto options = norm_.options().requires_grad(false);
    return {torch::zeros({batch, heads, unit, unit}, options),
            torch::zeros({batch, heads, unit}, options), torch::zeros({batch, heads}, options),
            conv_.initial_window(batch)};
  }

  Output forward(const Tensor& x, std::span<const Tensor> state,
                 const SequenceMask& mask) override {
    const std::int64_t batch = x.size(0), tokens = x.size(1), heads = config_.num_heads;
    MlstmState before;
    Tensor window;
    if (!state.empty()) before = {state[0], state[1], state[2]}, window = state[3];

    const auto branches = at::linear(residual_norm(x, norm_), up_, up_bias_).chunk(2, -1);
    const Tensor conv = conv_.forward(branches[0], window, mask);
    const Tensor qkv = qkv_projection(conv, branches[0], qkv_, qkv_bias_);
    const auto parts = qkv.view({batch, tokens, 3 * heads, -1}).chunk(3, 2);
    const auto gates = gate_inputs(qkv).chunk(2, -1);
    MlstmOutput cell = mlstm_forward(parts[0], parts[1], parts[2], gates[0], gates[1], before, mask,
                                     {.eps = config_.cell_eps, .chunk_size = config_.chunk_size});
    const Tensor normed =
        at::layer_norm(cell.h, {cell.h.size(3)}, {}, {}, kNormEps).view({batch, tokens, -1});
    const Tensor mixed = at::addcmul(normed * (head_norm_ + 1), skip_, conv);
    const Tensor y = at::linear(mixed * at::silu(branches[1]), down_, down_bias_);
    return {x + y, {cell.state.c, cell.state.n, cell.state.m, window}};
  }

 private:
  /// i then f, [B, T, 2H]; in float32 under autocast too (f near 6 comes in steps of 0.03 in bf16).
  Tensor gate_inputs(const Tensor& qkv) const {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    return at::linear(qkv.to(input_gate_.dtype()), at::cat({input_gate_, forget_gate_}),
                      at::cat({input_bias_, forget_bias_}));
  }

  XlstmBlockConfig config_;
  std::array<Tensor, 3> qkv_, qkv_bias_;
  Tensor norm_, up_, up_bias_, input_gate_, input_bias_, forget_gate_, forget_bias_, head_norm_,
      skip_, down_, down_bias_;
  ConvBranch conv_;
};

class SlstmBlock : public XlstmBlock {
 public:
  explicit SlstmBlock(const XlstmBlockConfig& config) : config_(config) {
    const std::int64_t dim = config.embed_dim, heads = config.num_heads, unit = dim / heads;
    const std::int64_t ffn = config.ffn_dim();
    norm_ = add_parameter(*this, "xlstm_norm.weight", torch::zeros({dim}));
    if (config.conv_kernel > 0)
      conv_ = std::make_unique<ConvBranch>(*this, dim, config.conv_kernel);
    // Slots i, f, z, o. The package feeds `fgate` into slot i and `igate` into slot f.
    const char* const names[4] = {"fgate", "igate", "zgate", "ogate"};
    for (std::size_t i = 0; i < 4; ++i)
      gates_[i] = add_parameter(*this, std::string("xlstm.") + names[i] + ".weight",
                                small_init({heads, unit, unit}, dim));
    recurrent_ = add_parameter(*this, "xlstm.slstm_cell._recurrent_kernel_",
                               torch::zeros({heads, 4 * unit, unit}));
    cell_bias_ = add_parameter(*this, "xlstm.slstm_cell._bias_", slstm_bias_init(config));
    head_norm_ = add_parameter(*this, "xlstm.group_norm.weight", torch::zeros({dim}));
    if (ffn == 0) return;
    ffn_norm_ = add_parameter(*this, "ffn_norm.weight", torch::zeros({dim}));
    up_ = add_parameter(*this, "ffn.proj_up.weight", small_init({2 * ffn, dim}, dim));
    down_ = add_parameter(*this, "ffn.proj_down.weight", wang_init({dim, ffn}, config));
    if (!config.bias) return;
    up_bias_ = add_parameter(*this, "ffn.proj_up.bias", torch::zeros({2 * ffn}));
    down_bias_ = add_parameter(*this, "ffn.proj_down.bias", torch::zeros({dim}));
  }

  std::vector<Tensor> initial_state(std::int64_t batch) const override {
    const auto options = norm_.options().requires_grad(false);
    std::vector<Tensor> state = {torch::zeros({batch, 4, config_.embed_dim}, options)};
    if (conv_) state.push_back(conv_->initial_window(batch));
    return state;
  }

  Output forward(const Tensor& x, std::span<const Tensor> state,
                 const SequenceMask& mask) override {
    const std::int64_t batch = x.size(0), tokens = x.size(1), dim = x.size(2);
    Tensor before, window;
    if (!state.empty()) before = state[0];
    if (!state.empty() && conv_) window = state[1];

    const Tensor y = residual_norm(x, norm_);
    const Tensor conv = conv_ ? conv_->forward(y, window, mask) : y;
    const Tensor gates = gate_inputs(conv, y);
    SlstmOutput cell = slstm_forward(gates, recurrent_, cell_bias_, before, mask);
    const Tensor by_head = cell.h.view({batch, tokens, config_.num_heads, -1});
    const Tensor normed =
        at::layer_norm(by_head, {by_head.size(3)}, {}, {}, kNormEps).view({batch, tokens, dim});
    Output out = {at::addcmul(x, normed, head_norm_ + 1), {cell.state}};
    if (conv_) out.state.push_back(window);
    if (!up_.defined()) return out;
    const auto wide = at::linear(residual_norm(out.x, ffn_norm_), up_, up_bias_).chunk(2, -1);
    out.x = out.x + at::linear(at::gelu(wide[0]) * wide[1], down_, down_bias_);
    return out;
  }

 private:
  /// [B, T, 4D], slots i, f, z, o; in float32 under autocast too.
  Tensor gate_inputs(const Tensor& conv, const Tensor& y) const {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const Tensor c = conv.to(norm_.dtype()), plain = y.to(norm_.dtype());
    return at::cat({block_linear(c, gates_[0]), block_linear(c, gates_[1]),
                    block_linear(plain, gates_[2]), block_linear(plain, gates_[3])},
                   -1);
  }

  XlstmBlockConfig config_;
  Tensor norm_, gates_[4], recurrent_, cell_bias_, head_norm_, ffn_norm_, up_, up_bias_, down_,
      down_bias_;
  std::unique_ptr<ConvBranch> conv_;
};

void check(const XlstmBlockConfig& config) {
  const bool mlstm = config.kind == XlstmBlockKind::kMlstm;
  const std::int64_t width = mlstm ? config.inner_dim() : config.embed_dim;
  const char* const place = mlstm ? "mLSTM block" : "sLSTM block";
  if (config.num_heads < 1 || width % config.num_heads != 0)
    throw_error(ErrorKind::kUsage, "{}: num_heads is {}, wanted a divisor of its width {}", place,
                config.num_heads, width);
  if (config.conv_kernel < (mlstm ? 1 : 0))
    throw_error(ErrorKind::kUsage, "{}: conv_kernel is {}, wanted at least {}", place,
                config.conv_kernel, mlstm ? 1 : 0);
  if (mlstm && (config.qkv_blocksize < 1 || width % config.qkv_blocksize != 0))
    throw_error(ErrorKind::kUsage, "{}: qkv_blocksize is {}, wanted a divisor of its width {}",
                place, config.qkv_blocksize, width);
  if (mlstm && config.chunk_size < 1)
    throw_error(ErrorKind::kUsage, "{}: chunk_size is {}, wanted at least 1", place,
                config.chunk_size);
}

}  // namespace

std::int64_t XlstmBlockConfig::inner_dim() const {
  return round_up_to_64(proj_factor * static_cast<double>(embed_dim));
}

std::int64_t XlstmBlockConfig::ffn_dim() const {
  return round_up_to_64(ffn_factor * static_cast<double>(embed_dim));
}

std::shared_ptr<XlstmBlock> make_xlstm_block(const XlstmBlockConfig& config) {
  check(config);
  switch (config.kind) {
    case XlstmBlockKind::kMlstm:
      return std::make_shared<MlstmBlock>(config);
    case XlstmBlockKind::kSlstm:
      return std::make_shared<SlstmBlock>(config);
  }
  throw_error(ErrorKind::kInternal, "xLSTM block kind {} is unknown",
              static_cast<int>(config.kind));
}

torch::Tensor residual_norm(const torch::Tensor& x, const torch::Tensor& weight) {
  return at::layer_norm(x, {weight.size(0)}, weight + 1, {}, kNormEps);
}

}  // namespace lram::model
