#pragma once
#include <torch/types.h>

#include <cstddef>

namespace lram::model {

/// Whether our CUDA kernels run or LibTorch's.
enum class KernelUse {
  kNever,
  kWhereQuicker,  ///< the default: not the mLSTM's portable kernels
  kAlways,        ///< wherever they can
};

/// For this process; returns what held before. Without kernels in the build it changes nothing.
KernelUse set_kernel_use(KernelUse use);
KernelUse kernel_use();

/// Built in, not switched off, and `x` is a bfloat16 or float32 tensor on a GPU with something in
/// it.
bool kernels_take(const torch::Tensor& x);

}  // namespace lram::model

#ifdef LRAM_HAVE_KERNELS
#include "kernels/mlstm/mlstm.h"

// Tensors as the launchers of kernels/ take them. Undefined tensors become absent ones.
namespace lram::model {

cudaStream_t current_stream(const torch::Tensor& x);  ///< torch's, on x's device

/// [B, T, H, D] `x`, or a copy where its strides or address are not what the kernels read.
torch::Tensor fitting(const torch::Tensor& x);

kernels::DType kernel_dtype(const torch::Tensor& x);
kernels::HeadTensor head_view(const torch::Tensor& x);  ///< of a fitting tensor
kernels::GateTensor gate_view(const torch::Tensor& x);  ///< of a [B, T, H] float32 tensor
float* floats(const torch::Tensor& x);                  ///< of a contiguous float32 tensor

/// `count` bytes on x's device, from torch's memory pool.
torch::Tensor device_bytes(std::size_t count, const torch::Tensor& x);

}  // namespace lram::model
#endif
