#pragma once
#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lram/model/backbone.h"
#include "lram/model/mlstm_cell.h"

namespace lram::model {
// B rows, T tokens, D embed_dim, I inner width, H heads, d units per head.

/// The cell of a block: the mLSTM in its own, the others in the sLSTM's (post_up_block.h).
enum class XlstmBlockKind { kMlstm, kSlstm, kLstm, kGru, kElman };

/// One block of the public xlstm package, version 1 (kernels.md 1.8), or one of its sLSTM blocks
/// with a classic cell (rnn_cell.h) instead.
struct XlstmBlockConfig {
  XlstmBlockKind kind = XlstmBlockKind::kMlstm;
  std::int64_t embed_dim = 512;
  std::int64_t num_heads = 4;
  std::int64_t conv_kernel = 4;    ///< 0 = none, as Elman always; the mLSTM needs one
  double proj_factor = 2.0;        ///< mLSTM: I = proj_factor * D, rounded up to 64
  std::int64_t qkv_blocksize = 4;  ///< mLSTM: blocks of the q, k, v projections
  MlstmOptions cell = {};          ///< mLSTM
  double ffn_factor = 1.3;         ///< not mLSTM: feed-forward width over D, up to 64; 0 = none
  bool bias = false;               ///< of the linear maps, gates of the sLSTM excepted
  std::int64_t index = 0;          ///< place in the stack; with num_blocks it sets initial values
  std::int64_t num_blocks = 1;

  std::int64_t inner_dim() const;  ///< I
  std::int64_t ffn_dim() const;
};

/// A residual block with memory. Weights have the package's names and layouts, norm weights are
/// residual (scale 1 + w), the sLSTM's modules `fgate` and `igate` feed each other's slot as there.
class XlstmBlock : public torch::nn::Module {
 public:
  struct Output {
    torch::Tensor x;                   ///< [B, T, D]
    std::vector<torch::Tensor> state;  ///< as state_fields(); meaningless if dropped
  };

  /// mLSTM: c [B, H, d, d], n [B, H, d], m [B, H], window [B, K-1, I]; sLSTM: cell [B, 4, D] with
  /// rows h, c, n, m, window [B, K-1, D]; LSTM [B, 2, D] with rows h, c, GRU and Elman [B, 1, D],
  /// windows likewise. All zero: a fresh start.
  virtual std::vector<StateField> state_fields() const = 0;
  /// `state` empty = fresh; never written into. What a token outside the mask gives is undefined
  /// but finite, if its input is.
  virtual Output forward(const torch::Tensor& x, std::span<const torch::Tensor> state,
                         const SequenceMask& mask, FinalState final_state = FinalState::kKept) = 0;
};

/// Builds and initialises a block (torch's default generator). Throws Error(kUsage) for sizes that
/// do not divide.
std::shared_ptr<XlstmBlock> make_xlstm_block(const XlstmBlockConfig& config);

/// Layer norm without bias and with scale 1 + weight, eps 1e-5, over the last dimension.
torch::Tensor residual_norm(const torch::Tensor& x, const torch::Tensor& weight);

}  // namespace lram::model
