// Gates of the tiled form: what D needs for all tokens of a head before the scores, and di and df
// from the sums behind them. A block of 256 threads walks a head 256 tokens at a time, a token to a
// thread: scans in double (b_t - b_s cancels), handed on from stretch to stretch.
#include "kernels/common/cuda_check.h"
#include "kernels/common/launch.cuh"
#include "kernels/mlstm/mlstm_gates.cuh"
#include "kernels/mlstm/mlstm_tiled.h"

namespace lram::kernels::mlstm_tiled {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr unsigned kAll = 0xffffffffu;
constexpr double kLog2e = 1.4426950408889634, kLowest = -1e300;

__device__ inline float gate_at(const GateTensor& x, int batch, int t, int head) {
  return x.data[batch * x.stride_b + t * x.stride_t + head * x.stride_h];
}

__global__ void __launch_bounds__(kThreads) gates_kernel(GateArgs a, int rows, Gates out) {
  __shared__ double sums[kWarps], maxima[kWarps], last_max;
  __shared__ int starts[kWarps], last_start;
  const int head = static_cast<int>(blockIdx.x), batch = head / a.heads, h = head % a.heads;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int begin = a.begin != nullptr ? a.begin[batch] : 0;
  const int end = a.end != nullptr ? a.end[batch] : a.tokens;
  const std::int64_t base = static_cast<std::int64_t>(head) * rows;
  // What comes into a stretch: the sum of log f, and the running segment's maximum and first token.
  // A fresh start is a state with m = 0.
  double carried_b = 0, carried_max = 0;
  int carried_start = begin;
  for (int first = 0; first < rows; first += kThreads) {
    const int t = first + static_cast<int>(threadIdx.x);
    const bool counts = t >= begin && t < end;
    double log_i = 0, log_f = 0;
    bool reset = false;
    if (counts) {
      const float i = soft_cap(gate_at(a.i, batch, t, h), a.soft_cap);
      log_f = log_sigmoid(soft_cap(gate_at(a.f, batch, t, h), a.soft_cap));
      log_i = a.sigmoid_gate ? log_sigmoid(i) : i;
      reset = a.reset != nullptr && a.reset[static_cast<std::int64_t>(batch) * a.tokens + t] != 0;
    }
    double b = log_f;
    for (int step = 1; step < 32; step *= 2) {
      const double other = __shfl_up_sync(kAll, b, step);
      if (lane >= step) b += other;
    }
    if (lane == 31) sums[warp] = b;
    __syncthreads();
    double total = carried_b;
    for (int w = 0; w < kWarps; ++w) {
      if (w == warp) b += total;
      total += sums[w];
    }
    const double column = log_i - b;
    double top = !counts ? kLowest : reset ? fmax(log_f - b, column) : column;
    int start = reset ? t : -1;  // -1: the segment came in
    for (int step = 1; step < 32; step *= 2) {
      const double other_top = __shfl_up_sync(kAll, top, step);
      const int other_start = __shfl_up_sync(kAll, start, step);
      if (lane >= step && start < 0) {
        top = fmax(top, other_top);
        start = other_start;
      }
    }
    if (lane == 31) {
      maxima[warp] = top;
      starts[warp] = start;
    }
    __syncthreads();
    double incoming_max = carried_max;
    int incoming_start = carried_start;
    for (int w = 0; w < warp; ++w) {
      const bool cut = starts[w] >= 0;
      incoming_max = cut ? maxima[w] : fmax(incoming_max, maxima[w]);
      incoming_start = cut ? starts[w] : incoming_start;
    }
    if (start < 0) {
      top = fmax(top, incoming_max);
      start = incoming_start;
    }
    if (threadIdx.x == kThreads - 1) {
      last_max = top;
      last_start = start;
    }
    const double of_row = a.sigmoid_gate ? -b : top;
    out.column[base + t] = static_cast<float>(column * kLog2e);
    out.row_max[base + t] = static_cast<float>(of_row * kLog2e);
    out.floor[base + t] = a.sigmoid_gate ? 1.0f : exp2f(static_cast<float>(-(b + top) * kLog2e));
    out.start[base + t] = counts ? start : kNoToken;
    __syncthreads();
    carried_b = total;
    carried_max = last_max;
    carried_start = last_start;
  }
}

struct GradientArgs {
  int rows, parts;
  std::int64_t part;
  const int* start;
  const float *q_dq, *k_dk;
  GateTensor di, df;
};

__global__ void __launch_bounds__(kThreads) gate_gradients_kernel(GateArgs a, GradientArgs g) {
  __shared__ double sums[kWarps], first_sum;
  __shared__ int cuts[kWarps];
  const int head = static_cast<int>(blockIdx.x), batch = head / a.heads, h = head % a.heads;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const std::int64_t base = static_cast<std::int64_t>(head) * g.rows;
  double carried =
      0;  // the sum over the tokens behind the stretch, whose segment may go on into it
  for (int first = g.rows - kThreads; first >= 0; first -= kThreads) {
    const int t = first + static_cast<int>(threadIdx.x);
    const int start = g.start[base + t];
    const bool counts = start != kNoToken;
    float q_dq = 0, k_dk = 0;
    for (int part = 0; counts && part < g.parts; ++part) {
      q_dq += g.q_dq[part * g.part + base + t];
      k_dk += g.k_dk[part * g.part + base + t];
    }
    double sum = static_cast<double>(q_dq) - k_dk;
    bool cut = t + 1 == g.rows || g.start[base + t + 1] != start;  // the segment ends with t
    for (int step = 1; step < 32; step *= 2) {
      const double other = __shfl_down_sync(kAll, sum, step);
      const int other_cut = __shfl_down_sync(kAll, static_cast<int>(cut), step);
      if (lane + step < 32 && !cut) {
        sum += other;
        cut = other_cut != 0;
      }
    }
    if (lane == 0) {
      sums[warp] = sum;
      cuts[warp] = cut;
    }
    __syncthreads();
    double behind = carried;
    for (int w = kWarps - 1; w > warp; --w) behind = cuts[w] != 0 ? sums[w] : sums[w] + behind;
    if (!cut) sum += behind;
    if (threadIdx.x == 0) first_sum = sum;
    if (t < a.tokens) {
      float to_i = 0, to_f = 0;
      if (counts) {
        const float i = gate_at(a.i, batch, t, h), f = gate_at(a.f, batch, t, h);
        to_i = k_dk * soft_cap_slope(i, a.soft_cap);
        if (a.sigmoid_gate) to_i *= sigmoid(-soft_cap(i, a.soft_cap));
        to_f = static_cast<float>(sum) * sigmoid(-soft_cap(f, a.soft_cap)) *
               soft_cap_slope(f, a.soft_cap);
        if (start == t && a.reset != nullptr &&
            a.reset[static_cast<std::int64_t>(batch) * a.tokens + t] != 0) {
          to_f = 0;  // what was before the token is gone
        }
      }
      g.di.data[batch * g.di.stride_b + t * g.di.stride_t + h * g.di.stride_h] = to_i;
      g.df.data[batch * g.df.stride_b + t * g.df.stride_t + h * g.df.stride_h] = to_f;
    }
    __syncthreads();
    carried = first_sum;
  }
}

}  // namespace

void launch_gates(const MlstmProblem& p, const Sizes& n, const Gates& gates, cudaStream_t stream) {
  launch_kernel(gates_kernel, n.heads, kThreads, 0, stream, gate_args(p), n.rows, gates);
  LRAM_CUDA_CHECK_LAUNCH("mlstm_tiled gates");
}

void launch_gate_gradients(const MlstmBackward& b, const Sizes& n, const Workspace& workspace) {
  const GradientArgs args{n.rows,         n.key_slices,   n.part, workspace.gates.start,
                          workspace.q_dq, workspace.k_dk, b.di,   b.df};
  launch_kernel(gate_gradients_kernel, n.heads, kThreads, 0, b.stream, gate_args(b.problem), args);
  LRAM_CUDA_CHECK_LAUNCH("mlstm_tiled gate gradients");
}

}  // namespace lram::kernels::mlstm_tiled
