#include "eval/report.h"

#include <fmt/core.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <sstream>

#include "eval/scores.h"
#include "eval/svg_plot.h"
#include "lram/core/build_info.h"

namespace lram::eval {
namespace {
constexpr const char* kHead = R"(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<style>
:root{--ground:#ffffff;--panel:#f6f8fa;--ink:#24292f;--soft:#57606a;--rule:#d8dee4;--good:#1a7f37;--poor:#bc4c00}
@media (prefers-color-scheme:dark){:root{--ground:#0d1117;--panel:#161b22;--ink:#e6edf3;--soft:#9aa5b1;
--rule:#30363d;--good:#3fb950;--poor:#f0883e}}
body{margin:0;background:var(--ground);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:19px;margin:40px 0 8px;padding-top:8px;border-top:1px solid var(--rule)}
p{margin:4px 0 12px}.soft{color:var(--soft)}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:12px}
.plots svg,.plot svg{width:100%;height:auto;background:var(--panel);border-radius:8px}
.plot svg{max-width:760px}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th{text-align:right;color:var(--soft);font-weight:600;font-size:13px}
th,td{padding:4px 8px;border-bottom:1px solid var(--rule);white-space:nowrap}td{text-align:right}
th:first-child,td:first-child,.left{text-align:left}tr.domain td{background:var(--panel);font-weight:600}
td small{color:var(--soft);font-weight:400}.good{color:var(--good)}.poor{color:var(--poor)}
.missing{background:var(--panel);border-left:3px solid var(--poor);padding:8px 12px}
pre{background:var(--panel);padding:12px 16px;border-radius:8px;overflow-x:auto;font-size:13px}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px}dt{color:var(--soft)}dd{margin:0}
</style>
)";
constexpr std::size_t kMaxPoints = 400;  // of one curve

template <typename... Args>
void append(std::string& out, fmt::format_string<Args...> format, Args&&... args) {
  out += fmt::format(format, std::forward<Args>(args)...);
}

void append_missing(std::string& out, const std::string& what, const std::string& command) {
  append(out, "<p class=\"missing\">{} The command that makes them: <code>{}</code>.</p>\n",
         escape_xml(what), escape_xml(command));
}

// A curve of at most kMaxPoints: means of neighbours.
Series thin(const std::string& name, const std::map<double, double>& points) {
  Series series;
  series.name = name;
  const std::size_t group = (points.size() + kMaxPoints - 1) / kMaxPoints;
  std::size_t i = 0;
  for (const auto& [step, value] : points) {
    if (i++ % group == 0) {
      series.x.push_back(0.0);
      series.y.push_back(0.0);
    }
    // Running means of the group under way.
    const auto n = static_cast<double>((i - 1) % group + 1);
    series.x.back() += (step - series.x.back()) / n;
    series.y.back() += (value - series.y.back()) / n;
  }
  return series;
}

// "valid/loss/dmcontrol" -> phase valid, quantity loss, domain dmcontrol. None for other names and
// for single tasks ("valid/loss/dmcontrol/walker_run").
struct Tag {
  std::string phase, quantity, domain;
};
std::optional<Tag> parse_tag(const std::string& text) {
  Tag tag;
  std::istringstream parts(text);
  if (!std::getline(parts, tag.phase, '/') || !std::getline(parts, tag.quantity, '/'))
    return std::nullopt;
  std::getline(parts, tag.domain);
  if (tag.domain.find('/') != std::string::npos) return std::nullopt;
  return tag;
}

void append_curves(std::string& out, const RunFolder& run) {
  out += "<h2 id=\"curves\">Learning curves</h2>\n";
  // (quantity, domain) -> its plot; curves over all domains come first.
  std::map<std::pair<std::string, std::string>, Plot> plots;
  for (const auto& [text, points] : run.metrics) {
    const auto tag = parse_tag(text);
    if (!tag || (tag->phase != "train" && tag->phase != "valid")) continue;
    if (tag->quantity != "loss" && tag->quantity != "accuracy") continue;
    // Loss before accuracy.
    Plot& plot = plots[{tag->quantity == "loss" ? "" : tag->quantity, tag->domain}];
    plot.title = fmt::format("{}, {}", tag->quantity == "loss" ? "Loss" : "Accuracy",
                             tag->domain.empty() ? "all domains" : tag->domain);
    plot.x.label = "step";
    plot.y.label = tag->quantity == "loss" ? "nats per action dimension" : "share of right bins";
    Series series = thin(tag->phase == "train" ? "training" : "validation", points);
    series.color = tag->phase == "train" ? 0 : 1;
    series.markers = points.size() <= 30;
    plot.series.push_back(std::move(series));
  }
  if (plots.empty()) {
    append_missing(out, "No learning curves: the run has no metrics.jsonl with losses.",
                   "lram train --recipe FILE --run " + run.path.string());
    return;
  }
  out += "<div class=\"plots\">\n";
  for (auto& [key, plot] : plots) out += render_svg(plot);
  out += "</div>\n";
}

std::string cell(const std::optional<Estimate>& estimate, int digits) {
  if (!estimate) return "<td>–</td>";
  return fmt::format("<td>{:.{}f} <small>[{:.{}f}, {:.{}f}]</small></td>", estimate->value, digits,
                     estimate->low, digits, estimate->high, digits);
}

std::string ratio_cell(const std::optional<Estimate>& ratio) {
  std::string text = cell(ratio, 2);
  if (ratio) text.insert(3, ratio->value >= 0.8 ? " class=\"good\"" : " class=\"poor\"");
  return text;
}

void append_scores(std::string& out, const RunFolder& run) {
  out += "<h2 id=\"scores\">Scores</h2>\n";
  if (run.evaluation.tasks.empty()) {
    append_missing(out, "No scores: the run has no eval/*.json.",
                   "lram eval --checkpoint " + (run.path / "checkpoints/last").string());
    return;
  }
  const Scores scores = score(run.evaluation.tasks);
  append(
      out,
      "<p class=\"soft\">Checkpoint {}, prompted with the target return of {}. Mean return with "
      "its 95 % bootstrap interval over episodes. Data score: 0 is random actions, 1 the mean of "
      "the training data. LRAM score: the same with the references in LRAM's code. “carried” "
      "keeps the recurrent state over the whole episode, “window” recomputes the last steps from "
      "an empty one, as LRAM's published scores were made.</p>\n",
      escape_xml(run.evaluation.checkpoint),
      run.evaluation.target == "data"   ? "the training data"
      : run.evaluation.target == "lram" ? "LRAM's table"
                                        : escape_xml(run.evaluation.target));
  out +=
      "<div class=\"scroll\"><table>\n<tr><th>task</th><th class=\"left\">mode</th>"
      "<th>episodes</th><th>target</th><th>return</th><th>data</th><th>return / data</th>"
      "<th>data score</th><th>LRAM score</th></tr>\n";
  for (const TaskScore& task : scores.tasks)
    append(out,
           "<tr><td>{}</td><td class=\"left\">{}</td><td>{}</td><td>{:.1f}</td>{}<td>{:.1f}</td>{}"
           "{}{}</tr>\n",
           escape_xml(task.task), escape_xml(task.mode), task.episodes, task.target_return,
           cell(task.mean, 1), task.data_mean, ratio_cell(task.data_ratio),
           cell(task.data_score, 2), cell(task.lram_score, 2));
  for (const DomainScore& domain : scores.domains)
    append(out,
           "<tr class=\"domain\"><td>{}, mean of {} task{}</td><td class=\"left\">{}</td><td></td>"
           "<td></td><td></td><td></td>{}{}{}</tr>\n",
           escape_xml(domain.domain), domain.tasks, domain.tasks == 1 ? "" : "s",
           escape_xml(domain.mode), ratio_cell(domain.data_ratio), cell(domain.data_score, 2),
           cell(domain.lram_score, 2));
  out += "</table></div>\n";
  append(out, "<p class=\"soft\">{}; {}.</p>\n", escape_xml(run.evaluation.hardware),
         escape_xml(run.evaluation.build));
}

void append_latency(std::string& out, const RunFolder& run) {
  out += "<h2 id=\"latency\">Latency</h2>\n";
  if (run.latency.rows.empty()) {
    append_missing(out, "No latencies: the run has no latency.json.",
                   "lram bench step --checkpoint " + (run.path / "checkpoints/last").string());
    return;
  }
  out +=
      "<p class=\"soft\">One environment, observation in to action out, three tokens a step; "
      "warm-up steps are not counted.</p>\n<div class=\"plot\">";
  out += render_svg(latency_plot(run.latency));
  out +=
      "</div>\n<div class=\"scroll\"><table>\n<tr><th>model</th><th class=\"left\">size</th>"
      "<th>parameters</th><th>context</th><th>median, µs</th><th>p99, µs</th><th>max, µs</th>"
      "<th>steps</th><th>state, bytes</th><th>threads</th></tr>\n";
  for (const LatencyRow& row : run.latency.rows)
    append(out,
           "<tr><td>{}</td><td class=\"left\">{}</td><td>{}</td><td>{}</td><td>{:.1f}</td>"
           "<td>{:.1f}</td><td>{:.1f}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
           escape_xml(row.model), escape_xml(row.preset),
           format_tick(static_cast<double>(row.parameters)), row.context, row.median_us, row.p99_us,
           row.max_us, row.steps, row.state_bytes, row.threads);
  append(out, "</table></div>\n<p class=\"soft\">{}; {}.</p>\n", escape_xml(run.latency.hardware),
         escape_xml(run.latency.build));
}

void append_configuration(std::string& out, const RunFolder& run) {
  out += "<h2 id=\"configuration\">Configuration</h2>\n";
  if (run.config_ini.empty()) {
    append_missing(out, "No configuration: the run has no config.ini.",
                   "lram train --recipe FILE --run " + run.path.string());
    return;
  }
  append(out, "<pre>{}</pre>\n", escape_xml(run.config_ini));
}

void append_build(std::string& out) {
  out += "<h2 id=\"build\">Build and hardware of this report</h2>\n<dl>\n";
  for (const auto& facts : {hardware_info(), build_info()})
    for (const auto& [name, value] : facts)
      append(out, "<dt>{}</dt><dd>{}</dd>\n", escape_xml(name), escape_xml(value));
  out += "</dl>\n";
}
}  // namespace

std::string render_report(const RunFolder& run) {
  std::string name = std::filesystem::weakly_canonical(run.path).filename().string();
  name = escape_xml(name);
  std::string out = kHead;
  append(out, "<title>{0}: LRAM report</title>\n</head>\n<body>\n<main>\n<h1>{0}</h1>\n", name);
  append(out, "<p class=\"soft\">A large recurrent action model, from the run folder {}.</p>\n",
         escape_xml(run.path.string()));
  append_curves(out, run);
  append_scores(out, run);
  append_latency(out, run);
  append_configuration(out, run);
  append_build(out);
  out += "</main>\n</body>\n</html>\n";
  return out;
}
}  // namespace lram::eval
