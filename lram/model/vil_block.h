#pragma once
#include <torch/nn/module.h>
#include <torch/types.h>

#include <array>
#include <cstdint>
#include <string>

#include "lram/model/block_parts.h"
#include "lram/model/patch_embedding.h"

namespace lram::model {
// B images, N tokens = R * S patches, D width, I = expansion * D inner width, H heads.

/// The convolution before the cell: along the sequence and causal, or over the grid of patches.
enum class VilConvolution { kCausal, kGrid };

struct VilBlockConfig {
  std::int64_t dim = 192;
  std::int64_t expansion = 2;
  std::int64_t num_heads = 4;      ///< in the package always its block size of q, k, v: 4
  std::int64_t qkv_blocksize = 4;  ///< blocks of the q, k, v projections
  VilConvolution convolution = VilConvolution::kGrid;
  std::int64_t conv_kernel = 3;  ///< taps; per side of the grid (then odd)
  std::string conv_name = "conv";
  bool proj_bias = true;  ///< of the linear maps
  bool norm_bias = true;  ///< of the norms
  double cell_eps = 1e-6;
  std::int64_t init_blocks = 1;  ///< num_blocks of the "wang" rule for proj_down

  std::int64_t inner_dim() const { return expansion * dim; }
};

/// One scan of Vision-LSTM (Alkin et al. 2024, Sec. 3): the pre-up-projection mLSTM block of
/// xlstm_block.h over the patches in row order, or with `reversed` from the last to the first.
/// Differs in its names, the width I (not rounded up), the biases, the convolution, and in the
/// cell's m, which the package takes over the tokens alone (no start with m = 0).
class VilBlock {
 public:
  /// Registers the weights at `module` below `prefix` ("blocks.0.") with the package's names and
  /// initial values. Throws Error(kUsage) for sizes that do not divide.
  VilBlock(torch::nn::Module& module, const std::string& prefix, const VilBlockConfig& config,
           bool reversed);

  /// x: [B, N, D].
  torch::Tensor forward(const torch::Tensor& x, PatchGrid grid) const;

 private:
  torch::Tensor convolve(const torch::Tensor& x, PatchGrid grid) const;

  VilBlockConfig config_;
  bool reversed_;
  std::array<torch::Tensor, 3> qkv_, qkv_bias_;
  torch::Tensor norm_, norm_bias_, up_, up_bias_, conv_, conv_bias_, head_norm_, head_norm_bias_,
      skip_, down_, down_bias_;
  GateMaps gates_;
};

}  // namespace lram::model
