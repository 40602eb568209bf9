#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "datasets/reader.h"
#include "datasets/sampler.h"
#include "lram/tokenization/task_table.h"
#include "lram/training/config.h"

namespace lram::training {

/// One task: its data set, which episodes train, and what the policy will know of it.
struct TrainingTask {
  datasets::Dataset data;
  datasets::Split split;
  tokenization::TaskEntry entry;  ///< measured on the training half, but for random_mean
};

/// Tasks that share micro-batches.
struct TrainingDomain {
  std::string name;
  std::vector<std::size_t> tasks;  ///< indices into TrainingData::tasks()

  /// Index into TrainingData::tasks() of a window drawn from this domain's sources.
  std::size_t task_of(const datasets::Window& window) const {
    return tasks[static_cast<std::size_t>(window.source)];
  }
};

enum class Half { kTrain, kValidation };

/// All data of a run, opened, split and measured. Reads every value but the images.
class TrainingData {
 public:
  /// Throws Error(kInput) on a file that is wrong, too small or holds values that are not finite,
  /// Error(kUsage) on a task given twice.
  explicit TrainingData(const DataConfig& config);

  const std::vector<TrainingTask>& tasks() const { return tasks_; }  ///< in the order of the files
  const std::vector<TrainingDomain>& domains() const { return domains_; }  ///< by first task
  void set_random_mean(std::size_t task, double value) { tasks_[task].entry.random_mean = value; }
  tokenization::TaskTable table() const;

  /// What a sampler of one domain draws from; in the order of TrainingDomain::tasks.
  std::vector<datasets::Source> sources(const TrainingDomain& domain, Half half) const;
  std::int64_t longest_episode() const;
  /// Task, counts and checksums of each file: what makes two runs' data the same.
  nlohmann::json fingerprint() const;

 private:
  std::vector<TrainingTask> tasks_;
  std::vector<TrainingDomain> domains_;
};

}  // namespace lram::training
