// The command itself: help, version, unknown verbs, and what it does not load.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/run_command.h"

namespace lram {
namespace {
using test::program;
using test::run_command;

TEST(Command, ExplainsItselfOnStdout) {
  const auto result = run_command({program("lram"), "--help"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.err, "");
  for (const char* verb : {"data collect", "data ls", "data show", "data validate", "env ls",
                           "env show", "bench env", "report", "ckpt show", "ckpt verify", "ckpt convert"})
    EXPECT_NE(result.out.find(verb), std::string::npos) << verb;
}

TEST(Command, EveryVerbHasHelp) {
  const std::string help = run_command({program("lram"), "--help"}).out;
  std::istringstream lines(help.substr(help.find("verbs:")));
  const bool without_torch =
      run_command({program("lram"), "--version"}).out.find("LibTorch: none") != std::string::npos;
  int verbs = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.size() < 17 || line.compare(0, 2, "  ") != 0 || line[2] == ' ' ||
        line.find("lram") == 2)
      continue;
    std::istringstream words(line.substr(2, 14));
    std::vector<std::string> command = {program("lram")};
    for (std::string word; words >> word;) command.push_back(word);
    command.push_back("--help");
    const auto result = run_command(command);
    if (without_torch && result.err.find("lram-") != std::string::npos) continue;  // not built
    EXPECT_EQ(result.exit_code, 0) << line << result.err;
    EXPECT_NE(result.out.find("usage: lram"), std::string::npos) << line;
    ++verbs;
  }
  EXPECT_GE(verbs, 8);
}

TEST(Command, NamesItsParts) {
  const auto result = run_command({program("lram"), "--version"});
  EXPECT_EQ(result.exit_code, 0);
  for (const char* part :
       {"lram: ", "compiler: ", "LibTorch: ", "CUDA: ", "HDF5: ", "MuJoCo: 3.3.0"})
    EXPECT_NE(result.out.find(part), std::string::npos) << part;
}

TEST(Command, RefusesAnUnknownVerbWithTheNearest) {
  const auto result = run_command({program("lram"), "data", "colect"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(result.err, "lram: unknown verb 'data colect', did you mean 'lram data collect'?\n");
  EXPECT_EQ(run_command({program("lram"), "frobnicate"}).exit_code, 2);
  EXPECT_EQ(run_command({program("lram")}).exit_code, 2);
  EXPECT_EQ(run_command({program("lram"), "data"}).exit_code, 2);
  EXPECT_EQ(run_command({program("lram"), "data", "--help"}).exit_code, 0);
}

TEST(Command, StartsWithoutLibTorch) {
  const auto result = run_command({"/usr/bin/ldd", program("lram")});
  ASSERT_EQ(result.exit_code, 0);
  EXPECT_NE(result.out.find("libmujoco"), std::string::npos);
  EXPECT_EQ(result.out.find("torch"), std::string::npos) << result.out;
}
}  // namespace
}  // namespace lram
