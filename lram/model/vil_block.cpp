#include "lram/model/vil_block.h"

#include "lram/core/error.h"
#include "lram/model/causal_conv.h"
#include "lram/model/head_norm_gate.h"
#include "lram/model/mlstm_cell.h"
#include "lram/model/named_parameter.h"
#include "lram/model/qkv_projection.h"

namespace lram::model {
namespace {
using torch::Tensor;

/// m of a start that no token ever comes near: exp of it is 0 beside any other log gate.
constexpr double kNoStart = -1e30;

void check(const VilBlockConfig& config) {
  const std::int64_t inner = config.inner_dim();
  const auto divides = [&](std::int64_t part, const char* name) {
    if (part < 1 || inner < 1 || inner % part != 0)
      throw_error(ErrorKind::kUsage, "ViL block: {} is {}, wanted a divisor of its width {}", name,
                  part, inner);
  };
  divides(config.num_heads, "num_heads");
  divides(config.qkv_blocksize, "qkv_blocksize");
  const bool grid = config.convolution == VilConvolution::kGrid;
  if (config.conv_kernel < 1 || (grid && config.conv_kernel % 2 == 0))
    throw_error(ErrorKind::kUsage, "ViL block: conv_kernel is {}, wanted {}", config.conv_kernel,
                grid ? "an odd number" : "at least 1");
}

/// The state before the first token. The recurrence starts at C = 0 with m = 0, the package's
/// quadratic form at nothing: with eps in units of exp(-m) they differ by about eps.
MlstmState empty_start(const VilBlockConfig& config, std::int64_t batch,
                       const torch::TensorOptions& options) {
  const std::int64_t heads = config.num_heads, unit = config.inner_dim() / heads;
  return {torch::zeros({batch, heads, unit, unit}, options),
          torch::zeros({batch, heads, unit}, options),
          torch::full({batch, heads}, kNoStart, options)};
}
}  // namespace

VilBlock::VilBlock(torch::nn::Module& module, const std::string& prefix,
                   const VilBlockConfig& config, bool reversed)
    : config_(config), reversed_(reversed) {
  check(config);
  const std::int64_t dim = config.dim, inner = config.inner_dim(), heads = config.num_heads;
  const std::int64_t block = config.qkv_blocksize, kernel = config.conv_kernel;
  const auto add = [&](const std::string& name, const Tensor& value) {
    return add_parameter(module, prefix + name, value);
  };
  const auto bias = [&](const std::string& name, std::int64_t size, bool wanted) {
    return wanted ? add(name, torch::zeros({size})) : Tensor();
  };
  const bool proj_bias = config.proj_bias, norm_bias = config.norm_bias;
  norm_ = add("norm.weight", torch::zeros({dim}));
  norm_bias_ = bias("norm.bias", dim, norm_bias);
  skip_ = add("layer.learnable_skip", torch::ones({inner}));
  up_ = add("layer.proj_up.weight", small_init({2 * inner, dim}, dim));
  up_bias_ = bias("layer.proj_up.bias", 2 * inner, proj_bias);
  for (std::size_t i = 0; i < 3; ++i) {
    const std::string name = std::string("layer.") + "qkv"[i] + "_proj.";
    qkv_[i] = add(name + "weight", small_init({inner / block, block, block}, dim));
    qkv_bias_[i] = bias(name + "bias", inner, proj_bias);
  }
  const bool grid = config.convolution == VilConvolution::kGrid;
  const std::vector<std::int64_t> taps = grid ? std::vector<std::int64_t>{inner, 1, kernel, kernel}
                                              : std::vector<std::int64_t>{inner, 1, kernel};
  const std::int64_t fan_in = grid ? kernel * kernel : kernel;
  const std::string conv = "layer." + config.conv_name;
  conv_ = add(conv + ".weight", uniform_init(taps, fan_in));
  conv_bias_ = add(conv + ".bias", uniform_init({inner}, fan_in));
  const std::string cell = "layer.mlstm_cell.";
  gates_ = add_gate_maps(module, prefix + cell, heads, 3 * inner);
  head_norm_ = add(cell + "outnorm.weight", torch::zeros({inner}));
  head_norm_bias_ = bias(cell + "outnorm.bias", inner, norm_bias);
  down_ = add("layer.proj_down.weight", wang_init({dim, inner}, config.init_blocks, dim));
  down_bias_ = bias("layer.proj_down.bias", dim, proj_bias);
}

Tensor VilBlock::convolve(const Tensor& x, PatchGrid grid) const {
  if (config_.convolution == VilConvolution::kCausal)
    return causal_conv(x, /*window=*/{}, conv_, conv_bias_).y;
  const Tensor image = x.transpose(1, 2).unflatten(2, {grid.rows, grid.columns});
  return torch::conv2d(image, conv_, conv_bias_, /*stride=*/1, /*padding=*/config_.conv_kernel / 2,
                       /*dilation=*/1, /*groups=*/config_.inner_dim())
      .flatten(2)
      .transpose(1, 2)
      .contiguous();
}

Tensor VilBlock::forward(const Tensor& x, PatchGrid grid) const {
  const std::int64_t batch = x.size(0), tokens = x.size(1), heads = config_.num_heads;
  const auto turned = [&](const Tensor& y) { return reversed_ ? y.flip(1) : y; };
  const Tensor y = turned(at::layer_norm(x, {config_.dim}, norm_ + 1, norm_bias_, kBlockNormEps));
  const auto branches = at::linear(y, up_, up_bias_).chunk(2, -1);
  const Tensor conv = at::silu(convolve(branches[0], grid));
  const Tensor qkv = qkv_projection(conv, branches[0], qkv_, qkv_bias_);
  const auto parts = qkv.view({batch, tokens, 3 * heads, -1}).chunk(3, 2);
  const auto gates = gates_(qkv).chunk(2, -1);
  const Tensor h =
      mlstm_forward(parts[0], parts[1], parts[2], gates[0], gates[1],
                    empty_start(config_, batch, norm_.options().requires_grad(false)),
                    /*mask=*/{}, {.eps = config_.cell_eps, .final_state = FinalState::kDropped})
          .h;
  const Tensor gated = head_norm_gate(h, branches[1], conv, head_norm_, skip_,
                                      {.eps = kBlockNormEps, .bias = head_norm_bias_});
  return x + turned(at::linear(gated, down_, down_bias_));
}

}  // namespace lram::model
