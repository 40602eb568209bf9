#include "lram/model/vil.h"

#include <cmath>

#include "lram/core/error.h"
#include "lram/model/block_parts.h"
#include "lram/model/named_parameter.h"

namespace lram::model {
namespace {
using torch::Tensor;

constexpr double kPositionStd = 0.02;
constexpr double kFinalNormEps = 1e-6;

/// Uniform within sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010).
Tensor xavier_init(at::IntArrayRef shape, std::int64_t fan_in, std::int64_t fan_out) {
  const double bound = std::sqrt(6.0 / static_cast<double>(fan_in + fan_out));
  return (torch::rand(shape) * 2 - 1) * bound;
}

/// Checks what the parts built before the constructor's body rely on.
const VilConfig& checked(const VilConfig& config) {
  const auto refuse = [](const char* name, std::int64_t value, const char* wanted) {
    throw_error(ErrorKind::kUsage, "ViL: {} is {}, wanted {}", name, value, wanted);
  };
  if (config.version != 1 && config.version != 2) refuse("version", config.version, "1 or 2");
  if (config.dim < 1) refuse("dim", config.dim, "at least 1");
  if (config.num_blocks < 1) refuse("num_blocks", config.num_blocks, "at least 1");
  if (config.version == 2 && config.num_blocks % 2 != 0)
    refuse("num_blocks", config.num_blocks, "an even number: version 2 scans in pairs");
  return config;
}

VilBlockConfig block_config(const VilConfig& config) {
  VilBlockConfig block;
  block.dim = config.dim;
  block.convolution = config.convolution;
  const bool causal = config.convolution == VilConvolution::kCausal;
  // Version 2 always convolves with 3 taps, whatever its conv_kernel_size says.
  block.conv_kernel = config.version == 1 ? 4 : 3;
  block.conv_name = config.version == 1 ? "conv1d.conv" : causal ? "conv.conv" : "conv";
  block.proj_bias = config.proj_bias;
  block.norm_bias = config.norm_bias;
  block.init_blocks = config.scaled_output ? config.num_blocks : 1;
  return block;
}

std::string block_prefix(int version, std::int64_t scan) {
  if (version == 1) return fmt::format("blocks.{}.", scan);
  return fmt::format("blocks.{}.{}.", scan / 2,
                     scan % 2 == 0 ? "rowwise_from_top_left" : "rowwise_from_bot_right");
}
}  // namespace

VilConfig VilConfig::v1() {
  VilConfig config;
  config.version = 1;
  config.pooling = VilPooling::kAverage;
  config.convolution = VilConvolution::kCausal;
  config.proj_bias = config.norm_bias = false;
  return config;
}

VilConfig& VilConfig::set_size(const std::string& size) {
  if (size == "tiny")
    dim = 192;
  else if (size == "small")
    dim = 384;
  else if (size == "base")
    dim = 768;
  else
    throw_error(ErrorKind::kUsage, "ViL: size is '{}', wanted tiny, small or base", size);
  num_blocks = 24;
  return *this;
}

VisionLstm::VisionLstm(const VilConfig& config)
    : config_(checked(config)),
      embedding_(*this, config.channels, config.height, config.width, config.patch, config.dim) {
  const torch::NoGradGuard no_grad;
  const std::int64_t dim = config.dim;
  embedding_.weight().copy_(
      xavier_init(embedding_.weight().sizes(), config.channels * config.patch * config.patch, dim));
  // The package's trunc_normal_ cuts at +-2, a hundred deviations away.
  embedding_.position_table().normal_(0.0, kPositionStd);

  const VilBlockConfig block = block_config(config);
  for (std::int64_t scan = 0; scan < config.num_blocks; ++scan)
    blocks_.emplace_back(*this, block_prefix(config.version, scan), block,
                         /*reversed=*/scan % 2 == 1);

  const auto norm = [&](const std::string& name, std::int64_t size, bool residual, bool bias,
                        double eps) {
    Norm out;
    out.weight = add_parameter(*this, name + ".weight",
                               residual ? torch::zeros({size}) : torch::ones({size}));
    if (bias) out.bias = add_parameter(*this, name + ".bias", torch::zeros({size}));
    out.residual = residual;
    out.eps = eps;
    return out;
  };
  const std::int64_t pooled = config.pooling == VilPooling::kFlatten ? 2 * dim : dim;
  if (config.version == 1) {
    if (config.legacy_norm)
      token_norm_ = norm("legacy_norm", dim, /*residual=*/true, /*bias=*/false, kBlockNormEps);
    pooled_norm_ = norm("norm", pooled, /*residual=*/false, /*bias=*/true, kFinalNormEps);
  } else {
    token_norm_ = norm("norm", dim, /*residual=*/true, config.norm_bias, kFinalNormEps);
    if (config.legacy_norm)
      pooled_norm_ = norm("legacy_norm", pooled, /*residual=*/false, /*bias=*/true, kBlockNormEps);
  }
  head_ = add_parameter(*this, "head.weight",
                        torch::randn({config.num_outputs, pooled}) * config.head_std);
  head_bias_ = add_parameter(*this, "head.bias", torch::zeros({config.num_outputs}));
}

Tensor VisionLstm::Norm::operator()(const Tensor& x) const {
  if (!weight.defined()) return x;
  return at::layer_norm(x, {weight.size(0)}, residual ? weight + 1 : weight, bias, eps);
}

Tensor VisionLstm::run(const Tensor& image, Stages* stages) {
  const PatchEmbedding::Output patches = embedding_.forward(image);
  Tensor x = patches.tokens;
  if (stages != nullptr) stages->tokens = x;
  for (const VilBlock& block : blocks_) {
    x = block.forward(x, patches.grid);
    if (stages != nullptr) stages->blocks.push_back(x);
  }
  x = token_norm_(x);
  const Tensor first = x.select(1, 0), last = x.select(1, x.size(1) - 1);
  const Tensor pooled = pooled_norm_(
      config_.pooling == VilPooling::kFlatten ? at::cat({first, last}, 1) : (first + last) / 2);
  const Tensor out = at::linear(pooled, head_, head_bias_);
  if (stages != nullptr) stages->normed = x, stages->pooled = pooled, stages->out = out;
  return out;
}

VisionLstm::Stages VisionLstm::stages(const Tensor& image) {
  Stages out;
  run(image, &out);
  return out;
}

}  // namespace lram::model
