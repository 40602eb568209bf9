#pragma once
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "lram/model/backbone.h"

namespace lram::model {
class MambaBlock;

struct MambaConfig {
  std::int64_t embed_dim = 512;
  std::int64_t num_blocks = 8;
  std::int64_t expand = 2;       ///< channels I = expand * embed_dim
  std::int64_t state_size = 16;  ///< N per channel
  std::int64_t conv_kernel = 4;
  std::int64_t dt_rank = 0;  ///< 0 = embed_dim / 16, rounded up
};

/// Mamba (Gu & Dao 2023): norm, in-projection, causal convolution, selective scan, gate,
/// out-projection, residual; a final norm. Weights are called as in Hugging Face's MambaModel:
/// layers.{i}.norm.weight, layers.{i}.mixer..., norm_f.weight. The state is a window [B, K-1, I]
/// and the scan's [B, I, N] per block, zeros when fresh; calls of several tokens continue it (the
/// public package's restart the scan).
class MambaBackbone : public Backbone {
 public:
  /// Random weights as Hugging Face's.
  explicit MambaBackbone(const MambaConfig& config);

  BackboneState initial_state(std::int64_t batch,
                              const torch::Tensor& first_position = {}) const override;
  Output forward(const torch::Tensor& x, const BackboneState& state, const SequenceMask& mask = {},
                 FinalState final_state = FinalState::kKept) override;
  /// forward() that also gives the residual stream behind every block, [B, T, D] each.
  Output forward(const torch::Tensor& x, const BackboneState& state, const SequenceMask& mask,
                 std::vector<torch::Tensor>* blocks_out);

 private:
  std::vector<std::shared_ptr<MambaBlock>> blocks_;
  std::vector<StateField> fields_;
  torch::Tensor norm_;
};

}  // namespace lram::model
