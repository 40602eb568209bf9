#include "kernels/app/graph_timer.h"

#include <ATen/Context.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/autograd.h>
#include <torch/utils.h>

#include <algorithm>
#include <vector>

#include "kernels/common/cuda_check.h"

namespace lram::kernels {
namespace {
using torch::Tensor;

constexpr std::int64_t kFlushBytes = 256 << 20;  // several times the L2 cache of any GPU

/// An event that measures time; c10's own want c10's CUDA errors.
class Event {
 public:
  Event() { LRAM_CUDA_CHECK(cudaEventCreate(&event_)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { cudaEventDestroy(event_); }
  void record() { LRAM_CUDA_CHECK(cudaEventRecord(event_, c10::cuda::getCurrentCUDAStream())); }
  double ms_since(const Event& start) const {
    float ms = 0.0f;
    LRAM_CUDA_CHECK(cudaEventSynchronize(event_));
    LRAM_CUDA_CHECK(cudaEventElapsedTime(&ms, start.event_, event_));
    return ms;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

double peak_bytes() {
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(0);
  return static_cast<double>(stats.allocated_bytes[0].peak);
}

double current_bytes() {
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(0);
  return static_cast<double>(stats.allocated_bytes[0].current);
}

}  // namespace

GraphTimer::GraphTimer(int repeats)
    : repeats_(repeats),
      written_(torch::empty({kFlushBytes}, torch::dtype(torch::kUInt8).device(torch::kCUDA))),
      read_(torch::zeros({kFlushBytes / 4}, torch::device(torch::kCUDA))),
      sum_(torch::zeros({}, torch::device(torch::kCUDA))) {}

Timing GraphTimer::time(const std::function<void()>& enqueue, Flush flush) {
  const auto side = c10::cuda::getStreamFromPool();
  at::cuda::CUDAGraph graph;
  {
    // Work before the capture must not run into it, on either stream.
    LRAM_CUDA_CHECK(cudaDeviceSynchronize());
    const c10::cuda::CUDAStreamGuard guard(side);
    for (int n = 0; n < 3; ++n) enqueue();
    LRAM_CUDA_CHECK(cudaDeviceSynchronize());
    graph.capture_begin();
    enqueue();
    graph.capture_end();
  }
  constexpr int kWarmUp = 5;
  std::vector<double> ms;
  for (int n = 0; n < repeats_ + kWarmUp; ++n) {
    Event start, end;
    written_.zero_();
    if (flush == Flush::kRead) at::sum_out(sum_, read_, at::IntArrayRef{0});
    start.record();
    graph.replay();
    end.record();
    const double took = end.ms_since(start);
    if (n >= kWarmUp) ms.push_back(took);
  }
  std::sort(ms.begin(), ms.end());
  const auto at = [&](double part) {
    return ms[static_cast<std::size_t>(part * static_cast<double>(ms.size() - 1) + 0.5)];
  };
  return {at(0.5), at(0.99)};
}

Timing time_copy(GraphTimer& timer, const std::vector<double>& passes, Flush flush) {
  const auto options = torch::dtype(torch::kBFloat16).device(torch::kCUDA);
  std::vector<Tensor> from, to;
  for (const double bytes : passes) {
    from.push_back(torch::randn({static_cast<std::int64_t>(bytes / 4.0)}, options));
    to.push_back(torch::empty_like(from.back()));
  }
  const auto copy = [&] {
    for (std::size_t i = 0; i < from.size(); ++i) at::neg_out(to[i], from[i]);
  };
  return timer.time(copy, flush);
}

Ceilings measure_ceilings(GraphTimer& timer) {
  Ceilings out;
  {
    constexpr double kBytes = 4.0 * (1 << 30);
    const auto options = torch::dtype(torch::kUInt8).device(torch::kCUDA);
    const Tensor from = torch::randint(0, 256, {std::int64_t{2} << 30}, options);
    const Tensor to = torch::empty_like(from);
    // The better of the driver's copy and a kernel's.
    const Timing driver = timer.time([&] { to.copy_(from); });
    const Timing kernel = time_copy(timer, {kBytes}, Flush::kWritten);
    out.copy_gbps = kBytes / std::min(driver.median_ms, kernel.median_ms) / 1e6;
  }
  constexpr std::int64_t kSize = 8192;
  const auto options = torch::dtype(torch::kBFloat16).device(torch::kCUDA);
  const Tensor a = torch::randn({kSize, kSize}, options), b = torch::randn({kSize, kSize}, options);
  Tensor c = torch::empty_like(a);
  const Timing product = timer.time([&] { at::mm_out(c, a, b); });
  const double side = static_cast<double>(kSize);
  out.product_tflops = 2.0 * side * side * side / product.median_ms / 1e9;
  return out;
}

AttentionTiming time_attention(GraphTimer& timer, std::int64_t batch, std::int64_t heads,
                               std::int64_t tokens, std::int64_t dim) {
  at::Context& context = at::globalContext();
  context.setSDPUseCuDNN(true);
  context.setSDPUseFlash(false);
  context.setSDPUseMemEfficient(false);
  context.setSDPUseMath(false);
  const auto make = [&] {
    return torch::randn({batch, tokens, heads, dim},
                        torch::dtype(torch::kBFloat16).device(torch::kCUDA))
        .transpose(1, 2);
  };
  std::vector<Tensor> inputs = {make(), make(), make()};
  const Tensor upstream = make();
  const auto forward = [&] {
    return at::scaled_dot_product_attention(inputs[0], inputs[1], inputs[2], {}, 0.0,
                                            /*is_causal=*/true);
  };
  AttentionTiming out;
  {
    const torch::NoGradGuard no_grad;
    out.forward = timer.time([&] { forward(); });
  }
  for (Tensor& x : inputs) x.requires_grad_();
  const auto both = [&] { torch::autograd::grad({forward()}, inputs, {upstream}); };
  LRAM_CUDA_CHECK(cudaDeviceSynchronize());
  c10::cuda::CUDACachingAllocator::resetPeakStats(0);
  const double before = current_bytes();
  both();
  LRAM_CUDA_CHECK(cudaDeviceSynchronize());
  out.memory_bytes = peak_bytes() - before;
  out.both = timer.time(both);
  return out;
}

}  // namespace lram::kernels
