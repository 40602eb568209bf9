// lram ckpt verify. A program of its own: a policy's shapes are those of the module that its config
// builds, so that no second list of them can go stale.
#include <fmt/core.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "lram/app/verb.h"
#include "lram/core/error.h"
#include "lram/core/json.h"
#include "lram/core/manifest.h"
#include "lram/core/options.h"
#include "lram/model/policy.h"
#include "lram/weights/formats.h"
#include "lram/weights/statistics.h"

namespace lram::app {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;
using weights::TensorFiles;

struct Report {
  std::string manifest = "none there", shapes;
  std::uint64_t num_tensors = 0, num_values = 0;
  json findings = json::array();
};

bool is_policy(const fs::path& path) {
  if (!fs::exists(path / "config.json")) return false;
  const json config = parse_json_or_discard(read_file(path / "config.json"));
  return config.is_object() && config.contains("format_version");
}

void look_for_non_finite(const SafetensorsFile& file, Report& report) {
  for (const TensorEntry& tensor : file.tensors()) {
    ++report.num_tensors;
    report.num_values += tensor.data.size() / dtype_size(tensor.dtype);
    if (const std::uint64_t count = weights::count_non_finite(tensor))
      report.findings.push_back({{"file", file.path().string()},
                                 {"tensor", tensor.name},
                                 {"found", fmt::format("{} values that are not finite", count)},
                                 {"wanted", "finite values"}});
  }
}

void check_total_size(const TensorFiles& files) {
  if (!files.index() || !files.index()->total_size) return;
  std::uint64_t bytes = 0;
  for (const auto& [name, tensor] : files.tensors()) bytes += tensor->data.size();
  if (bytes != *files.index()->total_size)
    throw_error(ErrorKind::kInput, "{}: total_size is {}, the tensors have {} bytes",
                (files.path() / weights::kIndexName).string(), *files.index()->total_size, bytes);
}

/// Throws Error(kInput) for everything that makes the file or folder unusable.
Report verify(const fs::path& path) {
  Report report;
  const bool policy = fs::is_directory(path) && is_policy(path);
  if (policy || fs::exists(path / kManifestName)) {
    verify_manifest(path);
    report.manifest = "agrees";
  }
  const TensorFiles files(path);
  check_total_size(files);
  for (const SafetensorsFile& file : files.files()) look_for_non_finite(file, report);
  // What a checkpoint has besides: the optimizer's moments, carried states.
  if (fs::is_directory(path / "training_state"))
    for (const auto& item : fs::directory_iterator(path / "training_state"))
      if (item.path().extension() == ".safetensors")
        look_for_non_finite(SafetensorsFile(item.path()), report);

  if (policy) {
    model::check_policy_tensors(path);
    report.shapes = "as config.json builds them";
  } else if (const auto set = weights::weight_set(files);
             const auto* format = weights::detect_format(set)) {
    format->read(set, {}, path.string());
    report.shapes = fmt::format("of one {} model", format->name);
  } else {
    report.shapes = "not checked: names of no known format";
  }
  return report;
}
}  // namespace

int ckpt_verify(const Args& args) {
  std::string path;
  bool as_json = false;
  CommandLine line("lram ckpt verify DIR|FILE",
                   "Looks at every byte of a checkpoint or of weights: sizes and checksums of "
                   "MANIFEST.json, the\nformat's rules, names and shapes (against config.json, or "
                   "those of the format that the names show),\nfinite values. Exit code 3 for a "
                   "file that is missing or wrong, 1 for values that are not finite.");
  line.options().add_options()("path", po::value(&path)->required(),
                               "folder or file (bare argument)")("json", po::bool_switch(&as_json),
                                                                 "print JSON");
  line.positional("path");
  if (!line.parse(args)) return 0;

  const Report report = verify(path);
  if (as_json) {
    fmt::print("{}\n", json_text(json{{"path", path},
                                      {"manifest", report.manifest},
                                      {"shapes", report.shapes},
                                      {"tensors", report.num_tensors},
                                      {"values", report.num_values},
                                      {"findings", report.findings}},
                                 2));
  } else {
    for (const json& finding : report.findings)
      fmt::print("{}: tensor '{}': {}, wanted {}\n", finding["file"].get<std::string>(),
                 finding["tensor"].get<std::string>(), finding["found"].get<std::string>(),
                 finding["wanted"].get<std::string>());
    if (report.findings.empty())
      fmt::print("{}: sound, {} tensors, {} values; manifest: {}; shapes: {}\n", path,
                 report.num_tensors, report.num_values, report.manifest, report.shapes);
  }
  return report.findings.empty() ? 0 : static_cast<int>(ErrorKind::kCheckFailed);
}
}  // namespace lram::app

int main(int argc, char** argv) {
  return lram::app::run_verb("lram ckpt verify", lram::app::ckpt_verify,
                             lram::app::Args(argv + 1, argv + argc));
}
