#include "lram/model/tensor_io.h"

#include <torch/utils.h>

#include <cstring>
#include <set>

#include "lram/core/error.h"
#include "lram/core/text.h"

namespace lram::model {
namespace {
constexpr std::pair<Dtype, torch::ScalarType> kTypes[] = {
    {Dtype::kBool, torch::kBool},     {Dtype::kU8, torch::kUInt8},
    {Dtype::kI8, torch::kInt8},       {Dtype::kI16, torch::kInt16},
    {Dtype::kU16, torch::kUInt16},    {Dtype::kF16, torch::kFloat16},
    {Dtype::kBF16, torch::kBFloat16}, {Dtype::kI32, torch::kInt32},
    {Dtype::kU32, torch::kUInt32},    {Dtype::kF32, torch::kFloat32},
    {Dtype::kF64, torch::kFloat64},   {Dtype::kI64, torch::kInt64},
    {Dtype::kU64, torch::kUInt64}};

torch::ScalarType scalar_type(Dtype dtype) {
  for (const auto& [ours, theirs] : kTypes)
    if (ours == dtype) return theirs;
  throw_error(ErrorKind::kInternal, "no tensor type for {}", dtype_name(dtype));
}

Dtype dtype_of(const torch::Tensor& tensor) {
  for (const auto& [ours, theirs] : kTypes)
    if (theirs == tensor.scalar_type()) return ours;
  throw_error(ErrorKind::kUsage, "tensors of type {} cannot be written",
              torch::toString(tensor.scalar_type()));
}
}  // namespace

torch::Tensor to_tensor(const TensorEntry& entry) {
  torch::Tensor tensor = torch::empty(entry.shape, scalar_type(entry.dtype));
  if (!entry.data.empty()) std::memcpy(tensor.data_ptr(), entry.data.data(), entry.data.size());
  return tensor;
}

void save_tensors(const std::filesystem::path& path, const NamedTensors& tensors,
                  const TensorMetadata& metadata) {
  std::vector<torch::Tensor> held;  // what the entries' spans point into
  std::vector<TensorEntry> entries;
  for (const auto& [name, tensor] : tensors) {
    held.push_back(tensor.detach().cpu().contiguous());
    const torch::Tensor& plain = held.back();
    entries.push_back({name,
                       dtype_of(plain),
                       plain.sizes().vec(),
                       {static_cast<const std::byte*>(plain.data_ptr()), plain.nbytes()}});
  }
  write_safetensors(path, std::move(entries), metadata);
}

NamedTensors named_tensors(const torch::nn::Module& module) {
  NamedTensors out;
  for (const auto& item : module.named_parameters()) out.emplace_back(item.key(), item.value());
  for (const auto& item : module.named_buffers()) out.emplace_back(item.key(), item.value());
  return out;
}

void check_tensors(const SafetensorsFile& file, const NamedTensors& wanted) {
  const std::string where = file.path().string();
  std::set<std::string_view> names;
  for (const auto& [name, tensor] : wanted) {
    names.insert(name);
    const TensorEntry* entry = file.find(name);
    if (entry == nullptr)
      throw_error(ErrorKind::kInput, "{}: no tensor '{}', wanted one of shape [{}]", where, name,
                  joined(tensor.sizes()));
    if (tensor.sizes() != at::IntArrayRef(entry->shape))
      throw_error(ErrorKind::kInput, "{}: tensor '{}' has shape [{}], wanted [{}]", where, name,
                  joined(entry->shape), joined(tensor.sizes()));
    const torch::ScalarType type = scalar_type(entry->dtype);
    if (type != tensor.scalar_type() &&
        !(torch::isFloatingType(type) && tensor.is_floating_point()))
      throw_error(ErrorKind::kInput, "{}: tensor '{}' is of type {}, wanted {}", where, name,
                  dtype_name(entry->dtype), dtype_name(dtype_of(tensor)));
  }
  for (const TensorEntry& entry : file.tensors())
    if (!names.contains(entry.name))
      throw_error(ErrorKind::kInput,
                  "{}: tensor '{}' of shape [{}] belongs to no part of the model", where,
                  entry.name, joined(entry.shape));
}

void load_tensors(const SafetensorsFile& file, const NamedTensors& into) {
  check_tensors(file, into);
  std::vector<torch::Tensor> values;
  for (const auto& [name, tensor] : into) {
    values.push_back(to_tensor(file.at(name)));
    if (tensor.is_floating_point() && !torch::isfinite(values.back()).all().item<bool>())
      throw_error(ErrorKind::kInput, "{}: tensor '{}' holds a value that is not finite",
                  file.path().string(), name);
  }
  const torch::NoGradGuard no_grad;
  for (std::size_t i = 0; i < into.size(); ++i) torch::Tensor(into[i].second).copy_(values[i]);
}

}  // namespace lram::model
