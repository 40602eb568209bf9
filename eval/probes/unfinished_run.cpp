#include "eval/probes/unfinished_run.h"

#include <fmt/core.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "lram/core/error.h"
#include "lram/core/json.h"
#include "lram/model/tensor_io.h"
#include "lram/training/optimizer.h"

namespace lram::eval::probes {
namespace {
/// Weights and moments, each under a name of its own.
model::NamedTensors state_of(const ProbeModel& model, const training::Optimizer& optimizer) {
  model::NamedTensors all;
  for (const auto& [name, tensor] : model::named_tensors(model)) {
    all.emplace_back("model." + name, tensor);
    all.emplace_back("exp_avg." + name, optimizer.exp_avg(name));
    all.emplace_back("exp_avg_sq." + name, optimizer.exp_avg_sq(name));
  }
  return all;
}
}  // namespace

std::filesystem::path unfinished_path(const std::filesystem::path& folder,
                                      const RunSettings& settings) {
  const std::size_t hash = std::hash<std::string>()(json_text(nlohmann::json(settings)));
  return folder / fmt::format("{}-{}-{}-{}-{:016x}.safetensors", settings.task, settings.cell,
                              settings.seed, settings.rate, hash);
}

void save_unfinished(const std::filesystem::path& path, const RunSettings& settings,
                     const RunResult& result, const ProbeModel& model,
                     const training::Optimizer& optimizer) {
  if (path.has_parent_path()) make_folder(path.parent_path());
  model::save_tensors(
      path, state_of(model, optimizer),
      {{"run", json_text(nlohmann::json(RunRecord{settings, result, "", "", ""}))}});
}

std::optional<RunResult> load_unfinished(const std::filesystem::path& path,
                                         const RunSettings& settings, ProbeModel& model,
                                         training::Optimizer& optimizer) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  const SafetensorsFile file(path);
  const auto run = file.metadata().find("run");
  if (run == file.metadata().end())
    throw_error(ErrorKind::kInput, "{}: no entry 'run' beside its tensors: no run that was stopped",
                path.string());
  RunRecord record;
  try {
    record = parse_json(run->second).get<RunRecord>();
  } catch (const nlohmann::json::exception& error) {
    throw_error(ErrorKind::kInput, "{}: its entry 'run' is no run: {}", path.string(),
                error.what());
  }
  if (!(record.settings == settings)) return std::nullopt;
  model::load_tensors(file, state_of(model, optimizer));
  optimizer.set_num_steps(record.result.steps);
  return record.result;
}

}  // namespace lram::eval::probes
