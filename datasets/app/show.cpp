#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "datasets/episode_file.h"
#include "datasets/statistics.h"
#include "lram/app/verb.h"
#include "lram/core/json.h"
#include "lram/core/options.h"
#include "lram/core/table.h"
#include "lram/core/text.h"

namespace lram::app {
namespace {
using datasets::EpisodeFile;
using datasets::EpisodeView;
using datasets::Statistics;
using nlohmann::json;

const char* end_of(const EpisodeView& episode) {
  if (episode.terminated.back() != 0) return "terminated";
  return episode.truncated.back() != 0 ? "truncated" : "open";
}

json to_json(const Statistics& statistics) {
  json quantiles = json::object();
  for (std::size_t i = 0; i < Statistics::kQuantiles.size(); ++i)
    quantiles[fmt::format("{}", Statistics::kQuantiles[i])] = statistics.return_quantiles[i];
  return {{"length", {{"min", statistics.min_length}, {"max", statistics.max_length}}},
          {"return",
           {{"min", statistics.return_min},
            {"mean", statistics.return_mean},
            {"max", statistics.return_max},
            {"quantiles", quantiles}}},
          {"reward", {{"min", statistics.reward_min}, {"max", statistics.reward_max}}},
          {"observation_mean", statistics.observation_mean},
          {"observation_std", statistics.observation_std},
          {"action_min", statistics.action_min},
          {"action_max", statistics.action_max},
          {"action_counts", statistics.action_counts}};
}

json to_json(const std::string& path, const EpisodeFile& file, std::size_t num_listed) {
  json out = {{"path", path},
              {"complete", file.data() != nullptr},
              {"spec", file.spec()},
              {"generator", file.generator().name},
              {"generator_version", file.generator().version},
              {"episodes", file.episodes().size()},
              {"steps", file.num_steps()},
              {"bytes", std::filesystem::file_size(path)}};
  if (file.data() != nullptr) {
    for (const auto& array : file.data()->arrays())
      out["arrays"].push_back({{"path", array.spec.path},
                               {"shape", array.spec.shape},
                               {"bytes", array.bytes.size()},
                               {"crc32c", fmt::format("{:08x}", array.crc32c)}});
  } else {
    out["unfinished_bytes"] = file.journal()->tail_bytes();
  }
  if (!file.episodes().empty())
    out["statistics"] = to_json(datasets::compute_statistics(file.spec(), file.episodes()));
  out["episode_table"] = json::array();
  for (std::size_t e = 0; e < num_listed; ++e) {
    const EpisodeView& episode = file.episodes()[e];
    out["episode_table"].push_back({{"seed", episode.seed},
                                    {"variant", episode.variant},
                                    {"length", episode.length()},
                                    {"return", episode.episode_return},
                                    {"end", end_of(episode)}});
  }
  return out;
}

void print_summary(const std::string& path, const EpisodeFile& file) {
  const TaskSpec& spec = file.spec();
  const auto print = [](const char* name, const std::string& value) {
    fmt::print("{:<12} {}\n", name, value);
  };
  print("file", fmt::format("{}, {}", path, format_bytes(std::filesystem::file_size(path))));
  print("task", spec.id);
  print("generator", file.generator().name + " " + file.generator().version);
  if (file.journal() != nullptr)
    print("state", fmt::format("journal of a collection under way or stopped, {} bytes unfinished",
                               file.journal()->tail_bytes()));
  std::string observation;
  if (spec.observation.vector_size > 0)
    observation = fmt::format("vector of {}", spec.observation.vector_size);
  if (spec.observation.has_image())
    observation += fmt::format("{}image {} x {} x {}", observation.empty() ? "" : ", ",
                               spec.observation.image_height, spec.observation.image_width,
                               spec.observation.image_channels);
  print("observation", observation);
  print("action", spec.action.discrete ? fmt::format("one of {}", spec.action.num_actions)
                                       : fmt::format("vector of {}", spec.action.size));
  print("episodes", std::to_string(file.episodes().size()));
  print("steps", std::to_string(file.num_steps()));
}

void print_arrays(const datasets::Dataset& data) {
  Table table({"array", "shape", "size", "crc32c"});
  for (const auto& array : data.arrays())
    table.add({array.spec.path, fmt::format("[{}]", joined(array.spec.shape)),
               format_bytes(array.bytes.size()), fmt::format("{:08x}", array.crc32c)});
  fmt::print("\n{}", table.text());
}

// "position[2]" of the part that holds a column, or its number.
std::string column_name(const ObservationSpec& spec, std::int64_t column) {
  for (const ObservationPart& part : spec.parts) {
    if (column < part.size) return fmt::format("{}[{}]", part.name, column);
    column -= part.size;
  }
  return std::to_string(column);
}

void print_statistics(const TaskSpec& spec, const Statistics& statistics) {
  fmt::print("{:<12} {} to {} steps\n", "length", statistics.min_length, statistics.max_length);
  fmt::print("{:<12} {:.6g} to {:.6g}\n", "reward", statistics.reward_min, statistics.reward_max);
  fmt::print("{:<12} mean {:.6g}, {:.6g} to {:.6g}; quantiles", "return", statistics.return_mean,
             statistics.return_min, statistics.return_max);
  for (std::size_t i = 0; i < Statistics::kQuantiles.size(); ++i)
    fmt::print(" {:.0f} % {:.6g}{}", 100.0 * Statistics::kQuantiles[i],
               statistics.return_quantiles[i], i + 1 < Statistics::kQuantiles.size() ? "," : "\n");
  if (!statistics.observation_mean.empty()) {
    Table table({"observation", "mean", "std"});
    for (std::size_t i = 0; i < statistics.observation_mean.size(); ++i)
      table.add({column_name(spec.observation, static_cast<std::int64_t>(i)),
                 fmt::format("{:.6g}", statistics.observation_mean[i]),
                 fmt::format("{:.6g}", statistics.observation_std[i])});
    fmt::print("\n{}", table.text());
  }
  if (spec.action.discrete) {
    Table table({"action", "count"});
    for (std::size_t i = 0; i < statistics.action_counts.size(); ++i)
      table.add({std::to_string(i), std::to_string(statistics.action_counts[i])});
    fmt::print("\n{}", table.text());
  } else {
    Table table({"action", "min", "max", "lower bound", "upper bound"});
    for (std::size_t i = 0; i < statistics.action_min.size(); ++i)
      table.add({std::to_string(i), fmt::format("{:.6g}", statistics.action_min[i]),
                 fmt::format("{:.6g}", statistics.action_max[i]),
                 fmt::format("{:.6g}", spec.action.low[i]),
                 fmt::format("{:.6g}", spec.action.high[i])});
    fmt::print("\n{}", table.text());
  }
}

void print_episodes(std::span<const EpisodeView> episodes, std::size_t num_listed) {
  Table table({"episode", "seed", "variant", "length", "return", "end"});
  for (std::size_t e = 0; e < num_listed; ++e)
    table.add({std::to_string(e), std::to_string(episodes[e].seed),
               std::string(episodes[e].variant), std::to_string(episodes[e].length()),
               fmt::format("{:.6g}", episodes[e].episode_return), end_of(episodes[e])});
  fmt::print("\n{}", table.text());
  if (num_listed < episodes.size())
    fmt::print("({} more: --episodes -1 lists all)\n", episodes.size() - num_listed);
}
}  // namespace

int data_show(const Args& args) {
  std::string path;
  bool as_json = false;
  std::int64_t max_listed = 10;
  CommandLine line("lram data show FILE",
                   "Task, arrays, statistics and episodes of a data set or a journal (.part).");
  line.options().add_options()("file", po::value(&path)->required(), "data set (bare argument)")(
      "episodes", po::value(&max_listed)->default_value(max_listed),
      "list the first so many episodes, -1 = all")("json", po::bool_switch(&as_json), "print JSON");
  line.positional("file");
  if (!line.parse(args)) return 0;

  const EpisodeFile file(path);
  const std::size_t num_episodes = file.episodes().size();
  const std::size_t num_listed =
      max_listed < 0 ? num_episodes : std::min(num_episodes, static_cast<std::size_t>(max_listed));
  if (as_json) {
    fmt::print("{}\n", json_text(to_json(path, file, num_listed), 2));
    return 0;
  }
  print_summary(path, file);
  if (num_episodes > 0)
    print_statistics(file.spec(), datasets::compute_statistics(file.spec(), file.episodes()));
  if (file.data() != nullptr) print_arrays(*file.data());
  if (num_listed > 0) print_episodes(file.episodes(), num_listed);
  return 0;
}
}  // namespace lram::app
