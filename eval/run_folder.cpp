#include "eval/run_folder.h"

#include <fmt/chrono.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>
#include <tuple>

#include "lram/core/error.h"
#include "lram/core/file.h"
#include "lram/core/json.h"

namespace lram::eval {
namespace {
namespace fs = std::filesystem;

std::map<std::string, std::map<double, double>> read_metrics(const fs::path& path) {
  std::map<std::string, std::map<double, double>> metrics;
  const std::string text = read_file(path);
  std::istringstream lines(text);
  std::size_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.empty()) continue;
    const bool torn = lines.eof();  // no newline behind it
    const auto json = parse_json_or_discard(line);
    if (json.is_discarded() && torn) break;
    if (!json.is_object() || !json.contains("step") || !json["step"].is_number())
      throw_error(ErrorKind::kInput, "{}: line {} is no JSON object with a number 'step'",
                  path.string(), number);
    const double step = json["step"].get<double>();
    for (const auto& [tag, value] : json.items())
      if (tag != "step" && value.is_number()) metrics[tag][step] = value.get<double>();
  }
  return metrics;
}

// `newer` replaces the tasks and modes that it has.
void merge(Evaluation& all, Evaluation newer) {
  std::vector<TaskEvaluation> tasks = std::move(all.tasks);
  for (TaskEvaluation& task : newer.tasks) {
    const auto same = std::find_if(tasks.begin(), tasks.end(), [&](const TaskEvaluation& other) {
      return other.task == task.task && other.mode == task.mode;
    });
    if (same == tasks.end()) {
      tasks.push_back(std::move(task));
    } else {
      *same = std::move(task);
    }
  }
  all = std::move(newer);
  all.tasks = std::move(tasks);
}
}  // namespace

RunFolder read_run_folder(const fs::path& path) {
  if (!fs::is_directory(path))
    throw_error(ErrorKind::kInput, "{}: no such folder, wanted the run folder of 'lram train'",
                path.string());
  RunFolder run;
  run.path = path;
  bool any = false;
  const auto has = [&](const char* name) {
    const bool there = fs::exists(path / name);
    any = any || there;
    return there;
  };
  if (has("config.ini")) run.config_ini = read_file(path / "config.ini");
  if (has("metrics.jsonl")) run.metrics = read_metrics(path / "metrics.jsonl");
  if (has("latency.json")) run.latency = read_latency(path / "latency.json");
  if (fs::is_directory(path / "eval")) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(path / "eval"))
      if (entry.path().extension() == ".json") files.push_back(entry.path());
    std::sort(files.begin(), files.end());  // names begin with the time
    for (const fs::path& file : files) merge(run.evaluation, read_evaluation(file));
    any = any || !files.empty();
    std::sort(run.evaluation.tasks.begin(), run.evaluation.tasks.end(),
              [](const TaskEvaluation& a, const TaskEvaluation& b) {
                return std::tie(a.task, a.mode) < std::tie(b.task, b.mode);
              });
  }
  if (!any)
    throw_error(ErrorKind::kInput,
                "{}: no run folder: it has none of config.ini, metrics.jsonl, eval/*.json and "
                "latency.json",
                path.string());
  return run;
}

fs::path run_of_checkpoint(const fs::path& checkpoint) {
  const fs::path folder = fs::weakly_canonical(checkpoint);
  return folder.parent_path().filename() == "checkpoints" ? folder.parent_path().parent_path()
                                                          : folder;
}

fs::path new_evaluation_path(const fs::path& run, const std::string& checkpoint, std::time_t time) {
  const std::string name = fmt::format("{:%Y%m%d-%H%M%S}_{}", fmt::gmtime(time), checkpoint);
  fs::path path = run / "eval" / (name + ".json");
  for (int n = 2; fs::exists(path); ++n) path = run / "eval" / fmt::format("{}_{}.json", name, n);
  return path;
}
}  // namespace lram::eval
