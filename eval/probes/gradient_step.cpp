#include "eval/probes/gradient_step.h"

#include <torch/csrc/autograd/autograd.h>

#ifdef LRAM_HAVE_KERNELS
#include <ATen/cuda/CUDAGraph.h>

#include <algorithm>
#include <array>
#include <cmath>
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

double distance(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  double apart = 0.0, size = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].defined() != b[i].defined()) return HUGE_VAL;
    if (!a[i].defined()) continue;
    apart += (a[i] - b[i]).to(torch::kDouble).square().sum().item<double>();
    size += a[i].to(torch::kDouble).square().sum().item<double>();
  }
  return std::sqrt(apart / std::max(size, 1e-30));
}
}  // namespace

struct GradientStep::Graphs {
  struct Recording {
    BatchTensors batch;  // what a replay reads
    std::vector<Tensor> gradients;
    at::cuda::CUDAGraph graph;
  };

  /// Keeps the work of `gradients`, which is not done yet.
  void record(Recording& recording, const std::function<std::vector<Tensor>()>& gradients) const {
    static std::mutex mutex;  // one at a time: all threads share the allocator and its pools
    const std::scoped_lock lock(mutex);
    recording.graph.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    try {
      recording.gradients = gradients();
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
  std::string cell = {};
};
#else
struct GradientStep::Graphs {};
#endif

GradientStep::GradientStep(ProbeModel& model, const Task& task, const RunSettings& settings,
                           bool graphs)
    : model_(model), task_(task), parameters_(model.parameters()) {
#ifdef LRAM_HAVE_KERNELS
  if (graphs && model.device().is_cuda()) {
    graphs_ = std::make_shared<Graphs>();
    graphs_->cell = settings.cell;
  }
#else
  static_cast<void>(settings), static_cast<void>(graphs);
#endif
}

GradientStep::~GradientStep() { hand_out(std::vector<Tensor>(parameters_.size())); }

std::vector<Tensor> GradientStep::plain(const BatchTensors& batch) {
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

void GradientStep::hand_out(const std::vector<Tensor>& gradients) {
  for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i].mutable_grad() = gradients[i];
}

void GradientStep::run(const Batch& host) {
  const BatchTensors batch = batch_tensors(task_, host, /*tail=*/0);
#ifdef LRAM_HAVE_KERNELS
  if (graphs_) {
    const std::array<std::int64_t, 4> shape = {host.rows, host.length, batch.where.numel(),
                                               batch.ends.defined()};
    if (const auto known = graphs_->recordings.find(shape); known != graphs_->recordings.end()) {
      Graphs::Recording& recording = *known->second;
      recording.batch.copy_from(batch);
      recording.graph.replay();
      ++replays_;
      return hand_out(recording.gradients);
    }
    if (graphs_->recordings.size() < kMaxRecordings) {
      auto recording = std::make_unique<Graphs::Recording>();
      recording->batch = batch.to(model_.device());
      // The plain step also does what may happen only once, or not while it is recorded.
      const std::vector<Tensor> gradients = plain(recording->batch);
      hand_out(gradients);
      try {
        graphs_->record(*recording, [&] { return plain(recording->batch); });
        recording->graph.replay();
        const double apart = distance(gradients, recording->gradients);
        if (!(apart <= kReplayTolerance))
          throw std::runtime_error("its gradients are off by " + std::to_string(apart));
        graphs_->recordings[shape] = std::move(recording);
      } catch (const std::exception& error) {
        std::string why = std::string(error.what()).substr(0, 600);
        std::replace(why.begin(), why.end(), '\n', ' ');
        log_info("probe", "cell", graphs_->cell, "graphs", "off", "why", why);
        recording.reset();
        graphs_.reset();
      }
      return;
    }
  }
#endif
  hand_out(plain(batch.to(model_.device())));
}

}  // namespace lram::eval::probes
