// lram models, as a command.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "lram/core/json.h"
#include "tests/support/run_command.h"

namespace lram::models_test {
namespace {
using nlohmann::json;
using test::program;
using test::run_command;
namespace fs = std::filesystem;

const fs::path kRecipes = fs::path(LRAM_SOURCE_DIR) / "lram/app/recipes";

TEST(Models, ListsEveryRecipeBesideThePublishedCounts) {
  const auto result = run_command({program("lram"), "models", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json out = parse_json(result.out), &models = out.at("models");
  std::set<std::string> listed, wanted;
  int published = 0;
  for (const auto& row : models) {
    listed.insert(row.at("recipe"));
    EXPECT_GT(row.at("parameters").get<std::int64_t>(),
              row.at("backbone_parameters").get<std::int64_t>());
    if (row.at("published_parameters").is_null()) continue;
    ++published;
    // Published with two decimals of a million.
    EXPECT_NEAR(row.at("lram_parameters").get<double>(),
                row.at("published_parameters").get<double>(), 1e4)
        << row.at("recipe");
  }
  EXPECT_EQ(published, 12);
  for (const auto& file : fs::directory_iterator(kRecipes)) wanted.insert(file.path().stem());
  EXPECT_EQ(listed, wanted);
  std::map<std::string, std::int64_t> others;
  for (const auto& row : out.at("public_models")) {
    others[row.at("model")] = row.at("parameters");
    // Published in whole millions, or with three digits.
    const double count = row.at("published_parameters");
    EXPECT_NEAR(row.at("parameters").get<double>(), count, count < 1e9 ? 5e5 : 5e6)
        << row.at("model");
  }
  EXPECT_EQ(others, (std::map<std::string, std::int64_t>{{"xLSTM-7B", 6'865'424'896},
                                                         {"Vision-LSTM v2 tiny", 6'391'528},
                                                         {"Vision-LSTM v2 small", 23'398'696},
                                                         {"Vision-LSTM v2 base", 89'263'528}}));
}

TEST(Models, CountsOneRecipeWithChanges) {
  const std::string recipe = kRecipes / "small.ini";
  const auto count = [&](const std::vector<std::string>& more) {
    std::vector<std::string> command = {program("lram"), "models", "--recipe", recipe, "--json"};
    command.insert(command.end(), more.begin(), more.end());
    const auto result = run_command(command);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const json models = parse_json(result.out).at("models");
    EXPECT_EQ(models.size(), 1u);
    return models[0].at("backbone_parameters").get<std::int64_t>();
  };
  const std::int64_t four = count({}), five = count({"--model.num_blocks", "5"}),
                     six = count({"--model.num_blocks", "6"});
  EXPECT_LT(four, five);
  EXPECT_EQ(five - four, six - five);
}

TEST(Models, ListsImageEncoders) {
  for (const std::string encoder : {"impala", "vil", "vit"}) {
    const auto result = run_command({program("lram"), "models", "--json", "--model.image_size=64",
                                     "--model.image_encoder=" + encoder});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const json row = parse_json(result.out).at("models").at(0);
    for (const char* cost : {"parameters", "state_bytes", "flops_per_step", "bytes_per_step"})
      EXPECT_GT(row.at(cost).get<std::int64_t>(), 0) << encoder << " " << cost;
    EXPECT_GT(row.at("flops_per_step").get<std::int64_t>(),
              3 * row.at("flops_per_token").get<std::int64_t>())
        << encoder;
  }
}

TEST(Models, PrintsATable) {
  const auto result = run_command({program("lram"), "models"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find("mamba_206m"), std::string::npos);
  EXPECT_NE(result.out.find("206.53"), std::string::npos);
}

TEST(Models, NamesWhatCannotBeBuilt) {
  const auto result =
      run_command({program("lram"), "models", "--model.backbone=gru", "--model.num_heads=7"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.err,
            "lram models: model.num_heads is 7, which does not divide embed_dim (512)\n");
  EXPECT_EQ(run_command({program("lram"), "models", "--recipe", "none.ini"}).exit_code, 3);
  const test::TempFolder folder;
  const fs::path bad = folder.path() / "bad.ini";
  std::ofstream(bad) << "[model]\nwidth = 3\n[train]\nsteps = 5\n";
  EXPECT_NE(run_command({program("lram"), "models", "--recipe", bad})
                .err.find(bad.string() + ": unknown key 'model.width'"),
            std::string::npos);
}

}  // namespace
}  // namespace lram::models_test
