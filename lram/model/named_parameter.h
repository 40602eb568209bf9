#pragma once
#include <torch/nn/module.h>
#include <torch/types.h>

#include <string>

namespace lram::model {

/// Registers `value` as the parameter called by the dotted `name` below `root`, with modules that
/// hold nothing else on the way, so that weights carry public names ("xlstm.conv1d.conv.weight")
/// without a class per dot. Gives the parameter; moving the module to another device or type moves
/// it too.
torch::Tensor add_parameter(torch::nn::Module& root, const std::string& name, torch::Tensor value);

}  // namespace lram::model
