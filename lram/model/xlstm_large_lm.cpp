#include "lram/model/xlstm_large_lm.h"

#include <utility>

#include "lram/core/error.h"
#include "lram/model/block_parts.h"
#include "lram/model/named_parameter.h"

namespace lram::model {
using torch::Tensor;

XlstmLargeLm::XlstmLargeLm(const XlstmLargeConfig& config, std::int64_t vocab_size,
                           double output_logit_soft_cap)
    : output_logit_soft_cap_(output_logit_soft_cap),
      backbone_(register_module("backbone", std::make_shared<XlstmLargeBackbone>(config))) {
  LRAM_CHECK(vocab_size > 0, "xLSTM large: vocab_size is ", vocab_size, ", wanted at least 1");
  const std::int64_t dim = config.embed_dim;
  const bool training = config.init == XlstmLargeInit::kTraining;
  embedding_ = add_parameter(
      *this, "embedding.weight",
      training ? small_init({vocab_size, dim}, dim) : torch::randn({vocab_size, dim}));
  head_ = add_parameter(
      *this, "lm_head.weight",
      training ? small_init({vocab_size, dim}, dim) : uniform_init({vocab_size, dim}, dim));
}

XlstmLargeLm::Output XlstmLargeLm::forward(const Tensor& tokens, const BackboneState& state,
                                           const SequenceMask& mask) {
  LRAM_CHECK(tokens.dim() == 2 && tokens.dtype() == torch::kInt64, "xLSTM large: tokens are ",
             tokens.toString(), " ", tokens.sizes().vec(), ", wanted int64 [B, T]");
  Backbone::Output out = backbone_->forward(at::embedding(embedding_, tokens), state, mask);
  return {soft_cap(at::linear(out.hidden, head_), output_logit_soft_cap_), std::move(out.state)};
}

}  // namespace lram::model
