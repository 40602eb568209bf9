#include <fmt/core.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "lram/app/verb.h"
#include "lram/core/error.h"
#include "lram/core/json.h"
#include "lram/core/options.h"
#include "lram/core/table.h"
#include "lram/core/text.h"
#include "lram/weights/formats.h"
#include "lram/weights/statistics.h"

namespace lram::app {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;
using weights::TensorFiles;
using weights::TensorStatistics;

/// A name as it may stand on a terminal.
std::string printable(const std::string& name) {
  for (const char c : name)
    if (static_cast<unsigned char>(c) < 32 || c == 127) return json_text(json(name));
  return name;
}

/// A JSON file of the folder; null where there is none.
json read_json(const fs::path& path) {
  if (!fs::exists(path)) return {};
  const json out = parse_json_or_discard(read_file(path));
  if (out.is_discarded()) throw_error(ErrorKind::kInput, "{}: not valid JSON", path.string());
  return out;
}

/// What a folder holds beside its weights.
struct Folder {
  json config;  ///< config.json
  json state;   ///< training_state/trainer.json
  bool is_policy() const { return config.is_object() && config.contains("format_version"); }
};

Folder read_folder(const fs::path& path) {
  if (!fs::is_directory(path)) return {};
  return {read_json(path / "config.json"), read_json(path / "training_state/trainer.json")};
}

std::string format_of(const TensorFiles& files, const Folder& folder) {
  if (folder.is_policy()) return "lram";
  const auto* format = weights::detect_format(weights::weight_set(files));
  return format == nullptr ? "" : std::string(format->name);
}

struct Totals {
  std::uint64_t values = 0, bytes = 0;
};

Totals totals_of(const TensorFiles& files) {
  Totals out;
  for (const auto& [name, tensor] : files.tensors()) {
    out.bytes += tensor->data.size();
    out.values += tensor->data.size() / dtype_size(tensor->dtype);
  }
  return out;
}

json to_json(const TensorFiles& files, const Folder& folder, bool with_statistics) {
  const Totals totals = totals_of(files);
  json out = {{"path", files.path().string()}, {"format", format_of(files, folder)},
              {"tensors", json::array()},      {"values", totals.values},
              {"bytes", totals.bytes},         {"metadata", files.metadata()},
              {"files", json::array()}};
  for (const SafetensorsFile& file : files.files()) {
    out["files"].push_back(
        {{"name", file.path().filename().string()}, {"tensors", file.tensors().size()}});
    for (const TensorEntry& tensor : file.tensors()) {
      json row = {{"name", tensor.name},
                  {"dtype", dtype_name(tensor.dtype)},
                  {"shape", tensor.shape},
                  {"bytes", tensor.data.size()}};
      if (files.files().size() > 1) row["file"] = file.path().filename().string();
      if (with_statistics) {
        const TensorStatistics statistics = weights::compute_statistics(tensor);
        row["min"] = statistics.min;
        row["max"] = statistics.max;
        row["mean"] = statistics.mean;
        row["non_finite"] = statistics.non_finite;
      }
      out["tensors"].push_back(std::move(row));
    }
  }
  if (!folder.config.is_null()) out["config"] = folder.config;
  if (folder.state.is_object() && folder.state.contains("step")) out["step"] = folder.state["step"];
  return out;
}

void print_config(const Folder& folder) {
  const auto print = [](const std::string& name, const std::string& value) {
    fmt::print("{:<20} {}\n", name, value);
  };
  const auto text = [](const json& value) {
    return value.is_string() ? value.get<std::string>() : json_text(value);
  };
  if (folder.state.is_object() && folder.state.contains("step"))
    print("step", text(folder.state["step"]));
  if (!folder.config.is_object()) return;
  const json& model = folder.is_policy() && folder.config.contains("model") ? folder.config["model"]
                                                                            : folder.config;
  if (folder.is_policy() && folder.config.contains("tasks") && folder.config["tasks"].is_object())
    for (const auto& [id, task] : folder.config["tasks"].items())
      print("task", fmt::format("{}, target return {}", id,
                                task.is_object() ? text(task.value("target_return", json())) : ""));
  if (!model.is_object()) return;
  fmt::print("\n");
  for (const auto& [name, value] : model.items()) print(name, text(value));
}

void print_text(const TensorFiles& files, const Folder& folder, bool with_statistics) {
  const Totals totals = totals_of(files);
  const auto print = [](const char* name, const std::string& value) {
    fmt::print("{:<20} {}\n", name, value);
  };
  print(fs::is_directory(files.path()) ? "folder" : "file", files.path().string());
  const std::string format = format_of(files, folder);
  print("format", format.empty() ? "not known" : format);
  print(
      "tensors",
      fmt::format(
          "{}, {} values, {}{}", files.tensors().size(), totals.values, format_bytes(totals.bytes),
          files.files().size() > 1 ? fmt::format(" in {} files", files.files().size()) : ""));
  for (const auto& [name, value] : files.metadata())
    print("metadata", fmt::format("{} = {}", printable(name), printable(value)));
  print_config(folder);

  std::vector<std::string> header = {"tensor", "type", "shape", "bytes"};
  if (with_statistics) header.insert(header.end(), {"min", "max", "mean", "non-finite"});
  Table table(header);
  for (const auto& [name, tensor] : files.tensors()) {
    std::vector<std::string> row = {
        printable(std::string(name)), std::string(dtype_name(tensor->dtype)),
        fmt::format("[{}]", joined(tensor->shape)), fmt::format("{}", tensor->data.size())};
    if (with_statistics) {
      const TensorStatistics statistics = weights::compute_statistics(*tensor);
      row.insert(
          row.end(),
          {fmt::format("{:.6g}", statistics.min), fmt::format("{:.6g}", statistics.max),
           fmt::format("{:.6g}", statistics.mean), fmt::format("{}", statistics.non_finite)});
    }
    table.add(std::move(row));
  }
  fmt::print("\n{}", table.text());
}
}  // namespace

int ckpt_show(const Args& args) {
  std::string path;
  bool as_json = false, with_statistics = false;
  CommandLine line("lram ckpt show DIR|FILE",
                   "Lists every tensor of a checkpoint folder, a safetensors file or a folder of "
                   "shards\n(model.safetensors.index.json), with its metadata; of a folder also "
                   "config, tasks and step.\nA file that breaks the format's rules is refused with "
                   "exit code 3.");
  line.options().add_options()("path", po::value(&path)->required(),
                               "folder or file (bare argument)")(
      "stats", po::bool_switch(&with_statistics), "min, max, mean and non-finite values too")(
      "json", po::bool_switch(&as_json), "print JSON");
  line.positional("path");
  if (!line.parse(args)) return 0;

  const TensorFiles files(path);
  const Folder folder = read_folder(path);
  if (as_json)
    fmt::print("{}\n", json_text(to_json(files, folder, with_statistics), 2));
  else
    print_text(files, folder, with_statistics);
  return 0;
}
}  // namespace lram::app
