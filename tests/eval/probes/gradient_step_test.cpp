// Gradients of a training step: those of the loss, and on a GPU the same whether the step was
// replayed as a CUDA graph or not.
#include "eval/probes/gradient_step.h"

#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include <cmath>
#include <memory>
#include <optional>
#include <thread>

#include "eval/probes/cell.h"

namespace lram::eval::probes {
namespace {
RunSettings tiny(const std::string& cell) {
  RunSettings s = preset_settings("cpu", "parity");
  s.cell = cell;
  s.embed_dim = 16;
  s.steps = 40;
  s.warmup = 2;
  s.batch_size = 8;
  s.train_low = 6, s.train_high = 9, s.test_low = 9, s.test_high = 12;
  s.curve = {};
  s.validation_sequences = s.test_sequences = 8;
  s.bar = 2.0;
  return s;
}

std::vector<torch::Tensor> gradients_of(const ProbeModel& model) {
  std::vector<torch::Tensor> out;
  for (const torch::Tensor& parameter : model.parameters())
    out.push_back(parameter.grad().defined() ? parameter.grad().clone()
                                             : torch::zeros_like(parameter));
  return out;
}

double distance(const std::vector<torch::Tensor>& a, const std::vector<torch::Tensor>& b) {
  double apart = 0.0, size = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    apart += (a[i] - b[i]).square().sum().item<double>();
    size += b[i].square().sum().item<double>();
  }
  return std::sqrt(apart / size);
}

TEST(GradientStep, GivesTheGradientsOfTheLoss) {
  at::set_num_threads(1);
  for (const std::string& cell : cell_names()) {
    const RunSettings settings = tiny(cell);
    const Task task = make_task("parity");
    ProbeModel model(task, settings);
    BatchStream stream(task, 0, settings.batch_size, settings.train_low, settings.train_high);
    const Batch batch = stream.next();
    GradientStep step(model, task, settings, /*graphs=*/true);
    step.run(batch);
    const auto got = gradients_of(model);
    for (const torch::Tensor& parameter : model.parameters())
      EXPECT_EQ(parameter.grad().strides(), parameter.strides()) << cell << ", for AdamW";
    for (torch::Tensor& parameter : model.parameters()) parameter.mutable_grad().reset();
    probe_loss(model, task, batch_tensors(task, batch, 0)).backward();
    EXPECT_EQ(distance(got, gradients_of(model)), 0.0) << cell;
    EXPECT_EQ(step.replays(), 0) << "on a CPU nothing is recorded";
  }
}

/// Calls of operations that read a tensor's value on the host.
int host_reads = 0;

std::unique_ptr<at::ObserverContext> count_host_reads(const at::RecordFunction& function) {
  const std::string name = function.name();
  if (name == "aten::_local_scalar_dense" || name == "aten::nonzero") ++host_reads;
  return nullptr;
}

// A graph cannot be recorded of a step that waits for a value. (Masks are looked at on a CPU only,
// so this batch has none.)
TEST(GradientStep, AsksTheHostForNothing) {
  at::set_num_threads(1);  // others would be waited for, where processors are shared
  const auto handle = at::addGlobalCallback(at::RecordFunctionCallback(&count_host_reads));
  for (const std::string& cell : cell_names()) {
    const RunSettings settings = tiny(cell);
    const Task task = make_task("parity");
    ProbeModel model(task, settings);
    GradientStep step(model, task, settings, /*graphs=*/true);
    const Batch batch = make_batch(task, {draw_sequence(task, 0, Split::kTrain, 0, 9, 9)});
    host_reads = 0;
    step.run(batch);
    EXPECT_EQ(host_reads, 0) << cell;
  }
  host_reads = 0;
  torch::ones({1}).item<float>();
  EXPECT_EQ(host_reads, 1) << "the counter counts";
  at::removeCallback(handle);
}

class GradientStepGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no NVIDIA GPU that LibTorch can use";
#ifndef LRAM_HAVE_KERNELS
    GTEST_SKIP() << "built without a CUDA compiler";
#endif
  }
};

constexpr double kTol = 1e-3;  // float32 sums whose order changes from run to run

TEST_F(GradientStepGpu, AReplayGivesWhatAPlainStepGives) {
  for (const std::string& cell : cell_names()) {
    const RunSettings settings = tiny(cell);
    const Task task = make_task("parity");
    // The default stream cannot be recorded.
    const torch::Device device(torch::kCUDA, 0);
    const c10::StreamGuard own(
        c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device));
    ProbeModel plain_model(task, settings), graph_model(task, settings);
    plain_model.to(device);
    graph_model.to(device);
    GradientStep plain(plain_model, task, settings, /*graphs=*/false);
    GradientStep graph(graph_model, task, settings, /*graphs=*/true);
    BatchStream stream(task, 0, settings.batch_size, settings.train_low, settings.train_high);
    for (int n = 0; n < 24; ++n) {
      const Batch batch = stream.next();
      plain.run(batch);
      graph.run(batch);
      EXPECT_LT(distance(gradients_of(graph_model), gradients_of(plain_model)), kTol)
          << cell << ", batch " << n;
    }
    EXPECT_EQ(plain.replays(), 0);
    EXPECT_GT(graph.replays(), 8) << cell;
  }
}

TEST_F(GradientStepGpu, RunsSideBySideEndAsTheyWouldAlone) {
  const std::vector<std::string> cells = {"slstm", "mlstm", "lstm", "mamba", "gpt2"};
  std::vector<std::optional<RunResult>> together(cells.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < cells.size(); ++i)
    threads.emplace_back([&, i] { together[i] = run_probe(tiny(cells[i]), torch::kCUDA); });
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const auto alone = run_probe(tiny(cells[i]), torch::kCUDA, {}, /*graphs=*/false);
    ASSERT_TRUE(alone && together[i]) << cells[i];
    EXPECT_GT(together[i]->replays, 8) << cells[i];
    EXPECT_EQ(together[i]->steps, alone->steps);
    EXPECT_NEAR(together[i]->validation, alone->validation, 0.26) << cells[i];  // 2 of 8 sequences
  }
}
}  // namespace
}  // namespace lram::eval::probes
