#pragma once
#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>

namespace lram::model {
// B images, C channels, D token width; a grid of R rows and S columns of patches.

struct PatchGrid {
  std::int64_t rows = 0, columns = 0;
};

/// Cuts images into square patches, projects each to a token and adds a learned embedding of its
/// place (Dosovitskiy et al. 2021, Sec. 3.1, with the place in two dimensions). Images of another
/// size than the built one get the embedding interpolated (bicubic, corners not aligned).
class PatchEmbedding {
 public:
  struct Output {
    torch::Tensor tokens;  ///< [B, R * S, D], row after row
    PatchGrid grid;
  };

  /// Registers `patch_embed.proj.{weight [D, C, patch, patch], bias [D]}` and `pos_embed.embed`
  /// [1, R, S, D] at `module`, with zeros. Throws Error(kUsage) when `patch` does not divide the
  /// height and the width.
  PatchEmbedding(torch::nn::Module& module, std::int64_t channels, std::int64_t height,
                 std::int64_t width, std::int64_t patch, std::int64_t dim);

  /// image: [B, C, H, W]; uint8 pixels are brought to ImageNet's mean 0 and deviation 1 (then C =
  /// 3), other types are taken as they are. Throws Error(kUsage) for a height or width that patches
  /// do not fill.
  Output forward(const torch::Tensor& image) const;
  /// The embedding of places for a grid, [1, R, S, D].
  torch::Tensor positions(PatchGrid grid) const;

  torch::Tensor& weight() { return weight_; }
  torch::Tensor& position_table() { return positions_; }

 private:
  std::int64_t patch_;
  torch::Tensor weight_, bias_, positions_;
};

}  // namespace lram::model
