#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "lram/core/spec.h"

namespace lram::tokenization {

/// What a checkpoint knows of one task (its config.json, "tasks").
struct TaskEntry {
  TaskSpec spec;
  double reward_scale = 1.0;              ///< divides rewards and returns-to-go
  double target_return = 0.0;             ///< maximum return of the training split
  double data_mean = 0.0;                 ///< mean return of the training split
  double random_mean = 0.0;               ///< mean return of uniformly random actions, measured
  std::vector<double> obs_mean, obs_std;  ///< [vector_size]; empty = no normalisation (LRAM)
  double obs_std_floor = 1e-2;            ///< a smaller standard deviation counts as this
  double obs_clip = 10.0;                 ///< normalised entries are cut to [-clip, clip]
  std::uint64_t first_seed = 0, last_seed = 0;  ///< seeds of the training data, inclusive

  bool operator==(const TaskEntry&) const = default;
};

/// Tasks by full id, in the order they were added.
class TaskTable {
 public:
  /// Throws Error(kUsage) for an id that is there already.
  void add(TaskEntry entry);
  /// The entry of a full id. Throws Error(kUsage) that lists the known ids.
  const TaskEntry& at(const std::string& id) const;
  const TaskEntry* find(const std::string& id) const;  ///< null when absent
  const std::vector<TaskEntry>& entries() const { return entries_; }

 private:
  std::vector<TaskEntry> entries_;
};

/// An object with the full ids as keys and the field names above; read back in order of the ids.
void to_json(nlohmann::json& json, const TaskTable& table);
/// Throws Error(kInput) that names the task, the field and what was wanted.
void from_json(const nlohmann::json& json, TaskTable& table);

}  // namespace lram::tokenization
