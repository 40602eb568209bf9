#pragma once
#include <torch/nn/module.h>

#include <filesystem>
#include <string>

#include "lram/weights/convert.h"

namespace lram::model {

/// Fills a backbone with public weights: a safetensors file or a folder of shards in one of the
/// formats of `lram ckpt convert --list`, or a policy checkpoint. `format` "" = what the names
/// show.
///   XlstmBackbone backbone(blocks);
///   load_weights(backbone, "stack.safetensors", "xlstm_v1_cuda");
/// Every tensor of the module must be there in its shape, and nothing may be left over but the
/// embedding and the output layer of the public model. Floating types convert. All or nothing.
/// Throws Error(kInput) that names the file, the tensor, what was found and what was wanted, or
/// Error(kUsage) for an unknown format.
void load_weights(torch::nn::Module& module, const std::filesystem::path& path,
                  const std::string& format = "", const weights::FormatOptions& options = {});

}  // namespace lram::model
