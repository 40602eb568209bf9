// Scores as text, CSV and JSON.
#include <nlohmann/json.hpp>

#include "eval/scores.h"
#include "lram/core/error.h"

namespace lram::eval {
namespace {
using Row = std::vector<std::string>;

std::string with_interval(const std::optional<Estimate>& estimate, int digits) {
  if (!estimate) return "-";
  return fmt::format("{:.{}f} [{:.{}f}, {:.{}f}]", estimate->value, digits, estimate->low, digits,
                     estimate->high, digits);
}

std::string align(const std::vector<Row>& rows) {
  std::vector<std::size_t> widths(rows.front().size());
  for (const Row& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  std::string out;
  for (const Row& row : rows) {
    std::string line = fmt::format("{:<{}}  {:<{}}", row[0], widths[0], row[1], widths[1]);
    for (std::size_t i = 2; i < row.size(); ++i) line += fmt::format("  {:>{}}", row[i], widths[i]);
    out += line + '\n';
  }
  return out;
}

std::string csv_estimate(const std::optional<Estimate>& estimate) {
  if (!estimate) return ",,";
  return fmt::format("{},{},{}", estimate->value, estimate->low, estimate->high);
}

nlohmann::json json_estimate(const std::optional<Estimate>& estimate) {
  if (!estimate) return nullptr;
  return {{"value", estimate->value}, {"low", estimate->low}, {"high", estimate->high}};
}
}  // namespace

std::string to_table(const Scores& scores) {
  std::vector<Row> rows = {{"task", "mode", "episodes", "target", "return [95 %]", "data", "/ data",
                            "data score", "LRAM score"}};
  for (const TaskScore& task : scores.tasks)
    rows.push_back({task.task, task.mode, std::to_string(task.episodes),
                    fmt::format("{:.1f}", task.target_return), with_interval(task.mean, 1),
                    fmt::format("{:.1f}", task.data_mean), with_interval(task.data_ratio, 2),
                    with_interval(task.data_score, 2), with_interval(task.lram_score, 2)});
  for (const DomainScore& domain : scores.domains)
    rows.push_back(
        {fmt::format("{}: {} task{}", domain.domain, domain.tasks, domain.tasks == 1 ? "" : "s"),
         domain.mode, "", "", "", "", with_interval(domain.data_ratio, 2),
         with_interval(domain.data_score, 2), with_interval(domain.lram_score, 2)});
  return align(rows);
}

std::string to_csv(const Scores& scores) {
  std::string out = "task,mode,episodes,target_return,mean,mean_low,mean_high,data_mean";
  for (const char* name : {"data_ratio", "data_score", "lram_score"})
    out += fmt::format(",{0},{0}_low,{0}_high", name);
  out += '\n';
  for (const TaskScore& task : scores.tasks)
    out += fmt::format("{},{},{},{},{},{},{},{},{}\n", task.task, task.mode, task.episodes,
                       task.target_return, csv_estimate(task.mean), task.data_mean,
                       csv_estimate(task.data_ratio), csv_estimate(task.data_score),
                       csv_estimate(task.lram_score));
  for (const DomainScore& domain : scores.domains)
    out += fmt::format("{},{},,,,,,,{},{},{}\n", domain.domain, domain.mode,
                       csv_estimate(domain.data_ratio), csv_estimate(domain.data_score),
                       csv_estimate(domain.lram_score));
  return out;
}

void to_json(nlohmann::json& json, const Scores& scores) {
  json = {{"tasks", nlohmann::json::array()}, {"domains", nlohmann::json::array()}};
  for (const TaskScore& task : scores.tasks)
    json["tasks"].push_back({{"task", task.task},
                             {"mode", task.mode},
                             {"episodes", task.episodes},
                             {"target_return", task.target_return},
                             {"mean", json_estimate(task.mean)},
                             {"data_mean", task.data_mean},
                             {"data_ratio", json_estimate(task.data_ratio)},
                             {"data_score", json_estimate(task.data_score)},
                             {"lram_score", json_estimate(task.lram_score)}});
  for (const DomainScore& domain : scores.domains)
    json["domains"].push_back({{"domain", domain.domain},
                               {"mode", domain.mode},
                               {"tasks", domain.tasks},
                               {"data_ratio", json_estimate(domain.data_ratio)},
                               {"data_score", json_estimate(domain.data_score)},
                               {"lram_score", json_estimate(domain.lram_score)}});
}
}  // namespace lram::eval
