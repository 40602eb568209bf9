#pragma once
#include <torch/types.h>

#include <functional>
#include <vector>

namespace lram::kernels {

struct Timing {
  double median_ms = 0.0, p99_ms = 0.0;
};

/// What the L2 cache holds before each replay, none of it of use to what is timed.
enum class Flush {
  /// Lines just written, as before Triton's do_bench: what is timed pays for bringing them to
  /// memory, some 5 us on an H200, while most that it writes itself is left to the next.
  kWritten,
  kRead,  ///< lines that are as in memory
};

/// Times what a function enqueues on torch's current stream: captured into a CUDA graph, replayed
/// between two events, the L2 cache flushed before each replay.
class GraphTimer {
 public:
  explicit GraphTimer(int repeats);
  Timing time(const std::function<void()>& enqueue, Flush flush = Flush::kWritten);

 private:
  int repeats_;
  torch::Tensor written_, read_, sum_;
};

/// What this GPU does at most, measured now.
struct Ceilings {
  double copy_gbps = 0.0;       ///< 2 GiB copied, bytes read plus bytes written
  double product_tflops = 0.0;  ///< bf16 product 8192^3 of random numbers
};
Ceilings measure_ceilings(GraphTimer& timer);

/// Copies by one kernel for each of `passes`, which moves that many bytes in all, half of them
/// read.
Timing time_copy(GraphTimer& timer, const std::vector<double>& passes, Flush flush);

/// Causal attention by cuDNN through LibTorch's SDPA, bf16, [B, H, T, d] views of [B, T, H, d].
struct AttentionTiming {
  Timing forward, both;
  double memory_bytes = 0.0;  ///< peak of forward and backward above the inputs
};
/// Throws c10::Error where cuDNN does not take the shape.
AttentionTiming time_attention(GraphTimer& timer, std::int64_t batch, std::int64_t heads,
                               std::int64_t tokens, std::int64_t dim);

}  // namespace lram::kernels
