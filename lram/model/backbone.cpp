#include "lram/model/backbone.h"

namespace lram::model {
std::int64_t BackboneState::bytes() const {
  std::int64_t total = 0;
  for (const torch::Tensor& tensor : tensors) total += static_cast<std::int64_t>(tensor.nbytes());
  return total;
}

BackboneState BackboneState::detach() const {
  BackboneState out;
  for (const torch::Tensor& tensor : tensors) out.tensors.push_back(tensor.detach());
  return out;
}

BackboneState BackboneState::clone() const {
  BackboneState out;
  for (const torch::Tensor& tensor : tensors) out.tensors.push_back(tensor.clone());
  return out;
}

void BackboneState::copy_rows(const BackboneState& source, const torch::Tensor& rows) {
  for (std::size_t i = 0; i < tensors.size(); ++i)
    tensors[i].index_copy_(0, rows, source.tensors[i].index_select(0, rows));
}

torch::Tensor Backbone::advance(const torch::Tensor& x, BackboneState& state,
                                const SequenceMask& mask) {
  Output out = forward(x, state, mask);
  state = std::move(out.state);
  return out.hidden;
}
}  // namespace lram::model
