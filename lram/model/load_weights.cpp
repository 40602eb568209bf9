#include "lram/model/load_weights.h"

#include <torch/utils.h>

#include <algorithm>
#include <set>

#include "lram/core/error.h"
#include "lram/core/text.h"
#include "lram/model/tensor_io.h"

namespace lram::model {

void load_weights(torch::nn::Module& module, const std::filesystem::path& path,
                  const std::string& format, const weights::FormatOptions& options) {
  const std::string where = path.string();
  const weights::TensorFiles files(path);
  weights::FamilyWeights given = weights::read_weights(files, format, options);
  const NamedTensors into = named_tensors(module);
  const bool is_backbone = std::none_of(into.begin(), into.end(), [](const auto& item) {
    return item.first.starts_with("backbone.");
  });
  if (is_backbone) {
    weights::WeightSet named;
    for (const auto& [name, tensor] : given.tensors)
      named.emplace(weights::backbone_name(name), tensor);
    given.tensors = std::move(named);
  }
  std::set<std::string_view> names;
  for (const auto& [name, tensor] : into) {
    names.insert(name);
    const auto at = given.tensors.find(name);
    if (at == given.tensors.end())
      throw_error(ErrorKind::kInput, "{}: no tensor '{}' ({}), wanted one of shape [{}]", where,
                  name, given.format, joined(tensor.sizes()));
    if (tensor.sizes() != at::IntArrayRef(at->second.shape))
      throw_error(ErrorKind::kInput, "{}: tensor '{}' ({}) has shape [{}], wanted [{}]", where,
                  name, given.format, joined(at->second.shape), joined(tensor.sizes()));
  }
  for (const auto& [name, tensor] : given.tensors)
    if (!names.contains(name) && !weights::is_outside_backbone(name))
      throw_error(ErrorKind::kInput,
                  "{}: tensor '{}' ({}) of shape [{}] belongs to no part of the model", where, name,
                  given.format, joined(tensor.shape));

  // Twice over the file: one tensor at a time is held, and nothing is written before all are seen.
  const auto value = [&](const std::string& name) {
    const weights::WeightTensor& tensor = given.tensors.at(name);
    const std::vector<std::byte> bytes = tensor.bytes();
    return to_tensor({name, tensor.dtype, tensor.shape, bytes});
  };
  const torch::NoGradGuard no_grad;
  for (const auto& [name, tensor] : into)
    if (!torch::isfinite(value(name)).all().item<bool>())
      throw_error(ErrorKind::kInput, "{}: tensor '{}' holds a value that is not finite", where,
                  name);
  for (const auto& [name, tensor] : into) torch::Tensor(tensor).copy_(value(name));
}

}  // namespace lram::model
