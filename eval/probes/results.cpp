#include "eval/probes/results.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "lram/core/error.h"
#include "lram/core/file.h"
#include "lram/core/json.h"
#include "lram/core/table.h"

namespace lram::eval::probes {
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(CurvePoint, length, score)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RunResult, validation, test, chance, curve, steps, replays,
                                   tokens, parameters, seconds, reached, diverged)

void to_json(nlohmann::json& json, const RunRecord& record) {
  json = {{"settings", record.settings},
          {"result", record.result},
          {"device", record.device},
          {"hardware", record.hardware},
          {"build", record.build}};
}

void from_json(const nlohmann::json& json, RunRecord& record) {
  json.at("settings").get_to(record.settings);
  json.at("result").get_to(record.result);
  json.at("device").get_to(record.device);
  json.at("hardware").get_to(record.hardware);
  json.at("build").get_to(record.build);
}

namespace {
bool better(const CellScore& group, const RunRecord& a, const RunRecord& b) {
  return group.is_error ? a.result.validation < b.result.validation
                        : a.result.validation > b.result.validation;
}

std::string cell_text(const CellScore& score) {
  const int digits = score.is_error ? 4 : 3;
  std::string text = fmt::format("{:.{}f}", score.test(), digits);
  if (score.seeds > 1) text += fmt::format(" ({:.{}f})", score.mean, digits);
  return text;
}
struct Names {
  std::vector<std::string> tasks, cells;
};

/// Each task and cell once, in the order of `scores`.
Names names_of(const std::vector<CellScore>& scores) {
  Names names;
  const auto add = [](std::vector<std::string>& to, const std::string& name) {
    if (std::find(to.begin(), to.end(), name) == to.end()) to.push_back(name);
  };
  for (const CellScore& score : scores) add(names.tasks, score.task), add(names.cells, score.cell);
  return names;
}
}  // namespace

const CellScore* find(const std::vector<CellScore>& scores, const std::string& task,
                      const std::string& cell) {
  for (const CellScore& score : scores)
    if (score.task == task && score.cell == cell) return &score;
  return nullptr;
}

std::vector<RunRecord> read_records(const std::filesystem::path& path) {
  std::vector<RunRecord> records;
  if (!std::filesystem::exists(path)) return records;
  const std::string text = read_file(path);
  std::size_t line = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    if (end == std::string::npos) break;  // cut off while it was written
    ++line;
    try {
      records.push_back(parse_json(text.substr(at, end - at)).get<RunRecord>());
    } catch (const nlohmann::json::exception& error) {
      throw_error(ErrorKind::kInput, "{}, line {}: no run that 'lram probe' wrote: {}",
                  path.string(), line, error.what());
    }
    at = end + 1;
  }
  return records;
}

void append_record(const std::filesystem::path& path, const RunRecord& record) {
  if (path.has_parent_path()) make_folder(path.parent_path());
  // What a crash cut off gets a line of its own no more: it is dropped before anything is added.
  if (std::filesystem::exists(path)) {
    const std::string text = read_file(path);
    if (!text.empty() && text.back() != '\n')
      write_file_atomically(path, text.substr(0, text.rfind('\n') + 1));
  }
  OutputFile file(path, OutputFile::Mode::kAppend);
  file.write(json_text(nlohmann::json(record)) + '\n');
  file.sync();
  file.close();
}

double CellScore::scaled() const {
  const double chance = best.result.chance;
  return std::max(0.0, (test() - chance) / (1.0 - chance));
}

std::vector<CellScore> cell_scores(const std::vector<RunRecord>& records,
                                   const std::vector<std::string>& cells) {
  std::vector<CellScore> out;
  for (const std::string& task : task_names()) {
    for (const std::string& cell : cells) {
      CellScore score{
          .task = task, .cell = cell, .best = {}, .is_error = make_task(task).is_real()};
      std::map<std::uint64_t, RunRecord> by_seed;
      for (const RunRecord& record : records) {
        if (record.settings.task != task || record.settings.cell != cell) continue;
        score.rates.push_back(record.settings.rate);
        score.least_steps = score.rates.size() == 1
                                ? record.settings.steps
                                : std::min(score.least_steps, record.settings.steps);
        const auto [at, fresh] = by_seed.try_emplace(record.settings.seed, record);
        if (!fresh && better(score, record, at->second)) at->second = record;
      }
      if (by_seed.empty()) continue;
      std::sort(score.rates.begin(), score.rates.end());
      score.rates.erase(std::unique(score.rates.begin(), score.rates.end()), score.rates.end());
      score.seeds = std::ssize(by_seed);
      for (const auto& [seed, record] : by_seed) {
        score.mean += record.result.test / static_cast<double>(score.seeds);
        if (&record == &by_seed.begin()->second || better(score, record, score.best))
          score.best = record;
      }
      out.push_back(std::move(score));
    }
  }
  return out;
}

std::string to_table(const std::vector<CellScore>& scores) {
  const Names names = names_of(scores);
  std::vector<std::string> header = {"task", "chance"};
  header.insert(header.end(), names.cells.begin(), names.cells.end());
  Table table(header);
  for (const std::string& task : names.tasks) {
    std::vector<std::string> row = {task, ""};
    for (const std::string& cell : names.cells) {
      const CellScore* score = find(scores, task, cell);
      row.push_back(score == nullptr ? "-" : cell_text(*score));
      if (score == nullptr) continue;
      row[0] = score->is_error ? task + ", error" : task;
      row[1] = fmt::format("{:.3f}", score->best.result.chance);
    }
    table.add(std::move(row));
  }
  return table.text();
}

std::string to_length_table(const std::vector<CellScore>& scores) {
  const Names names = names_of(scores);
  std::vector<std::string> header = {"task", "length"};
  header.insert(header.end(), names.cells.begin(), names.cells.end());
  Table table(header);
  for (const std::string& task : names.tasks) {
    std::map<std::int64_t, std::map<std::string, std::string>> by_length;
    for (const CellScore& score : scores)
      if (score.task == task)
        for (const CurvePoint& point : score.best.result.curve)
          by_length[point.length][score.cell] =
              fmt::format("{:.{}f}", point.score, score.is_error ? 4 : 3);
    for (auto& [length, by_cell] : by_length) {
      std::vector<std::string> row = {task, std::to_string(length)};
      for (const std::string& cell : names.cells)
        row.push_back(by_cell.contains(cell) ? by_cell[cell] : "-");
      table.add(std::move(row));
    }
  }
  return table.text();
}

Plot length_plot(const std::vector<CellScore>& scores, const std::string& task) {
  Plot plot{.title = task, .x = {.label = "length", .log = true}};
  double chance = 0.0, top = 0.0;
  std::vector<double> lengths;
  for (const CellScore& score : scores) {
    if (score.task != task) continue;
    Series series{.name = score.cell, .markers = true};
    for (const CurvePoint& point : score.best.result.curve) {
      series.x.push_back(static_cast<double>(point.length));
      series.y.push_back(point.score);
    }
    plot.y.label = score.is_error ? "mean squared error" : "accuracy";
    chance = score.best.result.chance;
    if (series.x.size() > lengths.size()) lengths = series.x;
    top = std::max(top, score.is_error ? 2.0 * chance : 1.0);
    plot.series.push_back(std::move(series));
  }
  if (plot.series.empty()) return plot;
  plot.y.high = top;  // a model that explodes would leave nothing of the others to see
  plot.series.push_back({.name = "chance",
                         .x = lengths,
                         .y = std::vector<double>(lengths.size(), chance),
                         .dashed = true});
  return plot;
}

}  // namespace lram::eval::probes
