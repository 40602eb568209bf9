// lram models: what the recipes' policies take. The program `lram-models`, which `lram` executes.
#include <fmt/core.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "lram/app/verb.h"
#include "lram/core/embedded_file.h"
#include "lram/core/error.h"
#include "lram/core/json.h"
#include "lram/core/options.h"
#include "lram/core/table.h"
#include "lram/model/cost.h"
#include "lram/model/shapes_only.h"
#include "lram/model/vil.h"
#include "lram/model/xlstm_large_lm.h"
#include "lram/training/config.h"

extern const lram::EmbeddedFile kRecipes[];  // lram/app/recipes, put in by the build

namespace lram::app {
namespace {
/// Parameters in millions that lram.md 2.1 gives, of LRAM's whole model.
struct Published {
  const char* recipe;
  double millions;
};
constexpr Published kPublished[] = {
    {"xlstm_16m", 16.08}, {"xlstm_48m", 47.93}, {"xlstm_108m", 108.27}, {"xlstm_206m", 206.53},
    {"dt_16m", 16.57},    {"dt_48m", 48.41},    {"dt_108m", 108.59},    {"dt_206m", 206.52},
    {"mamba_16m", 16.70}, {"mamba_48m", 49.92}, {"mamba_108m", 112.85}, {"mamba_206m", 215.34}};

/// A model of another paper in its published size, and its parameters in millions that kernels.md
/// 1.8 and 7 give.
struct PublicModel {
  std::string name;
  double published = 0.0;
  std::int64_t parameters = 0;
};

std::vector<PublicModel> public_models() {
  const model::ShapesOnly shapes_only;
  const model::XlstmLargeConfig large = {.embed_dim = 4096, .num_heads = 8, .num_blocks = 32};
  std::vector<PublicModel> out = {
      {"xLSTM-7B", 6870.0, parameter_count(model::XlstmLargeLm(large, /*vocab_size=*/50304))}};
  for (const auto& [size, published] : {std::pair{"tiny", 6.0}, {"small", 23.0}, {"base", 89.0}}) {
    model::VilConfig config = model::VilConfig::v2();
    out.push_back({fmt::format("Vision-LSTM v2 {}", size), published,
                   parameter_count(model::VisionLstm(config.set_size(size)))});
  }
  return out;
}

/// A recipe leaves the longest episode to the data. LRAM's table has 1600 rows; 9 to a step here.
constexpr std::int64_t kEpisodeSteps = 178;

struct Row {
  std::string recipe;
  model::PolicyConfig config;
  model::PolicyCost cost;
  std::int64_t as_lram = 0;
  std::optional<double> published;
};

Row row_of(const std::string& recipe, model::PolicyConfig config) {
  if (config.max_episode_steps == 0) config.max_episode_steps = kEpisodeSteps;
  Row row{recipe, config, model::policy_cost(config), model::lram_parameters(config), {}};
  for (const Published& one : kPublished)
    if (recipe == one.recipe) row.published = one.millions;
  return row;
}

/// The [model] section of a recipe that the build put in.
model::PolicyConfig read_recipe(std::istream& text) {
  model::PolicyConfig config;
  po::options_description keys;
  describe(keys, config);
  po::variables_map values;
  po::store(po::parse_config_file(text, keys, /*allow_unregistered=*/true), values);
  po::notify(values);
  return config;
}

std::string in_millions(double count) { return fmt::format("{:.2f}", count * 1e-6); }

std::string to_table(const std::vector<Row>& rows) {
  Table table({"recipe", "backbone", "parameters M", "of backbone M", "as LRAM M", "published M",
               "state of a row", "MFLOP/token", "MFLOP/step", "read and written/step"});
  for (const Row& row : rows) {
    const auto millions = [](std::int64_t count) {
      return in_millions(static_cast<double>(count));
    };
    table.add({row.recipe, row.config.backbone, millions(row.cost.parameters),
               millions(row.cost.backbone_parameters), millions(row.as_lram),
               row.published ? fmt::format("{:.2f}", *row.published) : "-",
               format_bytes(static_cast<std::uint64_t>(row.cost.state_bytes)),
               millions(row.cost.flops_per_token), millions(row.cost.flops_per_step),
               format_bytes(static_cast<std::uint64_t>(row.cost.bytes_per_step))});
  }
  return table.text() +
         "\nas LRAM: with what its own model has beside (64 x 64 images, a state head, tables of "
         "actions, times and\n1600 positions), to set beside the published count of lram.md 2.1. "
         "State and bytes in float32, one environment.\nA step is three tokens; a Transformer's "
         "window is full.\n";
}

std::string to_table(const std::vector<PublicModel>& models) {
  Table table({"public model", "parameters M", "published M"});
  for (const PublicModel& one : models)
    table.add({one.name, in_millions(static_cast<double>(one.parameters)),
               fmt::format("{}", one.published)});
  return table.text();
}

nlohmann::json to_json(const Row& row) {
  nlohmann::json json = {{"recipe", row.recipe},
                         {"backbone", row.config.backbone},
                         {"embed_dim", row.config.embed_dim},
                         {"num_blocks", row.config.num_blocks},
                         {"parameters", row.cost.parameters},
                         {"backbone_parameters", row.cost.backbone_parameters},
                         {"lram_parameters", row.as_lram},
                         {"published_parameters", nullptr},
                         {"state_bytes", row.cost.state_bytes},
                         {"flops_per_token", row.cost.flops_per_token},
                         {"flops_per_step", row.cost.flops_per_step},
                         {"bytes_per_step", row.cost.bytes_per_step}};
  if (row.published) json["published_parameters"] = *row.published * 1e6;
  return json;
}

struct Options {
  bool as_json = false;
  model::PolicyConfig config;
  training::DataConfig data;  // a recipe holds their keys too
  training::TrainConfig train;
};

int models(const Args& args) {
  Options o;
  CommandLine line("lram models [--recipe FILE] [--model.KEY VALUE ...]",
                   "Parameters, state, FLOPs and bytes of the recipes that come with lram, beside "
                   "published counts,\nor of one policy. FLOPs are multiplies and adds of linear "
                   "maps, convolutions and "
                   "memory (lram/model/cost.h).");
  line.allow_recipe();
  line.options().add_options()("json", po::bool_switch(&o.as_json), "print JSON");
  describe(line.options(), o.config);
  describe(line.options(), o.data);
  describe(line.options(), o.train);
  if (!line.parse(args)) return 0;
  std::vector<Row> rows;
  std::vector<PublicModel> known;
  if (!line.recipe().empty()) {
    rows.push_back(row_of(std::filesystem::path(line.recipe()).stem(), o.config));
  } else if (o.config != model::PolicyConfig()) {
    rows.push_back(row_of("options", o.config));
  } else {
    known = public_models();
    for (const EmbeddedFile* recipe = kRecipes; recipe->name != nullptr; ++recipe) {
      std::istringstream text(std::string(recipe->bytes.begin(), recipe->bytes.end()));
      rows.push_back(row_of(std::filesystem::path(recipe->name).stem(), read_recipe(text)));
    }
  }
  if (o.as_json) {
    nlohmann::json json = nlohmann::json::array();
    for (const Row& row : rows) json.push_back(to_json(row));
    nlohmann::json out = {{"models", json}};
    for (const PublicModel& one : known)
      out["public_models"].push_back({{"model", one.name},
                                      {"parameters", one.parameters},
                                      {"published_parameters", one.published * 1e6}});
    fmt::print("{}\n", json_text(out, 1));
  } else {
    fmt::print("{}", to_table(rows));
    if (!known.empty()) fmt::print("\n{}", to_table(known));
  }
  return 0;
}
}  // namespace
}  // namespace lram::app

int main(int argc, char** argv) {
  return lram::app::run_verb("lram models", lram::app::models,
                             lram::app::Args(argv + 1, argv + argc));
}
