#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lram/tokenization/task_table.h"

namespace lram::tokenization {

/// Where LRAM's unified layout of DMControl puts a part (lram.md 1.6).
struct ObservationSlot {
  const char* name;
  std::int64_t begin, size;
};
inline constexpr std::int64_t kUnifiedStateDim = 204;
std::span<const ObservationSlot> unified_slots();

/// Vector observations of one task -> the policy's state vector: normalised entry by entry, clipped
/// and placed. dmcontrol tasks with a state vector of at least 204 put each part into its slot of
/// LRAM's layout; all others fill it from the front. The rest is 0.
/// Does not allocate after construction; safe to share between threads.
class ObservationEncoder {
 public:
  /// Throws Error(kUsage) naming the task: an observation wider than `state_dim`, a part without
  /// slot or wider than its slot, statistics of another length.
  ObservationEncoder(const TaskEntry& task, std::int64_t state_dim);

  std::int64_t state_dim() const { return state_dim_; }
  /// observation: [vector_size]; state: [state_dim], wholly overwritten. Throws Error(kInput) that
  /// names the entry for a value that is not finite.
  void encode(std::span<const float> observation, std::span<float> state) const;
  /// Index in the state vector of each entry of the observation.
  const std::vector<std::int64_t>& places() const { return places_; }

 private:
  std::string task_;
  std::int64_t state_dim_;
  std::vector<std::int64_t> places_;
  std::vector<float> mean_, scale_;  // (x - mean) * scale; empty = none
  float clip_;
};

}  // namespace lram::tokenization
