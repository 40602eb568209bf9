#pragma once
#include <torch/types.h>

#include <array>

namespace lram::model {
// I inner width, s block size.

/// The mLSTM block's query, key and value, [..., 3I] as q | k | v: block-diagonal maps of `conv`
/// (q, k) and `plain` (v), both [..., I]; weights [I/s, s, s] (block, out, in), biases [I] or
/// undefined. Blocks of four have a loop of their own on the CPU, where a batch of 4 x 4 products
/// is slow.
torch::Tensor qkv_projection(const torch::Tensor& conv, const torch::Tensor& plain,
                             const std::array<torch::Tensor, 3>& weights,
                             const std::array<torch::Tensor, 3>& biases);

/// The same out of LibTorch's operations, for any device.
torch::Tensor qkv_projection_reference(const torch::Tensor& conv, const torch::Tensor& plain,
                                       const std::array<torch::Tensor, 3>& weights,
                                       const std::array<torch::Tensor, 3>& biases);

}  // namespace lram::model
