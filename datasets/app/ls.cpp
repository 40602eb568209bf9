#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "datasets/episode_file.h"
#include "datasets/statistics.h"
#include "lram/app/verb.h"
#include "lram/core/error.h"
#include "lram/core/json.h"
#include "lram/core/options.h"
#include "lram/core/table.h"

namespace lram::app {
namespace fs = std::filesystem;
namespace {
std::vector<fs::path> find_files(const fs::path& folder) {
  if (!fs::is_directory(folder))
    throw_error(ErrorKind::kInput, "{}: {}, wanted a folder", folder.string(),
                fs::exists(folder) ? "is a file" : "does not exist");
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const std::string extension = entry.path().extension();
    if (entry.is_regular_file() && (extension == ".h5" || extension == ".part"))
      files.push_back(entry.path());
  }
  std::ranges::sort(files);
  return files;
}

nlohmann::json describe(const fs::path& path) {
  const datasets::EpisodeFile file(path);
  nlohmann::json out = {{"path", path.string()},
                        {"task", file.spec().id},
                        {"generator", file.generator().name},
                        {"complete", file.data() != nullptr},
                        {"episodes", file.episodes().size()},
                        {"steps", file.num_steps()},
                        {"bytes", fs::file_size(path)}};
  double sum = 0.0;
  for (const auto& episode : file.episodes()) sum += episode.episode_return;
  if (!file.episodes().empty())
    out["return_mean"] = sum / static_cast<double>(file.episodes().size());
  return out;
}
}  // namespace

int data_ls(const Args& args) {
  std::string folder = ".";
  bool json = false;
  CommandLine line(
      "lram data ls [FOLDER]",
      "Lists the data sets (.h5) and journals (.part) in a folder and below. Exit code "
      "3 where\none cannot be read.");
  line.options().add_options()("folder", po::value(&folder)->default_value(folder),
                               "where to look (bare argument)")("json", po::bool_switch(&json),
                                                                "print JSON");
  line.positional("folder");
  if (!line.parse(args)) return 0;

  nlohmann::json files = nlohmann::json::array();
  bool readable = true;
  for (const fs::path& path : find_files(folder)) {
    try {
      files.push_back(describe(path));
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kInput) throw;
      files.push_back({{"path", path.string()}, {"error", error.what()}});
      readable = false;
    }
  }
  if (json) {
    fmt::print("{}\n", json_text(nlohmann::json{{"files", files}}, 2));
  } else {
    Table table({"file", "task", "generator", "episodes", "steps", "mean return", "size", "state"});
    for (const nlohmann::json& file : files) {
      if (file.contains("error")) continue;
      table.add({file["path"], file["task"], file["generator"],
                 fmt::format("{}", file["episodes"].get<std::int64_t>()),
                 fmt::format("{}", file["steps"].get<std::int64_t>()),
                 file.contains("return_mean")
                     ? fmt::format("{:.1f}", file["return_mean"].get<double>())
                     : "-",
                 format_bytes(file["bytes"]), file["complete"] ? "complete" : "journal"});
    }
    fmt::print("{}", table.text());
    for (const nlohmann::json& file : files)
      if (file.contains("error")) fmt::print("{}\n", file["error"].get<std::string>());
  }
  return readable ? 0 : static_cast<int>(ErrorKind::kInput);
}
}  // namespace lram::app
