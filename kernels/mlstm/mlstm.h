#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/common/device.h"

using cudaStream_t = struct CUstream_st*;  // as in cuda_runtime_api.h

namespace lram::kernels {
// B batch, T tokens, H heads, K query/key dim per head, V value dim per head.

enum class DType : std::uint8_t { kBFloat16, kFloat32 };

/// A [B, T, H, D] tensor on the device whose last dimension is contiguous. Strides in elements; as
/// bytes they and the address are multiples of 16, so a slice of a projection's output fits as it
/// is. A null pointer is an absent tensor.
struct HeadTensor {
  void* data = nullptr;
  std::int64_t stride_b = 0, stride_t = 0, stride_h = 0;
};

/// A [B, T, H] float32 tensor; strides in elements, any.
struct GateTensor {
  float* data = nullptr;
  std::int64_t stride_b = 0, stride_t = 0, stride_h = 0;
};

/// What a layer remembers, contiguous float32: c [B, H, K, V], n [B, H, K], m [B, H] (kernels.md
/// 1.4). All null: as input a fresh start, as output not wanted. n and m stay null for the sigmoid
/// gate without normaliser, m alone with it.
struct MlstmStateView {
  float* c = nullptr;
  float* n = nullptr;
  float* m = nullptr;
};

/// Three ways to one function: a quadratic kernel per head, the same in tiles through memory, or
/// chunks that hand a state on. kAuto takes the quicker by the table in the folder's README.
enum class MlstmForm : std::uint8_t { kAuto, kShort, kTiled, kLong };
/// What both directions share.
struct MlstmProblem {
  int batch = 0, tokens = 0, heads = 0, key_dim = 0, value_dim = 0;
  DType dtype = DType::kBFloat16;  ///< of q, k, v, h and their gradients; gates are float32
  bool sigmoid_gate = false;       ///< i = sigmoid(i~) and no m, else i = exp(i~)
  bool normalize = true;           ///< false: h = s q^T C (sigmoid gate only)
  float eps = 1e-6f;               ///< added to the normaliser, in units of exp(-m)
  float gate_soft_cap = 0.0f;      ///< a tanh(x / a) on both gates inside the op; 0 = none
  MlstmForm form = MlstmForm::kAuto;
  KernelPath path = KernelPath::kAuto;  ///< resolve_path() (device.h)

  HeadTensor q, k;                      ///< [B, T, H, K]
  HeadTensor v;                         ///< [B, T, H, V]
  GateTensor i, f;                      ///< pre-activations
  const std::uint8_t* reset = nullptr;  ///< [B, T] contiguous, null = none
  const std::int32_t* begin = nullptr;  ///< [B], null = 0
  const std::int32_t* end = nullptr;    ///< [B], null = T
  MlstmStateView initial;
  bool final_state =
      true;  ///< the calls may give `final` and `dfinal`; false leaves kAuto more choice
};

struct MlstmForward {
  MlstmProblem problem;
  HeadTensor h;           ///< out, zero where a token does not count
  MlstmStateView final;   ///< out, after the last token that counts
  void* saved = nullptr;  ///< mlstm_saved_bytes(), for the backward; null: none will follow
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
  cudaStream_t stream = nullptr;
};

struct MlstmBackward {
  MlstmProblem problem;         ///< as in the forward, same pointers' contents
  HeadTensor h;                 ///< the forward's output
  const void* saved = nullptr;  ///< what the forward left
  HeadTensor dh;                ///< gradient of h
  GateTensor dh_dot_h;          ///< dh . h per head in float32, where a norm behind knows it in
                                ///< closed form (kernels.md 2.4); absent: computed here
  MlstmStateView dfinal;        ///< gradient of the final c and n (m has none), or null
  HeadTensor dq, dk, dv;        ///< out
  GateTensor di, df;            ///< out
  MlstmStateView dinitial;      ///< out: c and n, or null
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
  cudaStream_t stream = nullptr;
};

/// Whether a kernel made for this GPU takes the problem. The portable ones, which take it
/// otherwise, are there to be correct everywhere; LibTorch is quicker than they are.
bool mlstm_is_tuned(const MlstmProblem& problem);

/// Bytes of MlstmForward::saved and of the workspaces, for the device that is current.
std::size_t mlstm_saved_bytes(const MlstmProblem& problem);
std::size_t mlstm_forward_workspace_bytes(const MlstmProblem& problem);
std::size_t mlstm_backward_workspace_bytes(const MlstmProblem& problem);

/// The mLSTM (Beck et al. 2024, Sec. 2.3; TFLA, arXiv 2503.14376) over all tokens, as
/// kernels.md 1.4 and 2 define it: masks, resets, states in and out, exact gradients through the
/// normaliser and the states, every m a constant. Nothing is allocated or synchronised; the calls
/// can be captured in a CUDA graph; two runs give the same bits. Throws Error(kUsage) that names
/// the argument, what was found and what was wanted, before anything is launched.
void mlstm_forward(const MlstmForward& args);
void mlstm_backward(const MlstmBackward& args);

}  // namespace lram::kernels
