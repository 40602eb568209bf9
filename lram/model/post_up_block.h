#pragma once
#include <memory>

#include "lram/model/xlstm_block.h"

namespace lram::model {

/// The post-up-projection block of the xlstm package (kernels.md 1.8), around the sLSTM or a
/// classic cell: norm, causal convolution, head-wise gate inputs, cell, norm per head, residual;
/// then a gated feed-forward, unless ffn_factor is 0. Gates see the convolution, the candidate sees
/// the norm's output.
std::shared_ptr<XlstmBlock> make_post_up_block(const XlstmBlockConfig& config);

}  // namespace lram::model
