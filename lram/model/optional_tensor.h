#pragma once
#include <torch/types.h>

#include <optional>

namespace lram::model {

/// An argument of torch::autograd::Function that may be absent: those take no undefined tensor.
using OptionalTensor = std::optional<torch::Tensor>;

inline OptionalTensor optional(const torch::Tensor& x) {
  return x.defined() ? OptionalTensor(x) : std::nullopt;
}

}  // namespace lram::model
