#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/mlstm/mlstm.h"

namespace lram::kernels {

/// What a kernel needs of the gates and masks of a problem.
struct GateArgs {
  int tokens = 0, heads = 0;
  bool sigmoid_gate = false;
  float soft_cap = 0;
  GateTensor i, f;
  const std::uint8_t* reset = nullptr;
  const std::int32_t* begin = nullptr;
  const std::int32_t* end = nullptr;
  const float* m0 = nullptr;  ///< [B, H]
};

inline GateArgs gate_args(const MlstmProblem& p) {
  return {p.tokens, p.heads, p.sigmoid_gate, p.gate_soft_cap, p.i,
          p.f,      p.reset, p.begin,        p.end,           p.initial.m};
}

__device__ inline float log_sigmoid(float x) { return fminf(x, 0.0f) - log1pf(expf(-fabsf(x))); }
__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ inline float soft_cap(float x, float cap) { return cap > 0 ? cap * tanhf(x / cap) : x; }
__device__ inline float soft_cap_slope(float x, float cap) {
  if (cap <= 0) return 1.0f;
  const float y = tanhf(x / cap);
  return 1.0f - y * y;
}

/// The gates of one head as D_ts = exp2(column[s] - row_max[t]) for start[t] <= s <= t, else 0.
/// With B_t the sum of log f up to t: column = i - B (log sigmoid(i) - B for the sigmoid gate) and
/// row_max the running maximum of it, which is m - B; all in units of log 2. m follows from the
/// gates alone, so scores need no rescaling.
struct GateTable {
  float* column;   ///< [rows]
  float* row_max;  ///< [rows]
  float* floor;    ///< [rows] exp(-m), or 1
  float* inter;    ///< [rows] weight of the initial state in the row
  int* start;  ///< [rows] first token of the row's segment; kNoToken in a row that does not count
};
constexpr int kNoToken = 1 << 30;

/// What a head's scan leaves behind its rows.
struct GateTotals {
  int begin = 0, end = 0;
  float m = 0;  ///< after the last token
};

/// One warp, at any time by all of its lanes. `rows` a multiple of 32 from `tokens` up.
__device__ inline GateTotals scan_gates(const GateArgs& a, int batch, int head, int rows,
                                        const GateTable& table) {
  constexpr unsigned kAll = 0xffffffffu;
  constexpr double kLog2e = 1.4426950408889634;
  const int lane = static_cast<int>(threadIdx.x % 32);
  GateTotals totals;
  totals.begin = a.begin != nullptr ? a.begin[batch] : 0;
  totals.end = a.end != nullptr ? a.end[batch] : a.tokens;
  const double m0 =
      a.m0 != nullptr ? static_cast<double>(a.m0[batch * a.heads + head]) * kLog2e : 0.0;
  double sum = 0, running_max = m0;  // of the tokens before this block
  int running_start = totals.begin, first_reset = kNoToken;
#pragma unroll 1
  for (int base = 0; base < rows; base += 32) {
    const int t = base + lane;
    const bool counts = t >= totals.begin && t < totals.end;
    float i = 0, f = 0;
    bool reset = false;
    if (counts) {
      i = a.i.data[batch * a.i.stride_b + t * a.i.stride_t + head * a.i.stride_h];
      f = a.f.data[batch * a.f.stride_b + t * a.f.stride_t + head * a.f.stride_h];
      reset = a.reset != nullptr && a.reset[static_cast<std::int64_t>(batch) * a.tokens + t] != 0;
      i = soft_cap(i, a.soft_cap);
      f = soft_cap(f, a.soft_cap);
    }
    const double log_f = counts ? static_cast<double>(log_sigmoid(f)) * kLog2e : 0.0;
    double b = log_f;
    int start = reset ? t : -1;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const double other = __shfl_up_sync(kAll, b, step);
      const int other_start = __shfl_up_sync(kAll, start, step);
      if (lane >= step) {
        b += other;
        start = max(start, other_start);
      }
    }
    b += sum;
    const bool carried = start < 0;
    if (carried) start = running_start;
    const unsigned resets = __ballot_sync(kAll, reset);
    if (first_reset == kNoToken && resets != 0) first_reset = base + __ffs(resets) - 1;
    const double column =
        (a.sigmoid_gate ? static_cast<double>(log_sigmoid(i)) : static_cast<double>(i)) * kLog2e -
        b;
    double row_max = -b;
    if (!a.sigmoid_gate) {
      // A fresh start is a state with m = 0 before the token.
      row_max = counts ? column : -1e300;
      if (reset) row_max = fmax(row_max, log_f - b);
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const double other = __shfl_up_sync(kAll, row_max, step);
        if (lane >= step && t - step >= start) row_max = fmax(row_max, other);
      }
      if (carried) row_max = fmax(row_max, running_max);
    }
    table.column[t] = static_cast<float>(column);
    table.row_max[t] = static_cast<float>(row_max);
    table.start[t] = counts ? start : kNoToken;
    table.floor[t] = a.sigmoid_gate ? 1.0f : exp2f(static_cast<float>(-(b + row_max)));
    table.inter[t] = counts && t < first_reset ? exp2f(static_cast<float>(m0 - row_max)) : 0.0f;
    sum = __shfl_sync(kAll, b, 31);
    running_max = __shfl_sync(kAll, row_max, 31);
    running_start = __shfl_sync(kAll, start, 31);
  }
  // Rows past the last token add nothing to either.
  totals.m = a.sigmoid_gate ? 0.0f : static_cast<float>((sum + running_max) / kLog2e);
  return totals;
}

}  // namespace lram::kernels
