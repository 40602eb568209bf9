#pragma once
#include <torch/types.h>

#include "lram/model/backbone.h"
#include "lram/model/token_mask.h"

namespace lram::model {
// B batch, T tokens, H heads, D = H * d units.

struct SlstmOutput {
  torch::Tensor h;      ///< [B, T, D], zero where a token does not count
  torch::Tensor state;  ///< [B, 4, D], rows h, c, n, m after the last token that counts
};

/// LSTM with scalar memory, exponential input gate and memory mixing within heads (Beck et al.
/// 2024, Sec. 2.2). `gates` [B, T, 4D]: W x of gates i, f, z, o, gate-major; `recurrent`
/// [H, 4d, d] (rows gate-major, h_{t-1} -> gates of the same head) and `bias` [4D] are the public
/// vanilla layout. `state` [B, 4, D] or undefined (fresh); units with n = 0 start with m = i.
/// Computes in float64 if `gates` is that, else in float32. Gradients are exact, with every m a
/// constant: h does not depend on m, c and n mean nothing without it. The row m of the state's
/// gradient is zero.
SlstmOutput slstm_forward(const torch::Tensor& gates, const torch::Tensor& recurrent,
                          const torch::Tensor& bias, const torch::Tensor& state,
                          const SequenceMask& mask = {});

/// The same out of LibTorch's operations and derivatives, for any device. slstm_forward takes a
/// loop of its own on the CPU, where an operation costs more than what it does for one token.
SlstmOutput slstm_reference(const torch::Tensor& gates, const torch::Tensor& recurrent,
                            const torch::Tensor& bias, const torch::Tensor& state,
                            const SequenceMask& mask = {});

/// The same out of a fifth of the operations, with a backward of its own: what slstm_forward takes
/// on other devices. Of masks it takes `end`; with others it is slstm_reference().
SlstmOutput slstm_operations(const torch::Tensor& gates, const torch::Tensor& recurrent,
                             const torch::Tensor& bias, const torch::Tensor& state,
                             const SequenceMask& mask = {});

/// What a call is given, in the type that it computes in; the state is zero where there was none.
struct SlstmInputs {
  torch::Tensor gates, recurrent, bias, state;
  TokenMask mask;
};
/// Throws Error(kUsage) that names the tensor, its shape and the wanted one.
SlstmInputs slstm_inputs(const torch::Tensor& gates, const torch::Tensor& recurrent,
                         const torch::Tensor& bias, const torch::Tensor& state,
                         const SequenceMask& mask);

}  // namespace lram::model
