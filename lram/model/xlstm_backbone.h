#pragma once
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lram/model/backbone.h"
#include "lram/model/config.h"
#include "lram/model/xlstm_block.h"

namespace lram::model {

/// The zero-based blocks that `text` lists ("1,3"; "" = none), ascending. Throws Error(kUsage) that
/// names model.slstm_at for anything but distinct numbers below `num_blocks`.
std::vector<std::int64_t> parse_slstm_at(const std::string& text, std::int64_t num_blocks);

/// The mLSTM cell of an xLSTM policy.
MlstmOptions mlstm_options(const PolicyConfig& config);

/// One config per block of an xLSTM policy.
std::vector<XlstmBlockConfig> xlstm_blocks(const PolicyConfig& config);
/// The same with one kind for all blocks, whatever slstm_at says.
std::vector<XlstmBlockConfig> xlstm_blocks(const PolicyConfig& config, XlstmBlockKind kind);

/// Stack of xLSTM blocks and a final norm (Beck et al. 2024), any mixture of mLSTM and sLSTM.
/// Weights are called as in the public xlstm package: blocks.{i}..., post_blocks_norm.weight. Its
/// state is the blocks' states in order; an empty state is a fresh start.
class XlstmBackbone : public Backbone {
 public:
  explicit XlstmBackbone(const PolicyConfig& config) : XlstmBackbone(xlstm_blocks(config)) {}
  /// At least one block, all of the same embed_dim.
  explicit XlstmBackbone(const std::vector<XlstmBlockConfig>& blocks);

  BackboneState initial_state(std::int64_t batch,
                              const torch::Tensor& first_position = {}) const override;
  Output forward(const torch::Tensor& x, const BackboneState& state, const SequenceMask& mask = {},
                 FinalState final_state = FinalState::kKept) override;

 private:
  std::vector<std::shared_ptr<XlstmBlock>> blocks_;
  std::vector<std::size_t> state_sizes_;  ///< tensors per block
  std::vector<StateField> fields_;        ///< of all of them
  torch::Tensor norm_;
};

}  // namespace lram::model
