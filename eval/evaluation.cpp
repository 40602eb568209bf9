#include "eval/evaluation.h"

#include <nlohmann/json.hpp>

#include "lram/core/error.h"
#include "lram/core/file.h"
#include "lram/core/json.h"

namespace lram::eval {
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Episode, task, seed, length, episode_return, terminated, variant)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(TaskEvaluation, task, mode, target_return, data_mean,
                                   random_mean, episodes)

void to_json(nlohmann::json& json, const Evaluation& evaluation) {
  json = {{"checkpoint", evaluation.checkpoint}, {"target", evaluation.target},
          {"hardware", evaluation.hardware},     {"build", evaluation.build},
          {"seconds", evaluation.seconds},       {"tasks", evaluation.tasks}};
}

void from_json(const nlohmann::json& json, Evaluation& evaluation) {
  json.at("checkpoint").get_to(evaluation.checkpoint);
  json.at("target").get_to(evaluation.target);
  json.at("hardware").get_to(evaluation.hardware);
  json.at("build").get_to(evaluation.build);
  json.at("seconds").get_to(evaluation.seconds);
  json.at("tasks").get_to(evaluation.tasks);
  for (const TaskEvaluation& task : evaluation.tasks)
    if (task.episodes.empty())
      throw_error(ErrorKind::kInput, "task '{}' has no episodes, wanted at least one", task.task);
}

Evaluation read_evaluation(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  try {
    return parse_json(text).get<Evaluation>();
  } catch (const nlohmann::json::exception& error) {
    throw_error(ErrorKind::kInput, "{}: no evaluation that 'lram eval' wrote: {}", path.string(),
                error.what());
  } catch (const Error& error) {
    throw Error(error.kind(), path.string() + ": " + error.what());
  }
}
}  // namespace lram::eval
