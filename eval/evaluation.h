#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace lram::eval {

/// One finished episode.
struct Episode {
  std::string task;  ///< full id
  std::uint64_t seed = 0;
  std::int64_t length = 0;  ///< steps
  double episode_return = 0.0;
  bool terminated = false;  ///< by the task, else by the time limit
  std::string variant;      ///< the environment's, such as the hidden goal

  bool operator==(const Episode&) const = default;
};

/// The episodes of one task in one mode, beside what the checkpoint knows of the task.
struct TaskEvaluation {
  std::string task;
  std::string mode;            ///< "carried" or "window"
  double target_return = 0.0;  ///< that the episodes were prompted with, task units
  double data_mean = 0.0;      ///< mean return of the training data
  double random_mean = 0.0;    ///< mean return of random actions
  std::vector<Episode> episodes;
};

/// What `lram eval` writes and `lram report` reads.
struct Evaluation {
  std::string checkpoint;
  std::string target;  ///< "lram", "data" or a number, as asked for
  std::string hardware, build;
  double seconds = 0.0;  ///< wall clock of all rollouts
  std::vector<TaskEvaluation> tasks;
};

void to_json(nlohmann::json& json, const Evaluation& evaluation);
void from_json(const nlohmann::json& json, Evaluation& evaluation);

/// Throws Error(kInput) that names the file and what is wrong with it.
Evaluation read_evaluation(const std::filesystem::path& path);

}  // namespace lram::eval
