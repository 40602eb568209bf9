#include "eval/probes/results.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "eval/probes/claims.h"
#include "lram/core/error.h"
#include "lram/core/file.h"
#include "tests/support/temp_folder.h"
#include "tests/support/xml.h"

namespace lram::eval::probes {
namespace {
RunRecord record(const std::string& task, const std::string& cell, double test,
                 double validation = 0.5, double rate = 1e-3, std::uint64_t seed = 0) {
  RunRecord out;
  out.settings.task = task;
  out.settings.cell = cell;
  out.settings.rate = rate;
  out.settings.seed = seed;
  out.result = {.validation = validation, .test = test, .chance = make_task(task).chance};
  out.result.curve = {{20, test}, {40, test / 2}};
  return out;
}

const std::vector<std::string> kCells = {"slstm", "mlstm", "lstm", "gpt2"};

Verdict::Kind verdict_of(const std::vector<RunRecord>& records, const std::string& task,
                         const std::string& cell) {
  for (const Verdict& verdict : judge_claims(cell_scores(records, kCells)))
    if (verdict.task == task && verdict.cell == cell) return verdict.kind;
  throw std::runtime_error("no claim about " + cell + " on " + task);
}

TEST(Records, ComeBackAsTheyWere) {
  const test::TempFolder folder;
  const auto path = folder.path() / "new/runs.jsonl";
  EXPECT_TRUE(read_records(path).empty());
  RunRecord first = record("recall", "slstm", 0.75);
  first.settings.options.random_filler = true;
  first.settings.curve = {5, 6};
  first.hardware = "a \"cpu\"";
  append_record(path, first);
  append_record(path, record("parity", "gpt2", 0.5));
  const auto records = read_records(path);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].settings, first.settings);
  EXPECT_EQ(nlohmann::json(records[0]), nlohmann::json(first));
  EXPECT_EQ(records[1].settings.cell, "gpt2");
}

TEST(Records, ALineCutOffByACrashIsDropped) {
  const test::TempFolder folder;
  const auto path = folder.path() / "runs.jsonl";
  append_record(path, record("parity", "slstm", 1.0));
  std::ofstream(path, std::ios::app) << R"({"settings": {"task": "par)";
  EXPECT_EQ(read_records(path).size(), 1u);
  append_record(path, record("parity", "gpt2", 0.5));
  const auto records = read_records(path);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[1].settings.cell, "gpt2");
}

TEST(Records, RefuseAFileOfSomethingElse) {
  const test::TempFolder folder;
  const auto path = folder.path() / "runs.jsonl";
  append_record(path, record("parity", "slstm", 1.0));
  for (const char* line : {"no json\n", "{}\n", "[1]\n"}) {
    const std::string good = read_file(path);
    std::ofstream(path, std::ios::app) << line;
    try {
      read_records(path);
      ADD_FAILURE() << line;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput);
      EXPECT_NE(std::string(error.what()).find("runs.jsonl, line 2"), std::string::npos)
          << error.what();
    }
    write_file_atomically(path, good);
  }
}

TEST(CellScores, TheRateIsChosenByValidationAndTheBestSeedIsShown) {
  const auto scores = cell_scores({record("parity", "slstm", 0.9, 0.6, 1e-3, 0),
                                   record("parity", "slstm", 0.7, 0.8, 1e-2, 0),  // chosen
                                   record("parity", "slstm", 0.6, 0.7, 1e-2, 1)},
                                  kCells);
  ASSERT_EQ(scores.size(), 1u);
  EXPECT_EQ(scores[0].test(), 0.7);
  EXPECT_NEAR(scores[0].mean, 0.65, 1e-12);
  EXPECT_EQ(scores[0].seeds, 2);
  EXPECT_EQ(scores[0].rates, (std::vector<double>{1e-3, 1e-2}));
  EXPECT_NEAR(scores[0].scaled(), 0.4, 1e-12);
}

