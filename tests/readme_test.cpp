// Keeps README.md true: its C++ example is compiled here, word for word, and its commands name
// verbs and files that exist.
#include <gtest/gtest.h>

#include <fstream>
#include <iostream>
#include <regex>
#include <sstream>

#include "agents/recurrent_agent.h"
#include "envs/vector_env.h"
#include "eval/rollout.h"
#include "lram/model/policy.h"
#include "tests/support/run_command.h"

namespace {
// Compiled, and run by no test: it wants the checkpoint that the README's commands leave.
[[maybe_unused]] void example() {
  // README begin
  lram::envs::VectorEnv envs("dmcontrol/cartpole_swingup", {.num_envs = 16});
  auto policy = lram::model::load_policy("runs/small/checkpoints/last");
  lram::agents::RecurrentAgent agent(policy, envs.specs());  // one row of state per environment
  auto result = lram::eval::rollout(agent, envs, {.episodes = 50, .first_seed = 1'000'000});
  std::cout << result.mean_return << '\n';
  // README end
}

std::string read(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(std::string(LRAM_SOURCE_DIR) + "/" + path).rdbuf();
  return text.str();
}

// The lines between two marks, each without its indentation.
std::string between(const std::string& text, const std::string& first, const std::string& last) {
  const auto begin = text.find(first) + first.size();
  std::istringstream lines(text.substr(begin, text.find(last, begin) - begin));
  std::string out;
  for (std::string line; std::getline(lines, line);) {
    const auto start = line.find_first_not_of(' ');
    if (start != std::string::npos) out += line.substr(start) + "\n";
  }
  return out;
}

TEST(Readme, ExampleIsTheCompiledOne) {
  EXPECT_EQ(between(read("README.md"), "```cpp\n", "```"),
            between(read("tests/readme_test.cpp"), "// README begin\n", "// README end"));
}

TEST(Readme, CommandsExist) {
  const std::string readme = read("README.md"),
                    help = lram::test::run_command({lram::test::program("lram"), "--help"}).out;
  const std::regex script(R"((^|\s)(scripts/\w+))"),
      verb(R"(\nlram (\w+( (collect|ls|show|validate|env|step|verify|convert))?))");
  int found = 0;
  for (std::sregex_iterator at(readme.begin(), readme.end(), script), end; at != end; ++at, ++found)
    EXPECT_NE(read((*at)[2]), "") << (*at)[2];
  for (std::sregex_iterator at(readme.begin(), readme.end(), verb), end; at != end; ++at, ++found)
    EXPECT_NE(help.find("  " + (*at)[1].str() + " "), std::string::npos) << (*at)[1];
  EXPECT_GE(found, 12);
}
}  // namespace
