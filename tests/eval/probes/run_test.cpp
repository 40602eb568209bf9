// The harness: every cell sees what it should and no more, and runs repeat.
#include "eval/probes/run.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "eval/probes/cell.h"
#include "eval/probes/unfinished_run.h"
#include "lram/core/error.h"
#include "lram/core/json.h"
#include "lram/core/safetensors.h"
#include "lram/model/backbones.h"
#include "tests/support/temp_folder.h"

namespace lram::eval::probes::run_test {
namespace {
RunSettings tiny(const std::string& task, const std::string& cell) {
  at::set_num_threads(1);  // of what is so small, each call costs less than its threads
  RunSettings s = preset_settings("cpu", task);
  s.cell = cell;
  s.embed_dim = 16;
  s.steps = 6;
  s.warmup = 2;
  s.batch_size = 4;
  s.validate_every = 3;
  s.validation_sequences = s.test_sequences = s.curve_sequences = 8;
  s.train_low = 16, s.train_high = 24, s.test_low = 24, s.test_high = 32;
  s.curve = {24, 40};
  s.options = {.vocab_size = 32, .num_pairs = 2};
  return s;
}

/// The hidden values of one sequence as a row of a padded batch equal those of it alone.
TEST(ProbeModel, PadsChangeNothing) {
  for (const std::string& cell : cell_names())
    for (const char* name : {"parity", "nearest_neighbour"}) {
      const RunSettings settings = tiny(name, cell);
      const Task task = make_task(name, settings.options);
      const torch::NoGradGuard no_grad;
      ProbeModel model(task, settings);
      std::vector<Sequence> sequences;
      for (const std::int64_t length : {20, 31, 9})
        sequences.push_back(draw_sequence(task, 3, Split::kTest, 0, length, length));
      const torch::Tensor together =
          model.hidden(batch_tensors(task, make_batch(task, sequences), 0));
      for (std::size_t row = 0; row < sequences.size(); ++row) {
        const torch::Tensor alone =
            model.hidden(batch_tensors(task, make_batch(task, {sequences[row]}), 0))[0];
        const torch::Tensor got =
            together[static_cast<std::int64_t>(row)].narrow(0, 0, alone.size(0));
        EXPECT_TRUE(torch::allclose(got, alone, 1e-4, 1e-5)) << cell << ", " << name << ' ' << row;
      }
    }
}

/// What stands at token t moves nothing before t, and something from t on: no cell can look ahead
/// at an answer, and none is blind.
TEST(ProbeModel, LooksBackAndNeverAhead) {
  for (const std::string& cell : cell_names()) {
    const RunSettings settings = tiny("parity", cell);
    const Task task = make_task("parity");
    const torch::NoGradGuard no_grad;
    ProbeModel model(task, settings);
    Batch batch = make_batch(task, {draw_sequence(task, 3, Split::kTest, 0, 24, 24)});
    const torch::Tensor before = model.hidden(batch_tensors(task, batch, 0))[0];
    for (const std::int64_t t : {0, 11, 22}) {
      Batch other = batch;
      std::int32_t& token = other.tokens[static_cast<std::size_t>(t)];
      token = 3 - token;
      const torch::Tensor moved =
          (model.hidden(batch_tensors(task, other, 0))[0] - before).abs().amax(1);
      EXPECT_LT(moved.narrow(0, 0, t + 1).narrow(0, 0, t).sum().item<float>(), 1e-6f) << cell;
      EXPECT_GT(moved[t].item<float>(), 1e-6f) << cell << ' ' << t;
    }
  }
}

TEST(RunProbe, TheSameSettingsGiveTheSameRun) {
  for (const std::string& cell : cell_names()) {
    RunSettings settings = tiny("modular_arithmetic", cell);
    const auto once = run_probe(settings, torch::kCPU), again = run_probe(settings, torch::kCPU);
    ASSERT_TRUE(once && again);
    EXPECT_EQ(once->steps, 6);
    EXPECT_GT(once->tokens, 0);
    EXPECT_EQ(once->curve.size(), 2u);
    EXPECT_EQ(once->validation, again->validation) << cell;
    EXPECT_EQ(once->test, again->test) << cell;
  }
}

TEST(RunProbe, TakesEveryTask) {
  for (const std::string& name : task_names())
    for (const char* cell : {"xlstm", "gpt2"}) {
      const auto result = run_probe(tiny(name, cell), torch::kCPU);
      ASSERT_TRUE(result) << name;
      EXPECT_TRUE(std::isfinite(result->test)) << name;
      EXPECT_EQ(result->chance, make_task(name, tiny(name, cell).options).chance);
      EXPECT_FALSE(result->diverged) << name;
    }
}

TEST(RunProbe, EndsAtTheBarAndWhenAsked) {
  RunSettings settings = tiny("parity", "slstm");
  settings.bar = 0.0;  // of an accuracy: reached at the first look
  const auto early = run_probe(settings, torch::kCPU);
  EXPECT_EQ(early->steps, 3);
  EXPECT_TRUE(early->reached);
  settings.bar = 2.0;
  std::int64_t seen = 0;
  const auto stopped = run_probe(settings, torch::kCPU, [&](std::int64_t steps) {
    seen = steps;
    return steps == 2;
  });
  EXPECT_FALSE(stopped);
  EXPECT_EQ(seen, 2);
}

/// What a run that has ended leaves: weights and moments as bytes, and its result but for the time.
std::map<std::string, std::string> left_by(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  std::map<std::string, std::string> out;
  for (const TensorEntry& entry : file.tensors())
    out[entry.name].assign(reinterpret_cast<const char*>(entry.data.data()), entry.data.size());
  auto run = parse_json(file.metadata().at("run"));
  run["result"].erase("seconds");
  out["run"] = json_text(run);
  return out;
}

TEST(RunProbe, AStoppedRunGoesOnAsIfItHadNot) {
  const test::TempFolder folder;
  for (const std::string& cell : cell_names()) {
    RunSettings settings = tiny("modular_arithmetic", cell);
    settings.steps = 20;  // more than two pools of batches
    settings.validate_every = 7;
    const auto whole_file = unfinished_path(folder.path() / "whole", settings),
               parts_file = unfinished_path(folder.path() / "parts", settings);
    const auto whole = run_probe(settings, torch::kCPU, {}, true, whole_file);
    std::int64_t calls = 0;
    std::optional<RunResult> parts;
    for (; !parts && calls < 10; ++calls)
      parts = run_probe(
          settings, torch::kCPU,
          [&](std::int64_t steps) { return calls < 3 && steps == 5 + 6 * calls; }, true,
          parts_file);
    ASSERT_TRUE(whole && parts) << cell;
    EXPECT_EQ(calls, 4) << cell;
    EXPECT_EQ(parts->test, whole->test) << cell;
    EXPECT_EQ(parts->validation, whole->validation) << cell;
    EXPECT_EQ(left_by(parts_file), left_by(whole_file)) << cell;
    // Of other settings it is no beginning.
    RunSettings other = settings;
    other.rate = 0.5;
    std::filesystem::rename(parts_file, unfinished_path(folder.path() / "parts", other));
    EXPECT_NE(unfinished_path({}, other), unfinished_path({}, settings));
    run_probe(
        other, torch::kCPU, [](std::int64_t steps) { return steps == 1; }, true,
        unfinished_path(folder.path() / "parts", other));
    EXPECT_NE(left_by(unfinished_path(folder.path() / "parts", other)), left_by(whole_file));
  }
  RunSettings settings = tiny("parity", "gru");
  write_safetensors(folder.path() / "none.safetensors", {});
  EXPECT_THROW(run_probe(settings, torch::kCPU, {}, true, folder.path() / "none.safetensors"),
               Error);
}

TEST(RunProbe, AGradientThatIsNotFiniteEndsTheRun) {
  RunSettings settings = tiny("tracking", "gpt2");
  settings.rate = 1e30;
  settings.warmup = 0;
  settings.steps = 50;
  const auto result = run_probe(settings, torch::kCPU);
  ASSERT_TRUE(result);
  EXPECT_TRUE(result->diverged);
  EXPECT_LT(result->steps, 50);
  EXPECT_TRUE(std::isfinite(result->test));  // a record holds no NaN
}

TEST(Cells, AreThePapersThreeAndEveryOtherBackbone) {
  const auto cells = cell_names();
  for (const std::string& name : model::backbone_names())
    EXPECT_NE(std::find(cells.begin(), cells.end(), name), cells.end()) << name;
  RunSettings settings = tiny("parity", "slstm");
  settings.num_blocks = 4;
  EXPECT_EQ(cell_config(settings).slstm_at, "0,1,2,3");
  settings.cell = "xlstm";
  EXPECT_EQ(cell_config(settings).slstm_at, "1,3");
  settings.cell = "mlstm";
  EXPECT_EQ(cell_config(settings).slstm_at, "");
  settings.cell = "elm";
  EXPECT_THROW(cell_config(settings), Error);
  settings.cell = "slstm";
  settings.num_heads = 3;
  EXPECT_THROW(cell_config(settings), Error);
}
}  // namespace
}  // namespace lram::eval::probes::run_test
