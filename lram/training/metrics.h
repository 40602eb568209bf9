#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "lram/core/file.h"
#include "lram/training/tensorboard.h"

namespace lram::training {

/// Sums over action entries (row, step, slot), from which means follow.
struct Tally {
  double loss = 0.0;     ///< negative log likelihoods, nats
  double correct = 0.0;  ///< entries whose most probable legal class is the data's
  double count = 0.0;

  void add(const Tally& other);
  bool operator==(const Tally&) const = default;
};

/// Tallies by full task id.
using TaskTallies = std::map<std::string, Tally>;

void add(TaskTallies& to, const TaskTallies& from);
void to_json(nlohmann::json& json, const Tally& tally);
void from_json(const nlohmann::json& json, Tally& tally);

/// Name -> value of one line of metrics.
using Metrics = std::map<std::string, double>;

/// "PHASE/loss" and "PHASE/accuracy": of all (the mean over domains, which is what training
/// minimises), with "/DOMAIN" of each domain and with "/DOMAIN/TASK" of each task.
Metrics summarize(const std::string& phase, const TaskTallies& tallies);

/// metrics.jsonl of a run folder, one object per line with "step" and any of the names above,
/// and the same numbers as TensorBoard events.
class MetricsWriter {
 public:
  /// Opens the run's files. Lines of steps after `step` are cut off: a run that is resumed from an
  /// older checkpoint writes them again. Throws Error(kResource).
  MetricsWriter(const std::filesystem::path& run, std::int64_t step);

  void write(std::int64_t step, const Metrics& metrics);
  /// fsync, so that a checkpoint never is ahead of its metrics.
  void sync();

 private:
  OutputFile lines_;
  EventWriter events_;
};

}  // namespace lram::training
