#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lram/core/spec.h"
#include "lram/tokenization/uniform_bins.h"

namespace lram::tokenization {
// A action slots of the policy, C classes of each: the discrete ids, then the bins (lram.md 1.5).

/// Sizes of the action head, shared by all tasks. LRAM's are the defaults.
struct ActionLayout {
  std::int64_t slots = 8;  ///< A
  std::int64_t discrete_ids = 18;
  std::int64_t num_bins = 256;

  std::int64_t num_classes() const { return discrete_ids + num_bins; }  ///< C
};

/// Actions of one task <-> classes of the shared head. A continuous action takes one slot per
/// entry, its bounds mapped affinely to [-1, 1]; a discrete one takes slot 0 and its id is its
/// class. Does not allocate after construction; safe to share between threads.
class ActionCodec {
 public:
  /// Class of a slot that the task does not use.
  static constexpr std::int64_t kNoClass = -1;

  /// Throws Error(kUsage) naming the task: bounds that are open, equal or reversed, more entries
  /// than slots, more actions than discrete ids.
  ActionCodec(const TaskSpec& spec, const ActionLayout& layout = {});

  const ActionLayout& layout() const { return layout_; }
  bool discrete() const { return discrete_; }
  std::int64_t slots() const { return slots_; }  ///< used slots, the first of A
  /// Legal in every used slot: [first_class, end_class).
  std::int64_t first_class() const { return first_class_; }
  std::int64_t end_class() const { return end_class_; }

  /// action: [action.size] task units, a discrete one as its index. classes: [A]. Values outside
  /// the bounds become the outer bins; throws Error(kUsage) on an index that is not an action.
  void encode(std::span<const float> action, std::span<std::int64_t> classes) const;
  /// The same for an index.
  void encode_index(std::int64_t index, std::span<std::int64_t> classes) const;
  /// classes: [A], legal ones in the used slots. action: [action.size], within its bounds.
  void decode(std::span<const std::int64_t> classes, std::span<float> action) const;
  /// mask: [A, C], 1 = legal; rows of unused slots are 0.
  void legal_mask(std::span<std::uint8_t> mask) const;

 private:
  std::string task_;
  ActionLayout layout_;
  UniformBins bins_;
  bool discrete_;
  std::int64_t slots_, first_class_, end_class_;
  std::vector<double> low_, high_;
};

}  // namespace lram::tokenization
