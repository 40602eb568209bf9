#pragma once
#include <torch/types.h>

#include <cstdint>
#include <string_view>

#include "lram/model/backbone.h"
#include "lram/model/token_mask.h"

namespace lram::model {
// B batch, T tokens, H heads, D = H * d units, S states.

enum class RnnKind { kLstm, kGru, kElman };

/// How many gates and states a kind has, in the order and layout of the public flashrnn package.
///
///   kind   inputs   recurrent   biases     states
///   lstm   i f z o  i f z o     i f z o    h c     c' = f c + i z, h' = o tanh(c')
///   gru    r z n    g r z       g r z n    h       h' = z h + (1 - z) tanh(n + r g)
///   elman  z        z           z          h       h' = tanh(z)
struct RnnGates {
  std::int64_t inputs, recurrent, biases, states;
};
RnnGates rnn_gates(RnnKind kind);
std::string_view rnn_name(RnnKind kind);

struct RnnOutput {
  torch::Tensor h;       ///< [B, T, D], the first of `states`
  torch::Tensor states;  ///< [B, T, S, D] after each token, h first; zero where it does not count
  torch::Tensor last;    ///< [B, S, D] after the last token that counts
};

/// LSTM (Hochreiter & Schmidhuber 1997, with forget gate), GRU (Cho et al. 2014, the candidate's
/// recurrence behind its reset gate, as cuDNN has it) or Elman's network, h_{t-1} mixing within
/// heads. `gates` [B, T, inputs * D]: W x, gate-major; `recurrent` [recurrent, H, d_out, d_in];
/// `bias` [biases, H, d]; `state` [B, S, D], undefined = zeros, never written into. Computes in
/// float64 if `gates` is that, else in float32.
RnnOutput rnn_forward(RnnKind kind, const torch::Tensor& gates, const torch::Tensor& recurrent,
                      const torch::Tensor& bias, const torch::Tensor& state,
                      const SequenceMask& mask = {});

/// The same out of LibTorch's operations and derivatives, for any device; rnn_forward takes a loop
/// of its own on the CPU (cell_loop.h), and lstm_operations() on others.
RnnOutput rnn_reference(RnnKind kind, const torch::Tensor& gates, const torch::Tensor& recurrent,
                        const torch::Tensor& bias, const torch::Tensor& state,
                        const SequenceMask& mask = {});

/// The LSTM out of a fifth of the operations, with a backward of its own. Of masks it takes `end`;
/// with others it is rnn_reference().
RnnOutput lstm_operations(const torch::Tensor& gates, const torch::Tensor& recurrent,
                          const torch::Tensor& bias, const torch::Tensor& state,
                          const SequenceMask& mask = {});

/// What a call is given, in the type that it computes in; the state is zero where there was none.
struct RnnInputs {
  torch::Tensor gates, recurrent, bias, state;
  TokenMask mask;
};
/// Throws Error(kUsage) that names the tensor, its shape and the wanted one.
RnnInputs rnn_inputs(RnnKind kind, const torch::Tensor& gates, const torch::Tensor& recurrent,
                     const torch::Tensor& bias, const torch::Tensor& state,
                     const SequenceMask& mask);

}  // namespace lram::model
