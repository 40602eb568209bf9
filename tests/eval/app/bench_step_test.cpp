#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "eval/latency.h"
#include "lram/core/file.h"
#include "lram/core/json.h"
#include "tests/support/run_command.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_policy.h"
#include "tests/support/xml.h"

namespace lram::eval::bench_step_test {
namespace {
test::CommandResult bench(std::vector<std::string> args) {
  args.insert(args.begin(), {test::program("lram"), "bench", "step", "--threads", "1"});
  return test::run_command(args);
}

TEST(BenchStep, TimesACheckpointBesideATransformer) {
  const test::TempFolder run;
  const auto policy = test::tiny_policy(test::tiny_config(), {"dmcontrol/walker_run"});
  test::write_checkpoint(*policy, run.path() / "checkpoints/000000010");
  const std::string svg = run.path() / "latency.svg";
  const auto result = bench({"--checkpoint", run.path() / "checkpoints/000000010", "--contexts",
                             "3,12", "--steps", "20", "--json", "--svg", svg});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const nlohmann::json json = parse_json(result.out);
  ASSERT_EQ(json["rows"].size(), 4u);
  for (const nlohmann::json& row : json["rows"]) {
    EXPECT_EQ(row["steps"], 20);
    EXPECT_FALSE(row["hardware"].get<std::string>().empty());
    EXPECT_FALSE(row["build"].get<std::string>().empty());
    EXPECT_GT(row["median_us"], 0.0);
  }
  EXPECT_EQ(json["rows"][0]["model"], "xlstm");
  EXPECT_EQ(json["rows"][3]["model"], "transformer");
  EXPECT_EQ(json["rows"][3]["context"], 12);
  test::expect_well_formed(read_file(svg));
  EXPECT_EQ(read_latency(run.path() / "latency.json").rows.size(), 4u);
}

TEST(BenchStep, RefusesBadUse) {
  const auto expect_refusal = [](const std::vector<std::string>& args, const std::string& part) {
    const auto result = bench(args);
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
  };
  expect_refusal({"--contexts", "10,x"}, "'x' is no number of steps");
  expect_refusal({"--contexts", "0"}, "'0' is no number of steps");
  expect_refusal({"--models", "mamba"}, "unknown model 'mamba'");
  expect_refusal({"--size", "17M"}, "wanted one of 0.8M");
  expect_refusal({"--steps", "0"}, "--steps is 0");
}
}  // namespace
}  // namespace lram::eval::bench_step_test
