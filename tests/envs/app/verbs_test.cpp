// lram env ls, lram env show and lram bench env: what they print.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "envs/environment.h"
#include "lram/core/json.h"
#include "tests/support/run_command.h"

namespace lram::envs {
namespace {
const std::string kTask = "dmcontrol/pendulum_swingup";

std::string output(std::vector<std::string> words) {
  words.insert(words.begin(), test::program("lram"));
  const test::CommandResult result = test::run_command(words);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return result.out;
}

TEST(EnvVerbs, ListEveryTask) {
  const std::string text = output({"env", "ls"});
  const auto json = parse_json(output({"env", "ls", "--json"}));
  ASSERT_EQ(json["tasks"].size(), task_ids().size());
  for (std::size_t i = 0; i < task_ids().size(); ++i) {
    EXPECT_NE(text.find(task_ids()[i]), std::string::npos);
    EXPECT_EQ(json["tasks"][i].get<TaskSpec>(), make(task_ids()[i])->spec());
  }
}

TEST(EnvVerbs, ShowATask) {
  const std::string text = output({"env", "show", "pendulum_swingup"});
  for (const char* part : {"task: dmcontrol/pendulum_swingup", "observation: 3 numbers",
                           "orientation [2]", "action: 1 numbers", "longest episode: 1000 steps"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " is not in: " << text;
  const auto json = parse_json(output({"env", "show", kTask, "--json"}));
  EXPECT_EQ(json.get<TaskSpec>(), make(kTask)->spec());
}

TEST(EnvVerbs, BenchPrintsRatiosToTheBareLoop) {
  const std::vector<std::string> quick = {"--rounds", "3", "--seconds", "0.001", "--num-envs", "2"};
  std::vector<std::string> words = {"bench", "env", "--task", kTask, "--json"};
  words.insert(words.end(), quick.begin(), quick.end());
  const auto json = parse_json(output(words));
  ASSERT_EQ(json["tasks"].size(), 1u);
  const auto& row = json["tasks"][0];
  EXPECT_EQ(row["task"], kTask);
  EXPECT_GT(row["steps_per_s"], 0.0);
  EXPECT_GT(row["bare_steps_per_s"], 0.0);
  EXPECT_GT(row["ratio_to_bare_loop"], 0.0);
  EXPECT_GT(json["vector_env_ratio"], 0.0);
  EXPECT_EQ(json["vector_env"]["num_envs"], 2);
  words.erase(std::find(words.begin(), words.end(), "--json"));
  EXPECT_NE(output(words).find("geometric mean of the ratios"), std::string::npos);
}
}  // namespace
}  // namespace lram::envs
