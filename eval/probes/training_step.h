#pragma once
#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "eval/probes/run.h"

namespace lram::training {
class Optimizer;
}

namespace lram::eval::probes {

/// Takes training steps: gradients of the loss, clipping and AdamW. A GPU takes far longer to be
/// told what to do for so small a model than to do it, so in builds for NVIDIA GPUs the whole step
/// is recorded as a CUDA graph for each shape of a batch, and replayed from then on. The first
/// replay of a recording has to give the gradients of the plain step on the same batch. Where it
/// does not, or where nothing can be recorded, the log says why and all steps are plain.
/// Call from one thread, with a stream of its own on a GPU.
class TrainingStep {
 public:
  /// `graphs` false: plain steps. Model and optimizer outlive it.
  TrainingStep(ProbeModel& model, const Task& task, training::Optimizer& optimizer,
               const RunSettings& settings, bool graphs);
  ~TrainingStep();
  TrainingStep(const TrainingStep&) = delete;
  TrainingStep& operator=(const TrainingStep&) = delete;

  /// One step on probe_loss(). False if its gradients are known not to be finite: then nothing was
  /// changed. Of a replay that is only known to diverged().
  bool run(const Batch& batch, double rate);
  /// Whether the gradients of any step were not finite. Waits for the GPU.
  bool diverged() const;
  std::int64_t replays() const { return replays_; }  ///< steps that were not plain

 private:
  struct Graphs;  // only where CUDA is

  std::vector<torch::Tensor> plain(const BatchTensors& batch);
  void hand_out(const std::vector<torch::Tensor>& gradients);

  ProbeModel& model_;
  const Task& task_;
  training::Optimizer& optimizer_;
  std::vector<torch::Tensor> parameters_;
  std::shared_ptr<Graphs> graphs_;  // null: plain steps
  bool diverged_ = false;
  std::int64_t replays_ = 0;
};

}  // namespace lram::eval::probes
