#pragma once
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "eval/probes/run.h"

namespace lram::eval::probes {

/// Computes the gradients of training steps. A GPU takes far longer to be told what to do for so
/// small a model than to do it, so in builds for NVIDIA GPUs the work for each shape of a batch is
/// recorded as a CUDA graph when it first comes, and replayed from then on. The first replay of a
/// recording has to give the gradients of the plain step on the same batch. Where it does not, or
/// where nothing can be recorded, the log says why and all steps are plain.
/// Call from one thread, with a stream of its own on a GPU.
class GradientStep {
 public:
  /// `graphs` false: plain steps.
  GradientStep(ProbeModel& model, const Task& task, const RunSettings& settings, bool graphs);
  ~GradientStep();
  GradientStep(const GradientStep&) = delete;
  GradientStep& operator=(const GradientStep&) = delete;

  /// The gradients of probe_loss() are in the parameters' grad() until the next call.
  void run(const Batch& batch);
  std::int64_t replays() const { return replays_; }  ///< steps that were not plain

 private:
  struct Graphs;  // only where CUDA is

  std::vector<torch::Tensor> plain(const BatchTensors& batch);
  void hand_out(const std::vector<torch::Tensor>& gradients);

  ProbeModel& model_;
  const Task& task_;
  std::vector<torch::Tensor> parameters_;
  std::shared_ptr<Graphs> graphs_;  // null: plain steps
  std::int64_t replays_ = 0;
};

}  // namespace lram::eval::probes
