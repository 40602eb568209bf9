#include "lram/model/vit.h"

#include "lram/core/error.h"
#include "lram/model/named_parameter.h"

namespace lram::model {
namespace {
using torch::Tensor;

constexpr double kInitStd = 0.02;
constexpr double kNormEps = 1e-6;  // timm's

const VitConfig& checked(const VitConfig& config) {
  if (config.num_blocks < 1)
    throw_error(ErrorKind::kUsage, "ViT: num_blocks is {}, wanted at least 1", config.num_blocks);
  if (config.num_heads < 1 || config.dim < 1 || config.dim % config.num_heads != 0)
    throw_error(ErrorKind::kUsage, "ViT: num_heads is {}, wanted a divisor of its width {}",
                config.num_heads, config.dim);
  return config;
}
}  // namespace

VisionTransformer::VisionTransformer(const VitConfig& config)
    : config_(checked(config)),
      embedding_(*this, config.channels, config.height, config.width, config.patch, config.dim) {
  const torch::NoGradGuard no_grad;
  const std::int64_t dim = config.dim;
  embedding_.weight().normal_(0.0, kInitStd);
  embedding_.position_table().normal_(0.0, kInitStd);
  const auto affine = [&](const std::string& name, const Tensor& weight) {
    return Affine{add_parameter(*this, name + ".weight", weight),
                  add_parameter(*this, name + ".bias", torch::zeros({weight.size(0)}))};
  };
  const auto linear = [&](const std::string& name, std::int64_t in, std::int64_t out) {
    return affine(name, torch::randn({out, in}) * kInitStd);
  };
  const auto norm_of = [&](const std::string& name) { return affine(name, torch::ones({dim})); };
  for (std::int64_t i = 0; i < config.num_blocks; ++i) {
    const std::string block = fmt::format("blocks.{}.", i);
    blocks_.push_back({.norm_1 = norm_of(block + "norm1"),
                       .qkv = linear(block + "attn.qkv", dim, 3 * dim),
                       .out = linear(block + "attn.proj", dim, dim),
                       .norm_2 = norm_of(block + "norm2"),
                       .up = linear(block + "mlp.fc1", dim, 4 * dim),
                       .down = linear(block + "mlp.fc2", 4 * dim, dim)});
  }
  norm_ = norm_of("norm");
  head_ = linear("head", dim, config.num_outputs);
}

Tensor VisionTransformer::norm(const Tensor& x, const Affine& affine) const {
  return at::layer_norm(x, {config_.dim}, affine.weight, affine.bias, kNormEps);
}

Tensor VisionTransformer::attend(const Block& block, const Tensor& x) const {
  const std::int64_t batch = x.size(0), tokens = x.size(1), heads = config_.num_heads;
  const auto qkv = at::linear(x, block.qkv.weight, block.qkv.bias)
                       .view({batch, tokens, 3, heads, -1})
                       .permute({2, 0, 3, 1, 4})
                       .unbind(0);  // [B, heads, N, D / heads] each
  const Tensor y = at::scaled_dot_product_attention(qkv[0], qkv[1], qkv[2]);
  return at::linear(y.transpose(1, 2).reshape({batch, tokens, -1}), block.out.weight,
                    block.out.bias);
}

Tensor VisionTransformer::forward(const Tensor& image) {
  Tensor x = embedding_.forward(image).tokens;
  for (const Block& block : blocks_) {
    x = x + attend(block, norm(x, block.norm_1));
    const Tensor wide = at::linear(norm(x, block.norm_2), block.up.weight, block.up.bias);
    x = x + at::linear(at::gelu(wide), block.down.weight, block.down.bias);
  }
  return at::linear(norm(x, norm_).mean(1), head_.weight, head_.bias);
}

}  // namespace lram::model
