#include "lram/training/metrics.h"

#include <nlohmann/json.hpp>
#include <sstream>

#include "lram/core/error.h"
#include "lram/core/json.h"

namespace lram::training {
namespace fs = std::filesystem;
using nlohmann::json;
namespace {
void set_means(Metrics& metrics, const std::string& phase, const std::string& suffix,
               const Tally& tally) {
  if (tally.count == 0.0) return;
  metrics[phase + "/loss" + suffix] = tally.loss / tally.count;
  metrics[phase + "/accuracy" + suffix] = tally.correct / tally.count;
}

// The run's metrics.jsonl without lines after `step` and without a torn last line.
fs::path cut_lines(const fs::path& path, std::int64_t step) {
  if (!fs::exists(path)) return path;
  std::istringstream lines(read_file(path));
  std::string kept;
  bool cut = false;
  for (std::string line; std::getline(lines, line);) {
    const json parsed = parse_json_or_discard(line);
    if (!lines.eof() && parsed.is_object() && parsed.value("step", step + 1) <= step) {
      kept += line + "\n";
    } else {
      cut = true;
    }
  }
  if (cut) write_file_atomically(path, kept);
  return path;
}
}  // namespace

void Tally::add(const Tally& other) {
  loss += other.loss;
  correct += other.correct;
  count += other.count;
}

void add(TaskTallies& to, const TaskTallies& from) {
  for (const auto& [task, tally] : from) to[task].add(tally);
}

void to_json(json& out, const Tally& tally) {
  out = {{"loss", tally.loss}, {"correct", tally.correct}, {"count", tally.count}};
}

void from_json(const json& in, Tally& tally) {
  in.at("loss").get_to(tally.loss);
  in.at("correct").get_to(tally.correct);
  in.at("count").get_to(tally.count);
}

Metrics summarize(const std::string& phase, const TaskTallies& tallies) {
  Metrics metrics;
  std::map<std::string, Tally> domains;
  for (const auto& [task, tally] : tallies) {
    set_means(metrics, phase, "/" + task, tally);
    domains[task.substr(0, task.find('/'))].add(tally);
  }
  Tally mean;  // every domain weighs the same
  for (const auto& [domain, tally] : domains) {
    set_means(metrics, phase, "/" + domain, tally);
    if (tally.count > 0.0) mean.add({tally.loss / tally.count, tally.correct / tally.count, 1.0});
  }
  set_means(metrics, phase, "", mean);
  return metrics;
}

MetricsWriter::MetricsWriter(const fs::path& run, std::int64_t step)
    : lines_(cut_lines(run / "metrics.jsonl", step), OutputFile::Mode::kAppend), events_(run) {}

void MetricsWriter::write(std::int64_t step, const Metrics& metrics) {
  json line = metrics;
  line["step"] = step;
  lines_.write(json_text(line) + "\n");
  for (const auto& [name, value] : metrics) events_.add_scalar(name, step, value);
}

void MetricsWriter::sync() { lines_.sync(); }
}  // namespace lram::training
