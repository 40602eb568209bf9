#include "datasets/validate.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "lram/app/verb.h"
#include "lram/core/error.h"
#include "lram/core/json.h"
#include "lram/core/options.h"

namespace lram::app {
namespace {
struct Report {
  std::string path;
  std::int64_t num_episodes = 0, num_steps = 0;
  std::vector<datasets::Finding> findings;
};

Report look_at(const std::string& path) {
  Report report{.path = path, .findings = {}};
  try {
    const datasets::EpisodeFile file(path);
    report.num_episodes = std::ssize(file.episodes());
    report.num_steps = file.num_steps();
    report.findings = datasets::validate(file);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kInput) throw;
    std::string text = error.what();  // begins with the path, which every line gets anyway
    if (text.starts_with(path + ": ")) text.erase(0, path.size() + 2);
    report.findings.push_back({"", text, "a data set that opens"});
  }
  return report;
}

void print_text(const Report& report) {
  for (const auto& [place, found, wanted] : report.findings)
    fmt::print("{}: {}{}{}, wanted {}\n", report.path, place, place.empty() ? "" : ": ", found,
               wanted);
  if (report.findings.empty())
    fmt::print("{}: clean, {} episodes, {} steps\n", report.path, report.num_episodes,
               report.num_steps);
}

nlohmann::json to_json(const Report& report) {
  nlohmann::json findings = nlohmann::json::array();
  for (const auto& [place, found, wanted] : report.findings)
    findings.push_back({{"place", place}, {"found", found}, {"wanted", wanted}});
  return {{"path", report.path},
          {"episodes", report.num_episodes},
          {"steps", report.num_steps},
          {"findings", findings}};
}
}  // namespace

int data_validate(const Args& args) {
  std::vector<std::string> files;
  bool json = false;
  CommandLine line("lram data validate FILE...",
                   "Looks at every value of data sets and journals (.part): checksums, non-finite "
                   "numbers,\nconstant columns, actions outside their bounds, lengths, "
                   "end flags, returns.\nExit code 3 where something is found.");
  line.options().add_options()("file", po::value(&files)->required(), "data sets (bare arguments)")(
      "json", po::bool_switch(&json), "print JSON");
  line.positional("file", -1);
  if (!line.parse(args)) return 0;

  bool clean = true;
  nlohmann::json reports = nlohmann::json::array();
  for (const std::string& path : files) {
    const Report report = look_at(path);
    clean = clean && report.findings.empty();
    if (json)
      reports.push_back(to_json(report));
    else
      print_text(report);
  }
  if (json) fmt::print("{}\n", json_text(nlohmann::json{{"files", reports}}, 2));
  return clean ? 0 : static_cast<int>(ErrorKind::kInput);
}
}  // namespace lram::app
