#pragma once
#include <torch/types.h>

namespace lram::model {
// A action slots, C classes; leading dimensions ("...") are [B, S] for windows or [B] for a step.

/// How the entries of an action are averaged (lram.md 1.5).
enum class LossReduction {
  kPerEntry,  ///< over all counted (row, step, slot) alike; LRAM's default
  kPerStep,   ///< over the slots of a step first, then over the steps that have any
};

/// Logits with -inf for classes that `legal` lacks. logits: [..., A, C]; legal: bool, broadcasts to
/// it. Slots without any legal class are left as they are.
torch::Tensor mask_illegal(const torch::Tensor& logits, const torch::Tensor& legal);

/// -log p[target] of each entry, 0 where the target is negative (not counted: pads, absent slots).
/// logits: [..., A, C]; target: int64 [..., A]; legal: as in mask_illegal, undefined = all. Logits
/// that do not count may hold anything, their gradient is 0. An illegal target gives infinity.
torch::Tensor action_entry_losses(const torch::Tensor& logits, const torch::Tensor& target,
                                  const torch::Tensor& legal = {});

/// Mean of the entries' losses, a scalar; 0 where nothing counts.
torch::Tensor action_loss(const torch::Tensor& logits, const torch::Tensor& target,
                          const torch::Tensor& legal = {},
                          LossReduction reduction = LossReduction::kPerEntry);

/// The most probable legal class of each slot, int64 [..., A]; -1 in slots without a legal class.
torch::Tensor greedy_classes(const torch::Tensor& logits, const torch::Tensor& legal);

}  // namespace lram::model
