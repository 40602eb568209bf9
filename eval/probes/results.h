#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "eval/probes/settings.h"
#include "eval/svg_plot.h"

namespace lram::eval::probes {

struct CurvePoint {
  std::int64_t length = 0;
  double score = 0.0;
};

/// What came of a run. Scores: accuracy, or mean squared error with real inputs.
struct RunResult {
  double validation = 0.0, test = 0.0, chance = 0.0;
  std::vector<CurvePoint> curve = {};
  std::int64_t steps = 0;    ///< taken, fewer than allowed where the bar was reached
  std::int64_t replays = 0;  ///< of them, steps that were replayed as a CUDA graph
  std::int64_t tokens = 0;   ///< trained on, without pads
  std::int64_t parameters = 0;
  double seconds = 0.0;
  bool reached = false;   ///< the validation score came to the bar
  bool diverged = false;  ///< stopped by a gradient that is not finite
};

struct RunRecord {
  RunSettings settings;
  RunResult result;
  std::string device, hardware, build;
};

void to_json(nlohmann::json& json, const RunRecord& record);
void from_json(const nlohmann::json& json, RunRecord& record);

/// The records of a file with one JSON object a line; none if there is no file. A last line that
/// was cut off is left out. Throws Error(kInput) that names file and line.
std::vector<RunRecord> read_records(const std::filesystem::path& path);
/// Adds one line, on disk when it returns; several processes may add to one file. Throws
/// Error(kResource).
void append_record(const std::filesystem::path& path, const RunRecord& record);

/// All runs of one cell on one task. Each seed stands for the learning rate with the best
/// validation score; of these, `best` has the best one.
struct CellScore {
  std::string task, cell;
  RunRecord best = {};
  double mean = 0.0;  ///< test score over the seeds
  std::int64_t seeds = 0;
  std::vector<double> rates = {};  ///< tried, ascending
  std::int64_t least_steps = 0;    ///< that any of its runs was allowed
  bool is_error = false;           ///< the score is an error: less is better

  double test() const { return best.result.test; }
  /// (accuracy - chance) / (1 - chance), not below 0; of an accuracy only.
  double scaled() const;
};

/// In the order of task_names(), and of `cells` within a task.
std::vector<CellScore> cell_scores(const std::vector<RunRecord>& records,
                                   const std::vector<std::string>& cells);

/// Null if it is not there.
const CellScore* find(const std::vector<CellScore>& scores, const std::string& task,
                      const std::string& cell);

/// Tasks down, cells across: best test score, and in brackets the mean if there are several seeds.
std::string to_table(const std::vector<CellScore>& scores);

/// Tasks and lengths down, cells across: the scores of length_plot() as text.
std::string to_length_table(const std::vector<CellScore>& scores);

/// Score against length of all cells on one task.
Plot length_plot(const std::vector<CellScore>& scores, const std::string& task);

}  // namespace lram::eval::probes
