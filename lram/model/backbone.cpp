#include "lram/model/backbone.h"

#include "lram/core/error.h"

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

BackboneState zero_state(const std::vector<StateField>& fields, std::int64_t batch,
                         const torch::TensorOptions& options) {
  BackboneState state;
  for (const StateField& field : fields) {
    std::vector<std::int64_t> shape = field.shape;
    shape.insert(shape.begin(), batch);
    state.tensors.push_back(torch::zeros(shape, options.requires_grad(false)));
  }
  return state;
}

void check_state(const char* model, const std::vector<StateField>& fields,
                 const BackboneState& state, std::int64_t batch) {
  if (state.empty()) return;
  LRAM_CHECK(state.tensors.size() == fields.size(), model, ": the state has ", state.tensors.size(),
             " tensors, wanted ", fields.size());
  for (std::size_t i = 0; i < fields.size(); ++i) {
    const at::IntArrayRef found = state.tensors[i].sizes(), shape = fields[i].shape;
    if (found.size() == shape.size() + 1 && found[0] == batch && found.slice(1) == shape) continue;
    std::vector<std::int64_t> wanted = fields[i].shape;
    wanted.insert(wanted.begin(), batch);
    LRAM_CHECK(false, model, ": the state's ", fields[i].name, " is ", found.vec(), ", wanted ",
               wanted);
  }
}

Backbone::Output Backbone::step(const torch::Tensor& x, const BackboneState& state,
                                const torch::Tensor& active) {
  SequenceMask mask;
  if (active.defined()) mask.end = active.to(torch::kInt32);
  Output out = forward(x.unsqueeze(1), state, mask);
  out.hidden = out.hidden.squeeze(1);
  return out;
}

torch::Tensor Backbone::advance(const torch::Tensor& x, BackboneState& state,
                                const SequenceMask& mask) {
  Output out = forward(x, state, mask);
  state = std::move(out.state);
  return out.hidden;
}
}  // namespace lram::model
