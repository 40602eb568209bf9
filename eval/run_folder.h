#pragma once
#include <ctime>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "eval/evaluation.h"
#include "eval/latency.h"

namespace lram::eval {

/// What a run folder holds for a report; a part that is absent stays empty.
struct RunFolder {
  std::filesystem::path path;
  std::string config_ini;  ///< resolved recipe, config.ini
  /// metrics.jsonl: tag ("train/loss/dmcontrol") -> step -> value, the last line of a step wins.
  std::map<std::string, std::map<double, double>> metrics;
  Evaluation evaluation;  ///< eval/*.json together: of each task and mode the newest, in order
  LatencyTable latency;   ///< latency.json
};

/// Throws Error(kInput) for a folder that has none of the parts, and for a part that is not what
/// its name says. A torn last line of metrics.jsonl, which a killed run may leave, is passed over.
RunFolder read_run_folder(const std::filesystem::path& path);

/// The run of a checkpoint folder: RUN of RUN/checkpoints/NAME, else the folder itself.
std::filesystem::path run_of_checkpoint(const std::filesystem::path& checkpoint);

/// Where an evaluation of that time goes: RUN/eval/TIME_CHECKPOINT.json, in UTC, or with _2, _3,
/// ... before its extension, the first that is not there.
std::filesystem::path new_evaluation_path(const std::filesystem::path& run,
                                          const std::string& checkpoint, std::time_t time);

}  // namespace lram::eval
