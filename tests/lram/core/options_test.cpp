#include "lram/core/options.h"

#include <gtest/gtest.h>

#include "lram/core/error.h"
#include "lram/core/file.h"
#include "tests/support/temp_folder.h"

namespace lram::options_test {
namespace {
struct Config {
  int batch_size = 8;
  std::uint64_t seed = 0;
  double peak_lr = 1e-4;
  bool carry_state = false;
  std::string files = "a b";
};

void describe(po::options_description& options, Config& c) {
  options.add_options()("train.seed", po::value(&c.seed)->default_value(c.seed), "")(
      "train.batch_size", po::value(&c.batch_size)->default_value(c.batch_size), "")(
      "train.peak_lr", po::value(&c.peak_lr)->default_value(c.peak_lr), "")(
      "train.carry_state", po::value(&c.carry_state)->default_value(c.carry_state), "")(
      "data.files", po::value(&c.files)->default_value(c.files), "");
}

// What parse() says, or "" when it is content.
std::string complaint(const std::vector<std::string>& args, ErrorKind kind = ErrorKind::kUsage) {
  Config config;
  CommandLine line("lram train", "");
  describe(line.options(), config);
  line.allow_recipe();
  try {
    line.parse(args);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind);
    return error.what();
  }
  return "";
}

TEST(CommandLine, ResolvedIniGivesTheSameValuesAgain) {
  const test::TempFolder folder;
  Config first;
  CommandLine line("lram train", "");
  describe(line.options(), first);
  line.parse({"--train.batch_size", "3", "--train.peak_lr", "0.1", "--train.carry_state", "true"});
  const auto recipe = folder.path() / "config.ini";
  write_file_atomically(recipe, line.resolved_ini());

  Config second;
  CommandLine again("lram train", "");
  describe(again.options(), second);
  again.allow_recipe();
  again.parse({"--recipe", recipe});
  EXPECT_EQ(second.batch_size, 3);
  EXPECT_EQ(second.peak_lr, 0.1);
  EXPECT_TRUE(second.carry_state);
  EXPECT_EQ(second.files, "a b");
  EXPECT_EQ(again.resolved_ini(), line.resolved_ini());
}

TEST(CommandLine, RefusesWhatARecipeCannotHold) {
  Config config;
  CommandLine line("lram train", "");
  describe(line.options(), config);
  line.parse({"--data.files", "run#3/a.h5"});
  EXPECT_THROW(line.resolved_ini(), Error);
}

TEST(CommandLine, RefusesANegativeCount) {
  EXPECT_EQ(complaint({"--train.seed", "-1"}), "--train.seed is -1, wanted 0 or more");
  const test::TempFolder folder;
  const auto recipe = folder.path() / "r.ini";
  write_file_atomically(recipe, "[train]\nseed = -7\n");
  EXPECT_NE(complaint({"--recipe", recipe}).find("seed is -7"), std::string::npos);
}

TEST(CommandLine, WinsOverTheRecipe) {
  const test::TempFolder folder;
  const auto recipe = folder.path() / "r.ini";
  write_file_atomically(recipe, "[train]\nbatch_size = 5\npeak_lr = 0.5\n");
  Config config;
  CommandLine line("lram train", "");
  describe(line.options(), config);
  line.allow_recipe();
  line.parse({"--recipe", recipe, "--train.batch_size", "7"});
  EXPECT_EQ(config.batch_size, 7);
  EXPECT_EQ(config.peak_lr, 0.5);
}

TEST(CommandLine, NamesTheNearestKnownName) {
  const test::TempFolder folder;
  const auto recipe = folder.path() / "r.ini";
  write_file_atomically(recipe, "[train]\nbatchsize = 5\n");
  EXPECT_EQ(complaint({"--train.peek_lr", "1"}),
            "unknown option '--train.peek_lr', did you mean '--train.peak_lr'?");
  EXPECT_EQ(complaint({"--recipe", recipe}),
            recipe.string() + ": unknown key 'train.batchsize', did you mean 'train.batch_size'?");
  EXPECT_EQ(complaint({"--recipe", "/none.ini"}, ErrorKind::kInput),
            "/none.ini: cannot open: No such file or directory");
  EXPECT_NE(complaint({"--train.batch_size", "x"}).find("'x'"), std::string::npos);
  EXPECT_NE(complaint({"stray"}).find("too many arguments"), std::string::npos);
}

TEST(SplitList, RefusesEmptyEntries) {
  EXPECT_EQ(split_list("a,b", "--task"), (std::vector<std::string>{"a", "b"}));
  EXPECT_THROW(split_list("a,,b", "--task"), Error);
  EXPECT_THROW(split_list("", "--task"), Error);
}
}  // namespace
}  // namespace lram::options_test
