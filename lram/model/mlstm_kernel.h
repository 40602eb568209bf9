#pragma once
#include <torch/types.h>

#include <optional>

#include "lram/model/mlstm_cell.h"

namespace lram::model {
// B batch, T tokens, H heads, K query/key dim per head, V value dim per head.

/// mlstm_forward() by kernels/mlstm, under autograd, on torch's current stream and out of its
/// memory pool. std::nullopt where the kernels are not built, not wanted (KernelUse), or do not
/// take these tensors: another device, float64, K or V that is no multiple of 8 up to 1024, a form
/// asked for. With sigmoid gates and no normaliser the final n, which nothing reads, is zero. h has
/// the type of q, k and v: bfloat16, or else float32.
std::optional<MlstmOutput> mlstm_kernel(const torch::Tensor& q, const torch::Tensor& k,
                                        const torch::Tensor& v, const torch::Tensor& i,
                                        const torch::Tensor& f, const MlstmState& initial,
                                        const SequenceMask& mask, const MlstmOptions& options);

/// Where `h` is an output of mlstm_kernel() that records gradients: a tensor [B, T, H] without a
/// meaning whose gradient the backward takes for dh . h of each head; else undefined.
torch::Tensor mlstm_kernel_dot(const torch::Tensor& h);

}  // namespace lram::model
