#pragma once
#include <torch/types.h>

namespace lram::model {
// B batch, T tokens, H heads, d units per head.

struct HeadNormGateOptions {
  bool sigmoid = false;  ///< gate(z) = sigmoid(z), else SiLU(z)
  double eps = 1e-5;
  double weight_offset = 1.0;
  torch::Tensor bias = {};  ///< [H * d], added before the gate; by LibTorch alone
};

/// What follows an mLSTM in its block, (norm(h) * (weight_offset + weight) + skip * conv) * gate(z)
/// with norm(h) over the d units of a head (kernels.md 1.6, 1.8). h: [B, T, H, d]; z, conv: [B, T,
/// H * d]; weight, skip: [H * d]; conv and skip may be undefined. Gives [B, T, H * d]. By
/// kernels/head_norm_gate on a GPU where d is a multiple of 8 up to 768, else by LibTorch. With the
/// kernels, an `h` out of mlstm_kernel() must feed nothing else: its backward takes dh . h from
/// here.
torch::Tensor head_norm_gate(const torch::Tensor& h, const torch::Tensor& z,
                             const torch::Tensor& conv, const torch::Tensor& weight,
                             const torch::Tensor& skip, const HeadNormGateOptions& options = {});

}  // namespace lram::model
