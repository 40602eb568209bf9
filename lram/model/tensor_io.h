#pragma once
#include <torch/nn/module.h>
#include <torch/types.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "lram/core/safetensors.h"

namespace lram::model {

using NamedTensors = std::vector<std::pair<std::string, torch::Tensor>>;

/// A copy of the entry, on the CPU.
torch::Tensor to_tensor(const TensorEntry& entry);

/// Writes the tensors, wherever they are, as a safetensors file (atomically).
void save_tensors(const std::filesystem::path& path, const NamedTensors& tensors,
                  const TensorMetadata& metadata = {});

/// Parameters and buffers of a module under their full names.
NamedTensors named_tensors(const torch::nn::Module& module);

/// The file holds a tensor for each of `wanted`, of the same name, shape and kind, and no other.
/// Throws Error(kInput) that names the file, the tensor, what was found and what was wanted.
void check_tensors(const SafetensorsFile& file, const NamedTensors& wanted);

/// Copies the file's tensors into those of the same name and shape; floating types convert. All or
/// nothing. Throws Error(kInput) that names the file, the tensor, what was found and what was
/// wanted: one that is missing, not expected, of another shape or kind, or not finite.
void load_tensors(const SafetensorsFile& file, const NamedTensors& into);

}  // namespace lram::model
