#pragma once
#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "lram/model/image_encoder.h"
#include "lram/model/patch_embedding.h"

namespace lram::model {
// B images, C channels, N tokens (patches), D width, F outputs.

struct VitConfig {
  std::int64_t dim = 192;
  std::int64_t num_blocks = 12;
  std::int64_t num_heads = 3;
  std::int64_t patch = 16;
  std::int64_t channels = 3, height = 224, width = 224;
  std::int64_t num_outputs = 1000;
};

/// A plain Vision Transformer (Dosovitskiy et al. 2021) to compare ViL with: the same patches and
/// places, pre-norm blocks of full attention and an MLP four times as wide (erf GELU), the mean of
/// the tokens after a last norm instead of a class token (Beyer et al. 2022, arXiv 2205.01580), a
/// linear head. Blocks are named as in timm; matrices start at N(0, 0.02^2), biases at 0.
class VisionTransformer : public ImageEncoder {
 public:
  /// Throws Error(kUsage) for a config that cannot be built, naming the field.
  explicit VisionTransformer(const VitConfig& config);

  /// image: [B, C, H, W], uint8 (normalised as ImageNet's, patch_embedding.h) or already
  /// normalised. H and W may differ from the built ones in multiples of the patch. Returns [B, F].
  torch::Tensor forward(const torch::Tensor& image) override;

 private:
  struct Affine {
    torch::Tensor weight, bias;
  };
  struct Block {
    Affine norm_1, qkv, out, norm_2, up, down;
  };

  torch::Tensor attend(const Block& block, const torch::Tensor& x) const;
  torch::Tensor norm(const torch::Tensor& x, const Affine& affine) const;

  VitConfig config_;
  PatchEmbedding embedding_;
  std::vector<Block> blocks_;
  Affine norm_, head_;
};

}  // namespace lram::model
