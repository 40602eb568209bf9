#pragma once
#include <torch/types.h>

#include "lram/model/backbone.h"

namespace lram::model {
// B batch, T tokens, D channels, K kernel size.

struct CausalConvOutput {
  torch::Tensor y;       ///< [B, T, D], zero where a token does not count
  torch::Tensor window;  ///< [B, K-1, D], the last inputs, newest row last
};

/// Depthwise causal convolution: y_t = bias + sum_j weight[.., j] x_{t-K+1+j}. `weight` is
/// [D, 1, K], `bias` [D] or undefined, `window` [B, K-1, D] the inputs before the first token that
/// counts (undefined = zeros). The window serves whole sequences and single tokens alike; a reset
/// empties it. The given window is never written into.
CausalConvOutput causal_conv(const torch::Tensor& x, const torch::Tensor& window,
                             const torch::Tensor& weight, const torch::Tensor& bias,
                             const SequenceMask& mask = {});

/// The same out of LibTorch's operations, for any device; causal_conv takes a loop of its own on
/// the CPU.
CausalConvOutput causal_conv_reference(const torch::Tensor& x, const torch::Tensor& window,
                                       const torch::Tensor& weight, const torch::Tensor& bias,
                                       const SequenceMask& mask = {});

}  // namespace lram::model
