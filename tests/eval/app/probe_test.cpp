#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "eval/probes/results.h"
#include "lram/core/file.h"
#include "lram/core/json.h"
#include "tests/support/run_command.h"
#include "tests/support/temp_folder.h"
#include "tests/support/xml.h"

namespace lram::eval::probes {
namespace {
test::CommandResult probe(std::vector<std::string> args) {
  args.insert(args.begin(), {test::program("lram"), "probe"});
  return test::run_command(args);
}

TEST(Probe, KeepsItsRunsAndGoesOnWithWhatIsMissing) {
  const test::TempFolder folder;
  const std::string out = folder.path() / "runs.jsonl";
  const std::vector<std::string> args = {"--task", "parity,even_pairs", "--steps",   "2", "--out",
                                         out,      "--rates",           "0.01,0.001"};
  auto first = args, both = args;
  first.insert(first.end(), {"--cell", "slstm"});
  ASSERT_EQ(probe(first).exit_code, 0);
  const std::string kept = read_file(out);
  EXPECT_EQ(read_records(out).size(), 4u);

  both.insert(both.end(), {"--cell", "slstm,gpt2", "--json", "--svg", folder.path() / "plots"});
  const auto result = probe(both);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(read_file(out).substr(0, kept.size()), kept) << "finished runs are not run again";
  EXPECT_EQ(read_records(out).size(), 8u);
  const auto json = parse_json(result.out);
  EXPECT_EQ(json["runs"].size(), 8u);
  for (const auto& claim : json["claims"]) EXPECT_NE(claim["verdict"], "") << claim;
  test::expect_well_formed(read_file(folder.path() / "plots/parity.svg"));
  test::expect_well_formed(read_file(folder.path() / "plots/even_pairs.svg"));

  both.insert(both.end(), {"--show"});
  const auto shown = probe(both);
  EXPECT_EQ(shown.exit_code, 0) << shown.err;
  EXPECT_EQ(parse_json(shown.out), json);
  EXPECT_EQ(read_records(out).size(), 8u);
}

TEST(Probe, PrintsATable) {
  const auto result =
      probe({"--task", "parity", "--cell", "slstm", "--steps", "1", "--rates", "0"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find("task    chance  slstm\nparity   0.500"), std::string::npos)
      << result.out;
  EXPECT_NE(result.out.find("not borne out"), std::string::npos) << result.out;
}

TEST(Probe, RefusesBadUse) {
  const auto expect_refusal = [](const std::vector<std::string>& args, const std::string& part,
                                 int exit_code = 2) {
    const auto result = probe(args);
    EXPECT_EQ(result.exit_code, exit_code);
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
    EXPECT_EQ(result.out, "");
  };
  expect_refusal({"--task", "partiy"}, "--task: unknown 'partiy', known: parity");
  expect_refusal({"--cell", "elm"}, "--cell: unknown 'elm', known: mlstm");
  expect_refusal({"--preset", "gpu"}, "--preset is 'gpu', wanted cpu or full");
  expect_refusal({"--rates", "fast"}, "--rates: 'fast' is no number");
  expect_refusal({"--seeds", "-1"}, "--seeds: '-1' is no number of 0 or more");
  expect_refusal({"--steps", "-5"}, "--steps is -5");
  expect_refusal({"--jobs", "-1"}, "--jobs is -1");
  expect_refusal({"--set", "dim=3"}, "no setting of a run is called 'dim', known: bar, batch_size");
  expect_refusal({"--set", "embed_dim=x"}, "'embed_dim=x': wanted a whole number");
  expect_refusal({"--device", "tpu"}, "train.device is 'tpu'");
  expect_refusal({"--show"}, "--show needs --out");
  const test::TempFolder folder;
  write_file_atomically(folder.path() / "notes", "hello\n");
  expect_refusal({"--out", folder.path() / "notes"}, "notes, line 1", 3);
}
}  // namespace
}  // namespace lram::eval::probes
