#include "lram/model/patch_embedding.h"

#include "lram/core/error.h"
#include "lram/model/named_parameter.h"

namespace lram::model {
namespace {
using torch::Tensor;

/// As the public ViL and ViT weights were trained: (pixel / 255 - mean) / deviation of ImageNet.
Tensor normalise_pixels(const Tensor& image, torch::ScalarType type) {
  LRAM_CHECK(image.size(1) == 3, "uint8 images with ", image.size(1),
             " channels, wanted 3 (red, green, blue)");
  const auto options = image.options().dtype(type);
  const Tensor mean = torch::tensor({0.485, 0.456, 0.406}, options).view({3, 1, 1});
  const Tensor deviation = torch::tensor({0.229, 0.224, 0.225}, options).view({3, 1, 1});
  return (image.to(type) / 255.0 - mean) / deviation;
}
}  // namespace

PatchEmbedding::PatchEmbedding(torch::nn::Module& module, std::int64_t channels,
                               std::int64_t height, std::int64_t width, std::int64_t patch,
                               std::int64_t dim)
    : patch_(patch) {
  LRAM_CHECK(patch > 0 && height > 0 && width > 0 && height % patch == 0 && width % patch == 0,
             "images of ", height, " x ", width, ", patch ", patch,
             ", wanted a patch that divides both");
  weight_ =
      add_parameter(module, "patch_embed.proj.weight", torch::zeros({dim, channels, patch, patch}));
  bias_ = add_parameter(module, "patch_embed.proj.bias", torch::zeros({dim}));
  positions_ = add_parameter(module, "pos_embed.embed",
                             torch::zeros({1, height / patch, width / patch, dim}));
}

PatchEmbedding::Output PatchEmbedding::forward(const Tensor& image) const {
  LRAM_CHECK(image.dim() == 4 && image.size(1) == weight_.size(1), "images of shape ",
             image.sizes().vec(), ", wanted [B, ", weight_.size(1), ", H, W]");
  const PatchGrid grid = {image.size(2) / patch_, image.size(3) / patch_};
  LRAM_CHECK(grid.rows > 0 && grid.columns > 0 && grid.rows * patch_ == image.size(2) &&
                 grid.columns * patch_ == image.size(3),
             "images of ", image.size(2), " x ", image.size(3), ", wanted multiples of the patch ",
             patch_);
  const torch::ScalarType type = weight_.scalar_type();
  const Tensor x =
      image.scalar_type() == torch::kUInt8 ? normalise_pixels(image, type) : image.to(type);
  const Tensor patches = torch::conv2d(x, weight_, bias_, /*stride=*/patch_);  // [B, D, R, S]
  return {patches.flatten(2).transpose(1, 2) + positions(grid).flatten(1, 2), grid};
}

Tensor PatchEmbedding::positions(PatchGrid grid) const {
  if (positions_.size(1) == grid.rows && positions_.size(2) == grid.columns) return positions_;
  return at::upsample_bicubic2d(positions_.permute({0, 3, 1, 2}), {grid.rows, grid.columns},
                                /*align_corners=*/false)
      .permute({0, 2, 3, 1});
}

}  // namespace lram::model
