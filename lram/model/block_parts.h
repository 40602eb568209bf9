#pragma once
#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <string>

#include "lram/model/backbone.h"

namespace lram::model {
// What the blocks share. B rows, T tokens, D channels, K kernel size.

constexpr double kBlockNormEps = 1e-5;

std::int64_t round_up_to_64(double width);

// Initial values of the xlstm package (kernels.md 1.5, column v1), from torch's generator.
/// N(0, sqrt(2 / (5 embed_dim))).
torch::Tensor small_init(at::IntArrayRef shape, std::int64_t embed_dim);
/// N(0, 2 / (num_blocks sqrt(embed_dim))), of maps before a residual sum.
torch::Tensor wang_init(at::IntArrayRef shape, std::int64_t num_blocks, std::int64_t embed_dim);
/// Uniform in +-1 / sqrt(fan_in), torch's default of linear maps and convolutions.
torch::Tensor uniform_init(at::IntArrayRef shape, std::int64_t fan_in);

/// SiLU of the causal convolution `name` of a module.
class ConvBranch {
 public:
  ConvBranch(torch::nn::Module& module, const std::string& name, std::int64_t dim,
             std::int64_t kernel);

  StateField window() const;  ///< [B, K-1, D]
  /// x: [B, T, D]; replaces the tensor `window` by another, undefined = zeros.
  torch::Tensor forward(const torch::Tensor& x, torch::Tensor& window,
                        const SequenceMask& mask) const;

 private:
  torch::Tensor weight_, bias_;
};

/// Maps to the input and forget gates of an mLSTM.
struct GateMaps {
  torch::Tensor input, input_bias, forget, forget_bias;  ///< [H, D], [H]

  /// x: [.., D]. Pre-activations, i then f, [.., 2H]; in float32 (float64 for that) under autocast
  /// and with narrower weights too: in bf16 an f near 6 comes in steps of 0.03.
  torch::Tensor operator()(const torch::Tensor& x) const;
};

/// Registers `igate` and `fgate` below `prefix` with the xlstm package's initial values.
GateMaps add_gate_maps(torch::nn::Module& module, const std::string& prefix, std::int64_t heads,
                       std::int64_t dim);

}  // namespace lram::model
