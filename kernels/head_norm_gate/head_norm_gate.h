#pragma once
#include <cstddef>

#include "kernels/mlstm/mlstm.h"

namespace lram::kernels {
// B batch, T tokens, H heads, d units per head.

enum class GateFunction : std::uint8_t { kSilu, kSigmoid };

/// What follows an mLSTM in its block (kernels.md 1.6, 1.8), for every token and head:
///   y = (norm(h) * (weight_offset + weight) + skip * conv) * gate(z),
///   norm(h) = (h - mean h) / sqrt(var h + eps) over the d units.
/// Version 1: kSilu, eps 1e-5, offset 1, with the convolved branch. xLSTM-7B: kSigmoid, eps 1e-6,
/// offset 0, without it. float32 inside.
struct HeadNormGateProblem {
  int batch = 0, tokens = 0, heads = 0, dim = 0;
  DType dtype = DType::kBFloat16;  ///< of h, z, conv, y and their gradients
  GateFunction gate = GateFunction::kSilu;
  float eps = 1e-5f;
  float weight_offset = 1.0f;

  HeadTensor h = {}, z = {};      ///< [B, T, H, d]
  HeadTensor conv = {};           ///< [B, T, H, d], or absent together with skip
  const float* weight = nullptr;  ///< [H, d] contiguous
  const float* skip = nullptr;    ///< [H, d] contiguous
};

struct HeadNormGateForward {
  HeadNormGateProblem problem = {};
  HeadTensor y = {};  ///< out
  cudaStream_t stream = nullptr;
};

struct HeadNormGateBackward {
  HeadNormGateProblem problem = {};  ///< as in the forward; nothing else is kept from it
  HeadTensor dy = {};                ///< gradient of y
  HeadTensor dh = {}, dz = {};       ///< out
  HeadTensor dconv = {};             ///< out; absent if conv is
  float* dweight = nullptr;          ///< out, [H, d]
  float* dskip = nullptr;            ///< out, [H, d]; null if skip is
  GateTensor dh_dot_h = {};  ///< out, dh . h per head in closed form (kernels.md 2.4), or absent
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
  cudaStream_t stream = nullptr;
};

/// Bytes of HeadNormGateBackward::workspace, for the device that is current.
std::size_t head_norm_gate_workspace_bytes(const HeadNormGateProblem& problem);

/// d is a multiple of 8 up to 768; a tensor's rows lie within 16 GiB, those of dh_dot_h within 8.
/// Nothing is allocated or synchronised; the calls can be captured
/// in a CUDA graph; two runs give the same bits. Throw Error(kUsage) that names the argument, what
/// was found and what was wanted, before anything is launched.
void head_norm_gate_forward(const HeadNormGateForward& args);
void head_norm_gate_backward(const HeadNormGateBackward& args);

}  // namespace lram::kernels
