#pragma once
#include <torch/types.h>

#include "lram/model/backbone.h"

namespace lram::model {
// B batch, T tokens, I channels, N state size.

struct SelectiveScanOutput {
  torch::Tensor y;      ///< [B, T, I], zero where a token does not count
  torch::Tensor state;  ///< [B, I, N] after the last token that counts
};

/// The selective state space model of Mamba (Gu & Dao 2023, Alg. 2), diagonal in every channel:
///   h_t = exp(dt_t a) h_{t-1} + dt_t u_t b_t,   y_t = <c_t, h_t> + d u_t.
/// u, dt: [B, T, I]; a: [I, N], negative; b, c: [B, T, N]; d: [I]; `state` [B, I, N], undefined =
/// zeros, never written into. Computes in float64 if `u` is that, else in float32.
SelectiveScanOutput selective_scan(const torch::Tensor& u, const torch::Tensor& dt,
                                   const torch::Tensor& a, const torch::Tensor& b,
                                   const torch::Tensor& c, const torch::Tensor& d,
                                   const torch::Tensor& state, const SequenceMask& mask = {});

/// The same out of LibTorch's operations, for any device: a parallel scan of log2(T) rounds, which
/// holds [B, T, I, N] numbers. selective_scan takes a loop of its own on the CPU.
SelectiveScanOutput selective_scan_reference(const torch::Tensor& u, const torch::Tensor& dt,
                                             const torch::Tensor& a, const torch::Tensor& b,
                                             const torch::Tensor& c, const torch::Tensor& d,
                                             const torch::Tensor& state,
                                             const SequenceMask& mask = {});

}  // namespace lram::model
