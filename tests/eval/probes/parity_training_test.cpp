// The smoke test of state tracking (adaptation.md 5), by training: an sLSTM block learns parity and
// holds it at three times the length; an mLSTM block with the same steps does not, though it
// learns the control.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cstdio>

#include "eval/probes/run.h"

namespace lram::eval::probes::parity_training_test {
namespace {
RunResult train(const std::string& task, const std::string& cell, std::int64_t steps) {
  at::set_num_threads(1);
  RunSettings settings = preset_settings("cpu", task);
  settings.cell = cell;
  settings.num_blocks = 1;
  settings.rate = 1e-2;
  settings.steps = steps;
  settings.curve = {};
  const auto result = run_probe(settings, torch::kCPU);
  std::printf("%s, %s: test %.4f after %ld steps, %.1f s\n", task.c_str(), cell.c_str(),
              result->test, static_cast<long>(result->steps), result->seconds);
  return *result;
}

constexpr std::int64_t kSteps = 1500;

TEST(ParityTraining, OneSlstmBlockHoldsItBeyondItsTraining) {
  EXPECT_GE(train("parity", "slstm", kSteps).test, 0.95);
}

TEST(ParityTraining, OneMlstmBlockCannotThoughItLearnsTheControl) {
  EXPECT_GE(train("even_pairs", "mlstm", kSteps).test, 0.99);
  EXPECT_LE(train("parity", "mlstm", kSteps).test, 0.6);
}
}  // namespace
}  // namespace lram::eval::probes::parity_training_test
