#pragma once
#include <torch/types.h>

#include <cstdint>

#include "lram/model/backbone.h"

namespace lram::model {
// B batch, T tokens, H heads, K query/key dim per head, V value dim per head.

/// What one mLSTM layer remembers. Its size follows from the config alone, never from the
/// number of tokens seen: constant step latency rests on this.
struct MlstmState {
  torch::Tensor c;  ///< [B, H, K, V] matrix memory, scaled by exp(-m), float32 (or float64)
  torch::Tensor n;  ///< [B, H, K]    sum of gated keys, scaled by exp(-m)
  torch::Tensor m;  ///< [B, H]       running maximum of the log gates; carries no gradient; 0 with
                    ///< sigmoid input gates, which do not read it

  bool fresh() const { return !c.defined(); }  ///< undefined tensors: nothing seen
};

/// The three ways to one function. kAuto takes the step for one token, the quadratic form while it
/// is quicker than chunks, chunks beyond.
enum class MlstmForm { kAuto, kStep, kQuadratic, kChunkwise };

/// What a key is weighted with: exp(i) (Beck et al. 2024, Sec. 2.3), or sigmoid(i) (mLSTMsig of
/// Beck et al. 2025, arXiv 2503.14376; kernels.md 1.3), which needs no running maximum.
enum class InputGate { kExp, kSigmoid };

struct MlstmOptions {
  InputGate input_gate = InputGate::kExp;
  bool normalize = true;         ///< divide by max(|q n|, 1) + eps; false needs sigmoid gates
  double eps = 1e-6;             ///< added to the normaliser, in units of exp(-m)
  std::int64_t chunk_size = 64;  ///< tokens per chunk of the chunkwise form
  MlstmForm form = MlstmForm::kAuto;
  FinalState final_state = FinalState::kKept;
};

struct MlstmOutput {
  torch::Tensor h;   ///< [B, T, H, V], zero where a token does not count
  MlstmState state;  ///< after the last token that counts, undefined if dropped; the given state
                     ///< is never written into
};

/// LSTM with matrix memory (Beck et al. 2024, Sec. 2.3), all tokens at once. q, k: [B, T, H, K];
/// v: [B, T, H, V]; i, f: [B, T, H] gate pre-activations. Computes in float64 if q is that, else in
/// float32. Throws Error(kUsage) for shapes that do not fit, the state's too.
/// One sequence in any pieces, forms, chunk sizes or single steps gives the same numbers up to
/// rounding; tests/lram/model/mlstm_cell_test.cpp (FormsAgree) holds the tolerance. Gradients are
/// exact, through the normaliser and the states too; every m is a constant in them.
MlstmOutput mlstm_forward(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                          const torch::Tensor& i, const torch::Tensor& f,
                          const MlstmState& initial = {}, const SequenceMask& mask = {},
                          const MlstmOptions& options = {});

}  // namespace lram::model
