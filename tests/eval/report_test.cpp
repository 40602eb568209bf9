#include "eval/report.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "lram/core/error.h"
#include "lram/core/json.h"
#include "tests/support/temp_folder.h"
#include "tests/support/xml.h"

namespace lram::eval::report_test {
namespace {
namespace fs = std::filesystem;

void write(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << text;
}

Evaluation evaluation_of(double episode_return, const std::string& mode = "carried") {
  const std::string task = "dmcontrol/cartpole_swingup";
  return {.checkpoint = "000000200",
          .target = "data",
          .hardware = "a <processor>",
          .build = "a compiler",
          .seconds = 1.0,
          .tasks = {{.task = task,
                     .mode = mode,
                     .target_return = 850.0,
                     .data_mean = 800.0,
                     .random_mean = 20.0,
                     .episodes = {{.task = task,
                                   .seed = 1'000'000,
                                   .length = 1000,
                                   .episode_return = episode_return,
                                   .terminated = false,
                                   .variant = {}}}}}};
}

void write_whole_run(const fs::path& run) {
  write(run / "config.ini", "[model]\nembed_dim = 64\n# a & b\n");
  std::string metrics;
  for (int step = 0; step < 5000; step += 2)
    metrics += json_text(nlohmann::json{{"step", step},
                                        {"train/loss", 5.0 / (1 + step)},
                                        {"train/loss/dmcontrol", 4.0},
                                        {"train/accuracy/dmcontrol", 0.5}}) +
               "\n";
  metrics += R"({"step": 5000, "valid/loss/dmcontrol": 4.5, "valid/accuracy/dmcontrol": 0.4})";
  write(run / "metrics.jsonl", metrics + "\n");
  write(run / "eval/20260101-000000_000000200.json",
        json_text(nlohmann::json(evaluation_of(640.0))));
  LatencyTable latency{.hardware = "a processor", .build = "a compiler", .rows = {}};
  for (const char* model : {"xlstm", "transformer"})
    for (const int context : {10, 1000})
      latency.rows.push_back({.model = model,
                              .preset = "2 blocks x 64",
                              .parameters = 700'000,
                              .context = context,
                              .steps = 2000,
                              .median_us = 300.0 + context,
                              .p99_us = 500.0 + context,
                              .max_us = 900.0 + context});
  write(run / "latency.json", json_text(nlohmann::json(latency)));
}

std::string error_of(const fs::path& run) {
  try {
    read_run_folder(run);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    return error.what();
  }
  return "no error";
}

TEST(Report, HoldsEveryPartAndIsWellFormed) {
  const test::TempFolder folder;
  write_whole_run(folder.path());
  const std::string page = render_report(read_run_folder(folder.path()));
  test::expect_well_formed(page);
  for (const char* part :
       {"Learning curves", "Loss, all domains", "Loss, dmcontrol", "Accuracy, dmcontrol",
        "validation", "Scores", "dmcontrol/cartpole_swingup", "640.0", "0.80",
        "dmcontrol, mean of 1 task", "Latency", "transformer, 0.7M parameters", "Configuration",
        "embed_dim = 64", "a &amp; b", "a &lt;processor&gt;", "LibTorch", "MuJoCo"})
    EXPECT_NE(page.find(part), std::string::npos) << part;
  EXPECT_EQ(page.find("class=\"missing\""), std::string::npos);
}

TEST(Report, NeedsNoOtherFile) {
  const test::TempFolder folder;
  write_whole_run(folder.path());
  const std::string page = render_report(read_run_folder(folder.path()));
  for (const char* reference : {"<script", "<link", "<img", "src=", "href=", "@import", "url("})
    EXPECT_EQ(page.find(reference), std::string::npos) << reference;
  EXPECT_LT(page.size(), 200'000u);
}

TEST(Report, NamesWhatIsMissing) {
  const test::TempFolder folder;
  write(folder.path() / "config.ini", "[model]\n");
  const std::string page = render_report(read_run_folder(folder.path()));
  test::expect_well_formed(page);
  for (const char* part : {"No learning curves", "No scores", "No latencies", "lram bench step"})
    EXPECT_NE(page.find(part), std::string::npos) << part;
}

TEST(RunFolder, TakesTheNewestEvaluationOfEachTaskAndMode) {
  const test::TempFolder folder;
  write(folder.path() / "eval/2_b.json", json_text(nlohmann::json(evaluation_of(2.0))));
  write(folder.path() / "eval/1_a.json", json_text(nlohmann::json(evaluation_of(1.0))));
  write(folder.path() / "eval/0_c.json", json_text(nlohmann::json(evaluation_of(0.5, "window"))));
  const RunFolder run = read_run_folder(folder.path());
  ASSERT_EQ(run.evaluation.tasks.size(), 2u);
  EXPECT_EQ(run.evaluation.tasks[0].episodes[0].episode_return, 2.0);
  EXPECT_EQ(run.evaluation.tasks[1].mode, "window");
}

TEST(RunFolder, PassesOverATornLastLineAlone) {
  const test::TempFolder folder;
  const fs::path path = folder.path() / "metrics.jsonl";
  write(path, "{\"step\": 1, \"train/loss\": 2.0}\n{\"step\": 2, \"tra");
  EXPECT_EQ(read_run_folder(folder.path()).metrics.at("train/loss").size(), 1u);
  write(path, "{\"step\": 1, \"tra\n{\"step\": 2, \"train/loss\": 2.0}\n");
  EXPECT_NE(error_of(folder.path()).find("metrics.jsonl: line 1"), std::string::npos);
}

TEST(RunFolder, SaysWhatIsWrong) {
  const test::TempFolder folder;
  EXPECT_NE(error_of(folder.path() / "absent").find("no such folder"), std::string::npos);
  EXPECT_NE(error_of(folder.path()).find("no run folder"), std::string::npos);
  write(folder.path() / "latency.json", "{\"rows\": 3}");
  EXPECT_NE(error_of(folder.path()).find("latency.json"), std::string::npos);
  write(folder.path() / "latency.json", "{");
  EXPECT_NE(error_of(folder.path()).find("latency.json"), std::string::npos);
}

TEST(RunFolder, OfACheckpoint) {
  const test::TempFolder folder;
  const fs::path run = fs::canonical(folder.path());
  fs::create_directories(run / "checkpoints/000000100");
  fs::create_directory_symlink("000000100", run / "checkpoints/last");
  EXPECT_EQ(run_of_checkpoint(run / "checkpoints/last"), run);
  EXPECT_EQ(run_of_checkpoint(run / "elsewhere"), run / "elsewhere");
}

TEST(RunFolder, KeepsAllEvaluationsOfOneSecond) {
  const test::TempFolder folder;
  fs::create_directories(folder.path() / "eval");
  for (const char* name : {"19700101-000005_last.json", "19700101-000005_last_2.json",
                           "19700101-000005_last_3.json"}) {
    const fs::path path = new_evaluation_path(folder.path(), "last", 5);
    EXPECT_EQ(path, folder.path() / "eval" / name);
    write(path, "{}");
  }
  EXPECT_EQ(new_evaluation_path(folder.path(), "last", 6),
            folder.path() / "eval/19700101-000006_last.json");
}
}  // namespace
}  // namespace lram::eval::report_test
