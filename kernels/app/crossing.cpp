#include "kernels/app/crossing.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "kernels/mlstm/mlstm_implementation.h"
#include "lram/core/error.h"
#include "lram/core/table.h"

namespace lram::kernels {
namespace {

constexpr std::pair<int, int> kDims[] = {{64, 64},   {128, 128}, {128, 256}, {256, 256},
                                         {320, 320}, {384, 384}, {512, 512}, {640, 640}};
constexpr int kLengths[] = {64,  128, 150, 200,  256,  320,  400,
                            512, 640, 800, 1024, 1300, 1600, 2048};
constexpr std::pair<const char*, MlstmForm> kForms[] = {
    {"short", MlstmForm::kShort}, {"tiled", MlstmForm::kTiled}, {"long", MlstmForm::kLong}};
constexpr int kHeads = 4, kTokens = 64 * 150;  // of all sequences of a batch

/// Whether the form is built for this path and takes the shape.
bool takes(const CaseOptions& o) {
  MlstmProblem p;
  p.batch = o.shape.batch, p.tokens = o.shape.tokens, p.heads = o.shape.heads;
  p.key_dim = o.shape.key_dim, p.value_dim = o.shape.value_dim;
  p.dtype = o.dtype, p.sigmoid_gate = o.sigmoid, p.normalize = !o.sigmoid || o.normalize;
  p.form = o.form, p.path = o.path;
  try {
    mlstm_implementation(p);
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// "short to 256, long": the quickest form at each length, runs of one form together.
std::string winners(const std::map<int, std::pair<double, std::string>>& quickest) {
  std::string text, form;
  int last = 0;
  for (const auto& [tokens, best] : quickest) {
    if (!form.empty() && best.second != form) text += fmt::format("{} to {}, ", form, last);
    form = best.second, last = tokens;
  }
  return text + form;
}

}  // namespace

nlohmann::json time_crossing(GraphTimer& timer, const CaseOptions& options) {
  nlohmann::json times = nlohmann::json::array();
  for (const auto& [key_dim, value_dim] : kDims) {
    for (const int tokens : kLengths) {
      for (const auto& [name, form] : kForms) {
        CaseOptions one = options;
        one.shape = {std::max(1, (kTokens + tokens / 2) / tokens), tokens, kHeads, key_dim,
                     value_dim};
        one.form = form;
        one.path = resolve_path(options.path);  // so that no form falls back to the other path
        if (!takes(one)) continue;
        const auto op = make_mlstm_case(one);
        const double forward = timer.time([&] { op->forward(); }).median_ms;
        const double both = timer
                                .time([&] {
                                  op->forward();
                                  op->backward();
                                })
                                .median_ms;
        times.push_back({{"key_dim", key_dim},
                         {"value_dim", value_dim},
                         {"tokens", tokens},
                         {"form", name},
                         {"forward_ms", forward},
                         {"both_ms", both}});
      }
    }
  }
  return times;
}

std::string crossing_text(const nlohmann::json& times) {
  std::vector<std::string> header = {"K/V", "form", "us"};
  for (const int tokens : kLengths) header.push_back(fmt::format("T {}", tokens));
  Table table(header);
  std::string summary;
  for (const auto& [key_dim, value_dim] : kDims) {
    std::map<int, std::pair<double, std::string>> quickest[2];  // forward, both: by length
    for (const auto& [name, form] : kForms) {
      for (const int direction : {0, 1}) {
        std::map<int, double> at;
        for (const auto& row : times) {
          if (row["key_dim"] != key_dim || row["value_dim"] != value_dim || row["form"] != name)
            continue;
          const int tokens = row["tokens"];
          at[tokens] = row[direction == 0 ? "forward_ms" : "both_ms"];
          const auto best = quickest[direction].try_emplace(tokens, at[tokens], name).first;
          if (at[tokens] < best->second.first) best->second = {at[tokens], name};
        }
        if (at.empty()) continue;
        std::vector<std::string> cells = {fmt::format("{}/{}", key_dim, value_dim), name,
                                          direction == 0 ? "fw" : "fw+bw"};
        for (const int tokens : kLengths)
          cells.push_back(at.contains(tokens) ? fmt::format("{:.0f}", 1000 * at[tokens]) : "-");
        table.add(std::move(cells));
      }
    }
    summary += fmt::format("{}/{}: forward {}; forward+backward {}\n", key_dim, value_dim,
                           winners(quickest[0]), winners(quickest[1]));
  }
  return table.text() + summary;
}

}  // namespace lram::kernels
