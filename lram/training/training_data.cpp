#include "lram/training/training_data.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <span>

#include "datasets/statistics.h"
#include "lram/core/error.h"

namespace lram::training {
namespace {
void check_finite(const datasets::Dataset& data) {
  const ObservationSpec& seen = data.spec().observation;
  for (std::int64_t e = 0; e < data.num_episodes(); ++e) {
    const datasets::EpisodeView episode = data.episode(e);
    const auto check = [&](const char* array, std::span<const float> values, std::int64_t width) {
      const auto bad = std::ranges::find_if_not(values, [](float x) { return std::isfinite(x); });
      if (bad == values.end()) return;
      const std::int64_t at = bad - values.begin();
      throw_error(ErrorKind::kInput,
                  "{}: {} of episode {}, row {}, column {} is {}, wanted finite values (lram data "
                  "validate finds all)",
                  data.path().string(), array, e, at / width, at % width, *bad);
    };
    check("/observations", episode.observations, seen.vector_size);
    check("/actions", episode.actions, data.spec().action.size);
    check("/rewards", episode.rewards, 1);
  }
}

tokenization::TaskEntry measure(const datasets::Dataset& data, const datasets::Split& split,
                                const DataConfig& config) {
  check_finite(data);
  const datasets::Statistics statistics = datasets::compute_statistics(data, split.train);
  tokenization::TaskEntry entry;
  entry.spec = data.spec();
  entry.reward_scale = data.spec().reward_scale;
  entry.target_return = statistics.return_max;
  entry.data_mean = statistics.return_mean;
  if (config.obs_normalization == "on") {
    entry.obs_mean = statistics.observation_mean;
    entry.obs_std = statistics.observation_std;
  }
  entry.obs_std_floor = config.obs_std_floor;
  entry.obs_clip = config.obs_clip;
  entry.first_seed = entry.last_seed = data.episode(0).seed;
  for (std::int64_t i = 1; i < data.num_episodes(); ++i) {
    entry.first_seed = std::min(entry.first_seed, data.episode(i).seed);
    entry.last_seed = std::max(entry.last_seed, data.episode(i).seed);
  }
  return entry;
}
}  // namespace

TrainingData::TrainingData(const DataConfig& config) {
  validate(config);
  for (const std::string& file : split_list(config.files, "data.files")) {
    datasets::Dataset data(file);
    const std::string id = data.spec().id;
    for (const TrainingTask& other : tasks_)
      if (other.entry.spec.id == id)
        throw_error(ErrorKind::kUsage, "data.files: {} and {} both hold task '{}', wanted one",
                    other.data.path().string(), file, id);
    const datasets::Split split =
        datasets::split_episodes(data, config.split_seed, config.validation_fraction);
    const auto entry = measure(data, split, config);
    tasks_.push_back({std::move(data), split, entry});
    const std::string name = tasks_.back().entry.spec.domain();
    auto domain = std::find_if(domains_.begin(), domains_.end(),
                               [&](const TrainingDomain& d) { return d.name == name; });
    if (domain == domains_.end()) domain = domains_.insert(domain, {.name = name, .tasks = {}});
    domain->tasks.push_back(tasks_.size() - 1);
  }
}

tokenization::TaskTable TrainingData::table() const {
  tokenization::TaskTable table;
  for (const TrainingTask& task : tasks_) table.add(task.entry);
  return table;
}

std::vector<datasets::Source> TrainingData::sources(const TrainingDomain& domain, Half half) const {
  std::vector<datasets::Source> out;
  for (const std::size_t index : domain.tasks) {
    const TrainingTask& task = tasks_[index];
    out.push_back({&task.data, half == Half::kTrain ? task.split.train : task.split.validation});
  }
  return out;
}

std::int64_t TrainingData::longest_episode() const {
  std::int64_t longest = 0;
  for (const TrainingTask& task : tasks_)
    longest = std::max(longest, *std::ranges::max_element(task.data.lengths()));
  return longest;
}

nlohmann::json TrainingData::fingerprint() const {
  nlohmann::json files = nlohmann::json::array();
  for (const TrainingTask& task : tasks_) {
    nlohmann::json arrays;
    for (const auto& array : task.data.arrays()) arrays[array.spec.path] = array.crc32c;
    files.push_back({{"task", task.entry.spec.id},
                     {"episodes", task.data.num_episodes()},
                     {"steps", task.data.num_steps()},
                     {"crc32c", arrays}});
  }
  return files;
}
}  // namespace lram::training
