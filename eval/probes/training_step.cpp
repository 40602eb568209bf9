#include "eval/probes/training_step.h"

#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "lram/training/optimizer.h"

#ifdef LRAM_HAVE_KERNELS
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <array>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>

#include "lram/core/log.h"
#endif

namespace lram::eval::probes {
using torch::Tensor;

#ifdef LRAM_HAVE_KERNELS
namespace {
// Every shape of a batch is one recording; more than these, and too few replays would follow.
constexpr std::size_t kMaxRecordings = 96;
// Of the gradients' norm. Sums through atomics differ from run to run; what is wrong is off by 1.
constexpr double kReplayTolerance = 1e-2;

double squares(const std::vector<Tensor>& x) {
  double sum = 0.0;
  for (const Tensor& one : x)
    if (one.defined()) sum += one.to(torch::kDouble).square().sum().item<double>();
  return sum;
}

/// Of gradients that the optimizer has clipped from those that it has not, over the latter's norm.
double distance(const std::vector<Tensor>& clipped, const std::vector<Tensor>& plain,
                double max_norm) {
  const double norm = std::sqrt(squares(plain));
  const double factor = max_norm > 0.0 ? std::min(1.0, max_norm / (norm + 1e-6)) : 1.0;
  std::vector<Tensor> apart;
  for (std::size_t i = 0; i < plain.size(); ++i) {
    if (clipped[i].defined() != plain[i].defined()) return HUGE_VAL;
    if (plain[i].defined()) apart.push_back(clipped[i] - plain[i] * factor);
  }
  return std::sqrt(squares(apart)) / std::max(norm * factor, 1e-15);
}
}  // namespace

struct TrainingStep::Graphs {
  struct Recording {
    BatchTensors batch;  // what a replay reads
    std::vector<Tensor> gradients;
    at::cuda::CUDAGraph graph;
  };

  /// Keeps the work of `step`, which is not done yet.
  void record(Recording& recording, const std::function<void()>& step) const {
    static std::mutex mutex;  // one at a time: all threads share the allocator and its pools
    const std::scoped_lock lock(mutex);
    recording.graph.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    try {
      step();
    } catch (...) {
      try {
        recording.graph.capture_end();  // or the stream takes no more work
      } catch (const std::exception&) {
      }
      throw;
    }
    recording.graph.capture_end();
  }

  // Replays follow each other on one stream and need nothing of each other: they share memory.
  at::cuda::MempoolId_t pool = at::cuda::graph_pool_handle();
  std::map<std::array<std::int64_t, 4>, std::unique_ptr<Recording>> recordings = {};
  Tensor rate, norms;  // what replays read; the sum of the gradients' norms, NaN from then on
  std::string cell;
  double max_grad_norm = 0.0;
  bool warm = false;  // a step was taken that loaded what must not be loaded while one is recorded
};
#else
struct TrainingStep::Graphs {};
#endif

TrainingStep::TrainingStep(ProbeModel& model, const Task& task, training::Optimizer& optimizer,
                           const RunSettings& settings, bool graphs)
    : model_(model), task_(task), optimizer_(optimizer), parameters_(model.parameters()) {
#ifdef LRAM_HAVE_KERNELS
  if (graphs && model.device().is_cuda()) {
    graphs_ = std::make_shared<Graphs>();
    graphs_->rate = torch::zeros({}, torch::dtype(torch::kFloat32).device(model.device()));
    graphs_->norms = torch::zeros_like(graphs_->rate);
    graphs_->cell = settings.cell;
    graphs_->max_grad_norm = settings.max_grad_norm;
    optimizer.count_on_device();
  }
#else
  static_cast<void>(settings), static_cast<void>(graphs);
#endif
}

TrainingStep::~TrainingStep() { hand_out(std::vector<Tensor>(parameters_.size())); }

std::vector<Tensor> TrainingStep::plain(const BatchTensors& batch) {
  std::vector<Tensor> gradients =
      torch::autograd::grad({probe_loss(model_, task_, batch)}, parameters_, /*grad_outputs=*/{},
                            /*retain_graph=*/false, /*create_graph=*/false, /*allow_unused=*/true);
  // As backward() lays them out: the fused AdamW reads them in the order of the parameter's memory.
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const Tensor &got = gradients[i], &parameter = parameters_[i];
    if (got.defined() && got.strides() != parameter.strides())
      gradients[i] =
          at::empty_strided(parameter.sizes(), parameter.strides(), got.options()).copy_(got);
  }
  return gradients;
}

void TrainingStep::hand_out(const std::vector<Tensor>& gradients) {
  for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i].mutable_grad() = gradients[i];
}

bool TrainingStep::diverged() const {
#ifdef LRAM_HAVE_KERNELS
  if (graphs_) return diverged_ || !std::isfinite(graphs_->norms.item<double>());
#endif
  return diverged_;
}

bool TrainingStep::run(const Batch& host, double rate) {
  const BatchTensors batch = batch_tensors(task_, host, /*tail=*/0);
#ifdef LRAM_HAVE_KERNELS
  if (graphs_) {
    // A copy out of ordinary memory would wait for the last step too, but keep other threads from
    // launching theirs meanwhile.
    c10::cuda::getCurrentCUDAStream().synchronize();
    graphs_->rate.fill_(rate);
    const auto step_with = [&](const std::vector<Tensor>& gradients) {
      hand_out(gradients);
      graphs_->norms.add_(optimizer_.step_on_device(graphs_->rate));
    };
    const std::array<std::int64_t, 4> shape = {host.rows, host.length, batch.where.numel(),
                                               batch.ends.defined()};
    if (const auto known = graphs_->recordings.find(shape); known != graphs_->recordings.end()) {
      known->second->batch.copy_from(batch);
      known->second->graph.replay();
      ++replays_;
      return true;
    }
    const BatchTensors there = batch.to(model_.device());
    if (!graphs_->warm || graphs_->recordings.size() >= kMaxRecordings) {
      step_with(plain(there));
      graphs_->warm = true;
      return true;
    }
    const training::Optimizer::Snapshot before = optimizer_.snapshot();
    const bool diverged_before = diverged();
    const std::vector<Tensor> gradients = plain(there);
    try {
      auto recording = std::make_unique<Graphs::Recording>();
      recording->batch = there;
      graphs_->record(*recording, [&] {
        recording->gradients = plain(recording->batch);
        step_with(recording->gradients);
      });
      recording->graph.replay();
      const double apart = distance(recording->gradients, gradients, graphs_->max_grad_norm);
      if (!(apart <= kReplayTolerance))
        throw std::runtime_error("its gradients are off by " + std::to_string(apart));
      graphs_->recordings[shape] = std::move(recording);
      return true;
    } catch (const std::exception& error) {
      std::string why = std::string(error.what()).substr(0, 600);
      std::replace(why.begin(), why.end(), '\n', ' ');
      log_info("probe", "cell", graphs_->cell, "graphs", "off", "why", why);
    }
    optimizer_.restore(before);
    diverged_ = diverged_before;  // what the replay added to the norms counts for nothing
    graphs_.reset();
    hand_out(gradients);
    diverged_ = !std::isfinite(optimizer_.step(rate)) || diverged_;
    return !diverged_;
  }
#endif
  hand_out(plain(batch.to(model_.device())));
  diverged_ = !std::isfinite(optimizer_.step(rate)) || diverged_;
  return !diverged_;
}

}  // namespace lram::eval::probes
