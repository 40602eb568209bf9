#include "eval/latency.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lram/core/error.h"
#include "lram/core/file.h"
#include "lram/core/json.h"

namespace lram::eval {
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(LatencyRow, model, preset, parameters, context, steps, median_us,
                                   p99_us, max_us, state_bytes, threads)

void to_json(nlohmann::json& json, const LatencyTable& table) {
  json = {{"hardware", table.hardware}, {"build", table.build}, {"rows", table.rows}};
  for (auto& row : json["rows"]) {
    row["hardware"] = table.hardware;
    row["build"] = table.build;
  }
}

void from_json(const nlohmann::json& json, LatencyTable& table) {
  json.at("hardware").get_to(table.hardware);
  json.at("build").get_to(table.build);
  json.at("rows").get_to(table.rows);
}

LatencyTable read_latency(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  try {
    return parse_json(text).get<LatencyTable>();
  } catch (const nlohmann::json::exception& error) {
    throw_error(ErrorKind::kInput, "{}: no latencies that 'lram bench step' wrote: {}",
                path.string(), error.what());
  }
}

std::string to_table(const LatencyTable& table) {
  std::string out = fmt::format(
      "{:<12} {:<24} {:>11} {:>8} {:>7} {:>10} {:>10} {:>10} {:>12} {:>7}\n", "model", "size",
      "parameters", "context", "steps", "median us", "p99 us", "max us", "state bytes", "threads");
  for (const LatencyRow& row : table.rows)
    out +=
        fmt::format("{:<12} {:<24} {:>11} {:>8} {:>7} {:>10.1f} {:>10.1f} {:>10.1f} {:>12} {:>7}\n",
                    row.model, row.preset, row.parameters, row.context, row.steps, row.median_us,
                    row.p99_us, row.max_us, row.state_bytes, row.threads);
  out += fmt::format("hardware: {}\nbuild: {}\n", table.hardware, table.build);
  return out;
}

Plot latency_plot(const LatencyTable& table) {
  Plot plot{.title = "Time per environment step: median, band up to p99",
            .x = {.label = "context, environment steps", .log = true},
            .y = {.label = "microseconds", .log = true},
            .series = {}};
  double top = 0.0;
  for (const LatencyRow& row : table.rows) {
    const std::string name = fmt::format("{}, {:.2g}M parameters", row.model,
                                         static_cast<double>(row.parameters) * 1e-6);
    if (plot.series.empty() || plot.series.back().name != name) {
      plot.series.emplace_back();
      plot.series.back().name = name;
      plot.series.back().markers = true;
    }
    Series& series = plot.series.back();
    series.x.push_back(static_cast<double>(row.context));
    series.y.push_back(row.median_us);
    series.low.push_back(row.median_us);
    series.high.push_back(row.p99_us);
    top = std::max(top, row.median_us);
  }
  // A disturbed machine's p99 would leave nothing of the medians to see.
  plot.y.high = 4.0 * top;
  return plot;
}
}  // namespace lram::eval
