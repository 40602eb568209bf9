#pragma once
#include <torch/types.h>

namespace lram::model {

/// Block-diagonal linear map: x [..., G * I] in G groups of I features, weight [G, O, I]
/// -> [..., G * O]; bias [G * O] or undefined.
torch::Tensor block_linear(const torch::Tensor& x, const torch::Tensor& weight,
                           const torch::Tensor& bias = {});

}  // namespace lram::model