TEST(CellScores, OfErrorsTheLeastIsBest) {
  const auto scores = cell_scores(
      {record("tracking", "lstm", 0.3, 0.3, 1e-3), record("tracking", "lstm", 0.2, 0.2, 1e-2)},
      kCells);
  EXPECT_EQ(scores[0].test(), 0.2);
}

TEST(Claims, FollowTheNumbers) {
  using Kind = Verdict::Kind;
  EXPECT_EQ(verdict_of({record("parity", "slstm", 0.951)}, "parity", "slstm"), Kind::kBorneOut);
  EXPECT_EQ(verdict_of({record("parity", "slstm", 0.949)}, "parity", "slstm"), Kind::kNotBorneOut);
  EXPECT_EQ(verdict_of({record("even_pairs", "gpt2", 0.992)}, "even_pairs", "gpt2"),
            Kind::kBorneOut);
  EXPECT_EQ(verdict_of({record("even_pairs", "gpt2", 0.988)}, "even_pairs", "gpt2"),
            Kind::kNotBorneOut);
  const auto revises = [](double slstm, double lstm) {
    return verdict_of(
        {record("nearest_neighbour", "slstm", slstm), record("nearest_neighbour", "lstm", lstm)},
        "nearest_neighbour", "slstm");
  };
  EXPECT_EQ(revises(0.01, 0.04), Kind::kBorneOut);
  EXPECT_EQ(revises(0.02, 0.04), Kind::kNotBorneOut);
  EXPECT_EQ(revises(0.08, 0.083), Kind::kOpen) << "neither learned it";
  EXPECT_EQ(verdict_of({record("nearest_neighbour", "slstm", 0.01)}, "nearest_neighbour", "slstm"),
            Kind::kOpen);
}

/// Runs with three learning rates.
std::vector<RunRecord> tried(const std::string& task, double test) {
  std::vector<RunRecord> out;
  for (const double rate : {1e-2, 3e-3, 1e-3}) out.push_back(record(task, "gpt2", test, 0.5, rate));
  return out;
}

TEST(Claims, InabilityNeedsAControlOfTheSameEffort) {
  using Kind = Verdict::Kind;
  const auto judge = [](std::vector<RunRecord> records, const RunRecord& control) {
    records.push_back(control);
    return verdict_of(records, "parity", "gpt2");
  };
  const RunRecord control = record("even_pairs", "gpt2", 1.0);
  const std::vector<RunRecord> failed = tried("parity", 0.52);
  EXPECT_EQ(verdict_of(failed, "parity", "gpt2"), Kind::kOpen);
  EXPECT_EQ(judge(failed, record("even_pairs", "gpt2", 0.9)), Kind::kOpen);
  EXPECT_EQ(judge(failed, control), Kind::kBorneOut);
  EXPECT_EQ(judge({failed[0], failed[1]}, control), Kind::kOpen) << "two rates";
  EXPECT_EQ(judge(tried("parity", 0.8), control), Kind::kNotBorneOut);
  RunRecord longer = control;
  longer.result.steps = failed[0].settings.steps + 1;
  EXPECT_EQ(judge(failed, longer), Kind::kOpen);
  std::vector<RunRecord> shorter = failed;
  shorter[1].settings.steps = 100;
  RunRecord slow = control;
  slow.result.steps = 200;
  EXPECT_EQ(judge(shorter, slow), Kind::kOpen) << "one rate had 100 steps";
}

