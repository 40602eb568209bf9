#include "lram/model/action_loss.h"

#include <limits>

namespace lram::model {

torch::Tensor mask_illegal(const torch::Tensor& logits, const torch::Tensor& legal) {
  const torch::Tensor absent = ~legal.any(-1, /*keepdim=*/true);
  return logits.masked_fill(~(legal | absent), -std::numeric_limits<double>::infinity());
}

torch::Tensor action_entry_losses(const torch::Tensor& logits, const torch::Tensor& target,
                                  const torch::Tensor& legal) {
  const torch::Tensor counted = target >= 0;
  torch::Tensor scores = logits.masked_fill(~counted.unsqueeze(-1), 0.0);
  if (legal.defined()) scores = mask_illegal(scores, legal);
  const torch::Tensor chosen =
      scores.log_softmax(-1).gather(-1, target.clamp_min(0).unsqueeze(-1)).squeeze(-1);
  return -chosen.masked_fill(~counted, 0.0);
}

torch::Tensor action_loss(const torch::Tensor& logits, const torch::Tensor& target,
                          const torch::Tensor& legal, LossReduction reduction) {
  const torch::Tensor losses = action_entry_losses(logits, target, legal);
  const torch::Tensor counts = (target >= 0).sum(-1);  // slots of each step
  if (reduction == LossReduction::kPerEntry) return losses.sum() / counts.sum().clamp_min(1);
  constexpr double kEmptyStep = 1e-8;  // LRAM's guard, which biases a step's mean by as much
  return (losses.sum(-1) / (counts.to(losses.scalar_type()) + kEmptyStep)).sum() /
         (counts > 0).sum().clamp_min(1);
}

torch::Tensor greedy_classes(const torch::Tensor& logits, const torch::Tensor& legal) {
  return torch::where(legal.any(-1), mask_illegal(logits, legal).argmax(-1), -1);
}

}  // namespace lram::model
