#pragma once
#include <torch/nn/module.h>
#include <torch/types.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include "eval/probes/results.h"
#include "eval/probes/settings.h"
#include "eval/probes/task.h"
#include "lram/model/backbone.h"

namespace torch::nn {
class LinearImpl;
}  // namespace torch::nn

namespace lram::eval::probes {
// N sequences, T tokens, P scored positions, C symbols (1 with real inputs), D embed_dim.

/// A batch as tensors of one device.
struct BatchTensors {
  torch::Tensor inputs = {};  ///< [N, T] int64 symbols, or [N, T, W] float32
  torch::Tensor ends = {};    ///< [N] int32, undefined where all are T
  torch::Tensor where = {};   ///< [P] int64 in [0, N T)
  torch::Tensor wanted = {};  ///< [P] int64 symbols, or float32

  BatchTensors to(torch::Device device) const;
  void copy_from(const BatchTensors& other);  ///< of the same shapes
};
/// On the CPU. Of each row the last `tail` positions may be scored, 0 = all.
BatchTensors batch_tensors(const Task& task, const Batch& batch, std::int64_t tail);

/// A backbone between an embedding (a table, or a linear map of real inputs) and a linear head.
class ProbeModel : public torch::nn::Module {
 public:
  /// Random weights, a function of settings.seed. Any thread.
  ProbeModel(const Task& task, const RunSettings& settings);

  /// What it says after each token: [N, T, D] before the head.
  torch::Tensor hidden(const BatchTensors& batch);
  /// [..., D] -> [..., C].
  torch::Tensor head(const torch::Tensor& hidden);
  model::Backbone& backbone() { return *backbone_; }
  torch::Device device() const;

 private:
  torch::Tensor table_;                            // [C, D], undefined with real inputs
  std::shared_ptr<torch::nn::LinearImpl> inputs_;  // null with symbols
  std::shared_ptr<model::Backbone> backbone_;
  std::shared_ptr<torch::nn::LinearImpl> head_;
};

/// Mean loss over the scored positions: cross-entropy, or squared error. A scalar with gradient.
torch::Tensor probe_loss(ProbeModel& model, const Task& task, const BatchTensors& batch);

/// Accuracy, or mean squared error, over the scored positions of `count` sequences of a split.
double probe_score(ProbeModel& model, const Task& task, const RunSettings& settings, Split split,
                   std::int64_t count, std::int64_t low, std::int64_t high);

/// Called after every step with the steps taken; true asks to stop.
using StepCallback = std::function<bool(std::int64_t steps)>;

/// Trains and tests. Nothing when the callback asked to stop. `graphs`: see training_step.h.
/// `unfinished`: the file that a stopped run leaves, from which the next call with these settings
/// goes on, to the same result; also written now and then, and never removed here. Throws
/// Error(kUsage) for settings that fit no model or task.
std::optional<RunResult> run_probe(const RunSettings& settings, torch::Device device,
                                   const StepCallback& on_step = {}, bool graphs = true,
                                   const std::filesystem::path& unfinished = {});

}  // namespace lram::eval::probes