TEST(Claims, ExtrapolationComparesTheWorstLengthWithTheShortest) {
  using Kind = Verdict::Kind;
  const auto judge = [](const std::string& cell, double at_64, double at_1024) {
    RunRecord one = record("tracking", cell, at_64);
    one.result.curve = {{1024, at_1024}, {64, at_64}};
    return verdict_of({one}, "tracking", cell);
  };
  EXPECT_EQ(judge("slstm", 0.050, 0.052), Kind::kBorneOut);
  EXPECT_EQ(judge("slstm", 0.050, 0.053), Kind::kNotBorneOut);
  RunRecord bump = record("tracking", "slstm", 0.05);
  bump.result.curve = {{64, 0.050}, {128, 0.060}, {256, 0.050}};
  EXPECT_EQ(verdict_of({bump}, "tracking", "slstm"), Kind::kNotBorneOut);
  EXPECT_EQ(judge("gpt2", 0.050, 0.9), Kind::kBorneOut);
  EXPECT_EQ(judge("gpt2", 0.050, 0.051), Kind::kNotBorneOut);
  EXPECT_EQ(judge("gpt2", 0.9, 5.0), Kind::kOpen) << "it learned nothing";
}

TEST(Tables, ShowEveryCellAndVerdict) {
  const auto scores = cell_scores({record("parity", "slstm", 1.0), record("parity", "gpt2", 0.5),
                                   record("tracking", "slstm", 0.05)},
                                  kCells);
  EXPECT_EQ(to_table(scores),
            "task             chance   slstm   gpt2\n"
            "parity            0.500   1.000  0.500\n"
            "tracking, error   0.877  0.0500      -\n");
  EXPECT_EQ(to_length_table(scores),
            "task      length   slstm   gpt2\n"
            "parity        20   1.000  0.500\n"
            "parity        40   0.500  0.250\n"
            "tracking      20  0.0500      -\n"
            "tracking      40  0.0250      -\n");
  EXPECT_NE(to_table(judge_claims(scores)).find("no control: even_pairs was not run"),
            std::string::npos);
  const std::string svg = render_svg(length_plot(scores, "parity"));
  test::expect_well_formed(svg);
  EXPECT_NE(svg.find("gpt2"), std::string::npos);
  EXPECT_NE(svg.find("chance"), std::string::npos);
}

TEST(RunSettings, TakeFieldsByName) {
  RunSettings settings = preset_settings("cpu", "recall");
  set_field(settings, "embed_dim=128");
  set_field(settings, "options.num_pairs=8");
  set_field(settings, "options.random_filler=true");
  set_field(settings, "bar=2");
  EXPECT_EQ(settings.embed_dim, 128);
  EXPECT_EQ(settings.options.num_pairs, 8);
  EXPECT_TRUE(settings.options.random_filler);
  EXPECT_EQ(settings.bar, 2.0);
  for (const char* bad : {"", "embed_dim", "embed_dim=", "embed_dim=-1", "embed_dim=1.5", "dim=3",
                          "options=3", "task=1", "curve=3", "bar=x", "options.random_filler=1"})
    EXPECT_THROW(set_field(settings, bad), Error) << bad;
}

TEST(Presets, FitTheirTasks) {
  for (const std::string& preset : preset_names())
    for (const std::string& name : preset_tasks(preset)) {
      const RunSettings settings = preset_settings(preset, name);
      const Task task = make_task(name, settings.options);
      EXPECT_EQ(settings.rate, preset_rates(preset).front());
      EXPECT_GE(preset_rates(preset).size(), 3u);
      draw_sequence(task, 0, Split::kTrain, 0, settings.train_low, settings.train_high);
      draw_sequence(task, 0, Split::kTest, 0, settings.test_low, settings.test_high);
      EXPECT_FALSE(settings.curve.empty());
    }
  // What stands for inability is trained no less than its control.
  for (const std::string& preset : preset_names())
    for (const char* task : {"parity", "modular_arithmetic"}) {
      EXPECT_GE(preset_settings(preset, task).steps, preset_settings(preset, "even_pairs").steps);
    }
  EXPECT_THROW(preset_settings("gpu", "parity"), Error);
  EXPECT_THROW(preset_settings("cpu", "partiy"), Error);
}
}  // namespace
}  // namespace lram::eval::probes
