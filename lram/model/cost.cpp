#include "lram/model/cost.h"

#include <torch/nn/module.h>

#include <string>

#include "lram/core/error.h"
#include "lram/model/mamba.h"
#include "lram/model/policy.h"
#include "lram/model/shapes_only.h"
#include "lram/model/vil_block.h"
#include "lram/model/xlstm_backbone.h"
#include "lram/model/xlstm_large.h"
#include "lram/tokenization/sequence.h"

namespace lram::model {
namespace {
using tokenization::kTokensPerStep;

constexpr std::int64_t kFloatBytes = 4;

/// Parameters of a module for which `counts` (name, tensor) holds.
template <typename Counts>
std::int64_t count(const torch::nn::Module& module, const Counts& counts) {
  std::int64_t total = 0;
  for (const auto& item : module.named_parameters())
    if (counts(item.key(), item.value())) total += item.value().numel();
  return total;
}

/// A matrix (also block-diagonal, or of a convolution) that each token passes once. Not: biases and
/// norms, tables that are added, a bias with a shape, Mamba's exponents.
bool is_map(const std::string& name, const torch::Tensor& parameter) {
  return parameter.dim() >= 2 && !name.ends_with("wpe.weight") && !name.ends_with("rnn_cell.b") &&
         !name.ends_with("A_log") && !name.ends_with("pos_embed.embed");
}

/// Of one head of an mLSTM and one token.
std::int64_t mlstm_flops(std::int64_t key, std::int64_t value) { return 5 * key * value + 5 * key; }

std::int64_t memory_flops(const PolicyConfig& c) {
  const std::int64_t dim = c.embed_dim, blocks = c.num_blocks;
  if (c.backbone == "xlstm") {
    std::int64_t total = 0;
    for (const XlstmBlockConfig& block : xlstm_blocks(c)) {
      const std::int64_t unit = block.inner_dim() / block.num_heads;
      total += block.kind == XlstmBlockKind::kSlstm ? 7 * dim
                                                    : block.num_heads * mlstm_flops(unit, unit);
    }
    return total;
  }
  if (c.backbone == "xlstm_large") {
    const XlstmLargeConfig large = {.embed_dim = dim, .qk_dim_factor = c.qk_dim_factor};
    const std::int64_t key = large.qk_dim() / c.num_heads, value = large.v_dim() / c.num_heads;
    return blocks * c.num_heads * mlstm_flops(key, value);
  }
  if (c.backbone == "slstm") return blocks * 7 * dim;
  if (c.backbone == "lstm") return blocks * 4 * dim;
  if (c.backbone == "gru") return blocks * 6 * dim;
  if (c.backbone == "elman") return 0;
  if (c.backbone == "mamba") {
    const MambaConfig mamba;
    return blocks * mamba.expand * dim * (6 * mamba.state_size + 5);
  }
  if (c.backbone == "gpt2") return blocks * 4 * dim * kTokensPerStep * c.context_length;
  throw_error(ErrorKind::kInternal, "cost: no formula for the memory of a {}", c.backbone);
}

constexpr const char* kImageEncoder = "embed_image.";

/// IMPALA's convolutions (impala.h) at their sizes.
std::int64_t impala_flops(const PolicyConfig& config) {
  std::int64_t total = 0, in = 3, size = config.image_size;
  for (const std::int64_t out : {16, 32, 32}) {
    total += 2 * 9 * in * out * size * size;
    size = (size + 1) / 2;
    total += 4 * 2 * 9 * out * out * size * size;
    in = out;
  }
  return total;
}

/// Memory of a ViL or ViT at one of `patches` patches.
std::int64_t patch_memory_flops(const PolicyConfig& config, std::int64_t patches) {
  if (config.image_encoder == "vit") return config.image_blocks * 4 * config.image_dim * patches;
  const VilBlockConfig block = {.dim = config.image_dim};
  const std::int64_t unit = block.inner_dim() / block.num_heads;
  return config.image_blocks * block.num_heads * mlstm_flops(unit, unit);
}

/// One image through its encoder. What lies behind the last convolution or block is met once.
std::int64_t image_flops(const PolicyConfig& config, const Policy& policy) {
  const auto maps = [&](bool last) {
    return 2 * count(policy, [&](const std::string& name, const torch::Tensor& parameter) {
             const bool is_last =
                 name.ends_with(".head.weight") || name.ends_with(".linear.0.weight");
             return name.starts_with(kImageEncoder) && is_last == last && is_map(name, parameter);
           });
  };
  if (config.image_encoder == "impala") return impala_flops(config) + maps(/*last=*/true);
  const std::int64_t side = config.image_size / config.image_patch, patches = side * side;
  return patches * (maps(/*last=*/false) + patch_memory_flops(config, patches)) +
         maps(/*last=*/true);
}

bool is_backbone(const std::string& name) { return name.starts_with("encoder."); }
}  // namespace

std::int64_t parameter_count(const torch::nn::Module& module) {
  return count(module, [](const auto&, const auto&) { return true; });
}

PolicyCost policy_cost(const PolicyConfig& config) {
  const ShapesOnly shapes_only;
  const torch::NoGradGuard no_grad;
  Policy policy(config);
  PolicyCost cost;
  cost.parameters = parameter_count(policy);
  cost.backbone_parameters = parameter_count(policy.backbone());
  cost.state_bytes = policy.initial_state(1).bytes();
  cost.flops_per_token = 2 * count(policy.backbone(), is_map) + memory_flops(config);

  // An observation is a vector or an image; a policy with an image encoder is counted with images.
  const bool images = config.image_size > 0;
  const auto at_a_step = [&](const std::string& name) {
    return !(images && name.starts_with("embed_state.")) && !name.ends_with("wpe.weight");
  };
  cost.flops_per_step =
      kTokensPerStep * cost.flops_per_token + (images ? image_flops(config, policy) : 0) +
      2 * count(policy, [&](const std::string& name, const torch::Tensor& parameter) {
        return at_a_step(name) && !is_backbone(name) && !name.starts_with(kImageEncoder) &&
               is_map(name, parameter);
      });
  const bool ring = config.backbone == "gpt2";
  constexpr std::int64_t kCounters = 2 * sizeof(std::int64_t);  // position and tokens seen
  const std::int64_t written =
      ring ? (cost.state_bytes - kCounters) / config.context_length + kCounters : cost.state_bytes;
  const std::int64_t position_rows =
      ring && config.positions == "learned" ? kTokensPerStep * config.embed_dim : 0;
  cost.bytes_per_step =
      cost.state_bytes + written +
      kFloatBytes * (position_rows + count(policy, [&](const std::string& name, const auto&) {
                       return at_a_step(name);
                     }));
  return cost;
}

std::int64_t lram_parameters(const PolicyConfig& config) {
  constexpr std::int64_t kImageSize = 64, kStates = 204, kActions = 275, kTimeSteps = 1000,
                         kPositions = 1600;
  PolicyConfig whole = config;
  whole.image_encoder = "impala";
  whole.image_size = kImageSize;
  clear_unused(whole);
  const std::int64_t dim = config.embed_dim;
  const ShapesOnly shapes_only;
  const torch::NoGradGuard no_grad;
  const std::int64_t built = count(
      Policy(whole),
      [](const std::string& name, const torch::Tensor&) { return !name.ends_with("wpe.weight"); });
  return built + (dim + 1) * kStates + (kActions + kTimeSteps) * dim +
         (config.backbone == "gpt2" ? kPositions * dim : 0);
}

}  // namespace lram::model
