#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "lram/core/file.h"
#include "lram/core/json.h"
#include "tests/support/run_command.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_policy.h"

namespace lram::eval::evaluate_test {
namespace {
namespace fs = std::filesystem;
using test::CommandResult;

const std::string kRoom = "grid/dark_room_10x10_dense", kDoor = "grid/dark_key_door_10x10_dense";

// A run folder with one checkpoint of a policy with random weights.
class Evaluate : public testing::Test {
 protected:
  Evaluate() {
    const auto policy = test::tiny_policy(test::tiny_config(), {kRoom, kDoor});
    test::write_checkpoint(*policy, checkpoint_);
  }
  CommandResult eval(std::vector<std::string> args) const {
    args.insert(args.begin(), {test::program("lram"), "eval", "--checkpoint", checkpoint_});
    return test::run_command(args);
  }
  // The evaluation that the last call left in the run folder, null if it left none.
  nlohmann::json written() const {
    if (!fs::exists(run_.path() / "eval")) return {};
    for (const auto& entry : fs::directory_iterator(run_.path() / "eval"))
      return parse_json(read_file(entry.path()));
    return {};
  }

  test::TempFolder run_;
  fs::path checkpoint_ = run_.path() / "checkpoints/000000010";
};

void expect_failure(const CommandResult& result, int exit_code,
                    const std::vector<std::string>& parts) {
  EXPECT_EQ(result.exit_code, exit_code) << result.err;
  EXPECT_EQ(result.out, "");
  for (const std::string& part : parts)
    EXPECT_NE(result.err.find(part), std::string::npos) << part << " is not in: " << result.err;
}

TEST_F(Evaluate, ScoresAllTasksOfTheCheckpointByDefault) {
  const CommandResult result = eval({"--episodes", "3"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find(kRoom), std::string::npos) << result.out;
  EXPECT_NE(result.out.find("grid: 2 tasks"), std::string::npos) << result.out;
  const nlohmann::json json = written();
  EXPECT_EQ(json["checkpoint"], "000000010");
  ASSERT_EQ(json["tasks"].size(), 2u);
  EXPECT_EQ(json["tasks"][0]["episodes"].size(), 3u);
  EXPECT_EQ(json["tasks"][0]["episodes"][2]["seed"], 1'000'002);
  EXPECT_EQ(json["tasks"][0]["target_return"], 100.0);
  EXPECT_EQ(result.err.find("overlap"), std::string::npos);

  // The report shows it.
  const CommandResult report = test::run_command({test::program("lram"), "report", run_.path()});
  EXPECT_EQ(report.exit_code, 0) << report.err;
  EXPECT_NE(read_file(run_.path() / "report.html").find(kDoor), std::string::npos);
}

TEST_F(Evaluate, PrintsJsonAndWritesWhereItIsTold) {
  const fs::path out = run_.path() / "elsewhere", csv = run_.path() / "scores.csv";
  const CommandResult result =
      eval({"--task", "dark_room_10x10_dense", "--episodes", "2", "--mode", "both",
            "--target-return", "lram", "--json", "--csv", csv, "--out", out});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const nlohmann::json json = parse_json(result.out);
  EXPECT_EQ(json, parse_json(read_file(out / "eval.json")));
  ASSERT_EQ(json["tasks"].size(), 2u);
  EXPECT_EQ(json["tasks"][1]["mode"], "window");
  EXPECT_EQ(json["tasks"][0]["target_return"], 80.0);
  EXPECT_EQ(json["scores"]["tasks"][0]["data_mean"], 80.0);
  EXPECT_NE(read_file(csv).find(kRoom + ",window,2,80,"), std::string::npos);
  EXPECT_FALSE(fs::exists(run_.path() / "eval"));
}

TEST_F(Evaluate, WarnsOfTrainingSeeds) {
  const CommandResult result = eval({"--episodes", "1", "--first-seed", "99", "--task", kRoom});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.err.find("seeds 99 to 99 overlap the training data's 0 to 99"),
            std::string::npos)
      << result.err;
}

TEST_F(Evaluate, StoppedBySignalItScoresTheEpisodesThatHaveEnded) {
  for (const char* seconds : {"2", "10", "60"}) {  // however busy the machine
    const CommandResult result = test::run_command(
        {"/usr/bin/timeout", "--preserve-status", "--signal=INT", seconds, test::program("lram"),
         "eval", "--checkpoint", checkpoint_, "--episodes", "100000", "--num-envs", "2"});
    EXPECT_EQ(result.exit_code, 130) << result.err;
    const nlohmann::json json = written();
    if (json.is_null()) continue;  // too early for a whole episode
    EXPECT_NE(result.err.find("stopped after "), std::string::npos) << result.err;
    ASSERT_EQ(json["tasks"].size(), 1u);
    EXPECT_GE(json["tasks"][0]["episodes"].size(), 1u);
    for (const auto& episode : json["tasks"][0]["episodes"]) EXPECT_EQ(episode["length"], 100);
    return;
  }
  FAIL() << "no episode ended in 60 s";
}

TEST_F(Evaluate, RefusesBadUse) {
  expect_failure(eval({"--task", "grid/dark_rom_10x10_dense"}), 2,
                 {"unknown task", "did you mean 'grid/dark_room_10x10_dense'"});
  expect_failure(eval({"--task", "dmcontrol/walker_run"}), 2,
                 {"not trained on 'dmcontrol/walker_run'", kRoom});
  expect_failure(eval({"--target-return", "best"}), 2, {"wanted lram, data or a number"});
  expect_failure(eval({"--task", kDoor, "--target-return", "lram"}), 2, {"no table value"});
  expect_failure(eval({"--mode", "windowed"}), 2, {"wanted carried, window or both"});
  expect_failure(eval({"--episodes", "0"}), 2, {"--episodes is 0"});
  expect_failure(eval({"--episode", "1"}), 2, {"did you mean '--episodes'"});
  expect_failure(test::run_command({test::program("lram"), "eval"}), 2, {"--checkpoint"});
}

TEST_F(Evaluate, RefusesAWrongCheckpoint) {
  const fs::path weights = checkpoint_ / "model.safetensors", config = checkpoint_ / "config.json";
  const std::string bytes = read_file(weights);
  std::ofstream(weights) << bytes.substr(0, bytes.size() / 2);
  expect_failure(eval({}), 3, {"model.safetensors"});

  // Another architecture, vouched for by its manifest.
  std::ofstream(weights) << bytes;
  nlohmann::json json = parse_json(read_file(config));
  json["model"]["embed_dim"] = 64;
  std::ofstream(config) << json_text(json);
  write_manifest(checkpoint_);
  expect_failure(eval({}), 3, {"model.safetensors", "wanted"});

  fs::remove_all(checkpoint_);
  expect_failure(eval({}), 3, {checkpoint_.string()});
}
}  // namespace
}  // namespace lram::eval::evaluate_test
