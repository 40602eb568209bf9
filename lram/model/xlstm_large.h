#pragma once
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "lram/model/backbone.h"
#include "lram/model/mlstm_cell.h"

namespace lram::model {
// B rows, T tokens, D embed_dim, H heads.

/// Initial values: those that xLSTM-7B was trained from, as transformers has them (input gates
/// closed at -10, output and feed-forward gates at 0), or LibTorch's defaults, which the xlstm
/// package leaves in place.
enum class XlstmLargeInit { kTraining, kLibTorch };

/// The architecture of xLSTM-7B (Beck et al. 2025, arXiv 2503.13427; kernels.md 1.8) in any size.
struct XlstmLargeConfig {
  std::int64_t embed_dim = 512;
  std::int64_t num_heads = 4;
  std::int64_t num_blocks = 4;
  double qk_dim_factor = 0.5;  ///< width of queries and keys over D
  double v_dim_factor = 1.0;   ///< width of values and of the output gate over D
  double ffn_factor = 2.667;   ///< width of the SwiGLU feed-forward over D, rounded up
  std::int64_t ffn_round_up_to = 64;
  double gate_soft_cap = 15.0;  ///< a tanh(x / a) on input and forget gates; 0 = none
  double norm_eps = 1e-6;
  bool bias = false;  ///< of norms and linear maps; the input and forget gates always have one
  MlstmOptions cell = {};
  XlstmLargeInit init = XlstmLargeInit::kTraining;

  std::int64_t qk_dim() const;
  std::int64_t v_dim() const;
  std::int64_t ffn_dim() const;
};

/// a tanh(x / a); x itself if `cap` is 0.
torch::Tensor soft_cap(const torch::Tensor& x, double cap);

class XlstmLargeBlock;

/// Blocks of mLSTM and SwiGLU with RMS norms, and a final norm. Weights are called as in the public
/// xlstm package below `backbone.`: blocks.{i}.mlstm_layer.q.weight, ..., out_norm.weight. Its
/// state is c, n, m of every block (MlstmState), in float32 whatever the weights are.
class XlstmLargeBackbone : public Backbone {
 public:
  /// Throws Error(kUsage) for widths that do not divide among the heads.
  explicit XlstmLargeBackbone(const XlstmLargeConfig& config);

  BackboneState initial_state(std::int64_t batch,
                              const torch::Tensor& first_position = {}) const override;
  Output forward(const torch::Tensor& x, const BackboneState& state, const SequenceMask& mask = {},
                 FinalState final_state = FinalState::kKept) override;

 private:
  XlstmLargeConfig config_;
  std::vector<std::shared_ptr<XlstmLargeBlock>> blocks_;
  std::vector<StateField> fields_;
  torch::Tensor norm_, norm_bias_;
};

}  // namespace lram::model
