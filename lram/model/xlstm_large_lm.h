#pragma once
#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <memory>

#include "lram/model/xlstm_large.h"

namespace lram::model {
// B rows, T tokens, V vocab_size.

/// xLSTM-7B as a language model: embedding, backbone, untied head, logits capped. Weights are
/// called as in the public xlstm package (embedding.weight, backbone.*, lm_head.weight).
class XlstmLargeLm : public torch::nn::Module {
 public:
  /// `output_logit_soft_cap` 0 = none.
  XlstmLargeLm(const XlstmLargeConfig& config, std::int64_t vocab_size,
               double output_logit_soft_cap = 30.0);

  struct Output {
    torch::Tensor logits;  ///< [B, T, V]
    BackboneState state;
  };

  XlstmLargeBackbone& backbone() { return *backbone_; }
  /// tokens: [B, T] int64 in [0, V), those outside the mask too.
  Output forward(const torch::Tensor& tokens, const BackboneState& state = {},
                 const SequenceMask& mask = {});

 private:
  double output_logit_soft_cap_;
  std::shared_ptr<XlstmLargeBackbone> backbone_;
  torch::Tensor embedding_, head_;
};

}  // namespace lram::model
