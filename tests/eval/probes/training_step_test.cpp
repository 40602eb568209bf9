// A training step: AdamW on the gradients of the loss, and on a GPU the same whether it was
// replayed as a CUDA graph or not.
#include "eval/probes/training_step.h"

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
#include "lram/training/optimizer.h"

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

constexpr double kRate = 0.01;

training::OptimizerConfig config_of(const RunSettings& s) {
  return {.weight_decay = s.weight_decay, .max_grad_norm = s.max_grad_norm};
}

std::vector<torch::Tensor> weights_of(const ProbeModel& model) {
  std::vector<torch::Tensor> out;
  for (const torch::Tensor& parameter : model.parameters())
    out.push_back(parameter.detach().clone());
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

TEST(TrainingStep, FollowsTheGradientsOfTheLoss) {
  at::set_num_threads(1);
  for (const std::string& cell : cell_names()) {
    const RunSettings settings = tiny(cell);
    const Task task = make_task("parity");
    ProbeModel model(task, settings), other(task, settings);  // equal weights
    training::Optimizer optimizer(model, config_of(settings)), by_hand(other, config_of(settings));
    BatchStream stream(task, 0, settings.batch_size, settings.train_low, settings.train_high);
    TrainingStep step(model, task, optimizer, settings, /*graphs=*/true);
    for (int n = 0; n < 3; ++n) {
      const Batch batch = stream.next();
      EXPECT_TRUE(step.run(batch, kRate)) << cell;
      for (const torch::Tensor& parameter : model.parameters())
        EXPECT_EQ(parameter.grad().strides(), parameter.strides()) << cell << ", for AdamW";
      by_hand.zero_grad();
      probe_loss(other, task, batch_tensors(task, batch, 0)).backward();
      by_hand.step(kRate);
      EXPECT_EQ(distance(weights_of(model), weights_of(other)), 0.0) << cell << ", step " << n;
    }
    EXPECT_EQ(step.replays(), 0) << "on a CPU nothing is recorded";
    EXPECT_FALSE(step.diverged());
    model.parameters()[0].data().fill_(NAN);
    EXPECT_FALSE(step.run(stream.next(), kRate)) << cell;
    EXPECT_TRUE(step.diverged());
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
// so this batch has none.) AdamW on a CPU reads rate and count, which it does not on a GPU.
TEST(TrainingStep, AsksTheHostForNothing) {
  at::set_num_threads(1);  // others would be waited for, where processors are shared
  const auto handle = at::addGlobalCallback(at::RecordFunctionCallback(&count_host_reads));
  for (const std::string& cell : cell_names()) {
    const RunSettings settings = tiny(cell);
    const Task task = make_task("parity");
    ProbeModel model(task, settings);
    const Batch batch = make_batch(task, {draw_sequence(task, 0, Split::kTrain, 0, 9, 9)});
    const BatchTensors tensors = batch_tensors(task, batch, 0);
    host_reads = 0;
    probe_loss(model, task, tensors).backward();
    EXPECT_EQ(host_reads, 0) << cell;
  }
  host_reads = 0;
  torch::ones({1}).item<float>();
  EXPECT_EQ(host_reads, 1) << "the counter counts";
  at::removeCallback(handle);
}

class TrainingStepGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no NVIDIA GPU that LibTorch can use";
#ifndef LRAM_HAVE_KERNELS
    GTEST_SKIP() << "built without a CUDA compiler";
#endif
  }
};

constexpr double kTol = 1e-3;  // float32 sums whose order changes from run to run

TEST_F(TrainingStepGpu, AReplayGivesWhatAPlainStepGives) {
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
    training::Optimizer plain_optimizer(plain_model, config_of(settings)),
        graph_optimizer(graph_model, config_of(settings));
    TrainingStep plain(plain_model, task, plain_optimizer, settings, /*graphs=*/false);
    TrainingStep graph(graph_model, task, graph_optimizer, settings, /*graphs=*/true);
    BatchStream stream(task, 0, settings.batch_size, settings.train_low, settings.train_high);
    for (int n = 0; n < 24; ++n) {
      const Batch batch = stream.next();
      // AdamW moves a weight by the rate whatever its gradient's size, so rounding grows.
      plain.run(batch, 1e-4);
      graph.run(batch, 1e-4);
      EXPECT_LT(distance(weights_of(graph_model), weights_of(plain_model)), kTol)
          << cell << ", batch " << n;
    }
    EXPECT_EQ(plain.replays(), 0);
    EXPECT_EQ(graph_optimizer.num_steps(), 24) << cell;
    EXPECT_FALSE(graph.diverged()) << cell;
    EXPECT_GT(graph.replays(), 8) << cell;
  }
}

TEST_F(TrainingStepGpu, RunsSideBySideEndAsTheyWouldAlone) {
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
