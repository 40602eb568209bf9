#pragma once
#include <filesystem>
#include <optional>

#include "eval/probes/run.h"

namespace lram::training {
class Optimizer;
}  // namespace lram::training

namespace lram::eval::probes {

/// Where the state of a run that was stopped lies in a folder of such: a name of its own for all
/// settings.
std::filesystem::path unfinished_path(const std::filesystem::path& folder,
                                      const RunSettings& settings);

/// Writes weights, moments and `result`, what has come of the run so far, as one safetensors file,
/// atomically. A batch is a function of the settings and its number, so nothing else is needed.
void save_unfinished(const std::filesystem::path& path, const RunSettings& settings,
                     const RunResult& result, const ProbeModel& model,
                     const training::Optimizer& optimizer);

/// Goes back to what save_unfinished() wrote; nothing if there is no file, or one of other
/// settings. Throws Error(kInput) that names the file, what was found and wanted.
std::optional<RunResult> load_unfinished(const std::filesystem::path& path,
                                         const RunSettings& settings, ProbeModel& model,
                                         training::Optimizer& optimizer);

}  // namespace lram::eval::probes
