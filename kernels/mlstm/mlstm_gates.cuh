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
// __fdividef: 2 ulp, and without the call that a full division makes out of registers.
__device__ inline float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }
__device__ inline float soft_cap(float x, float cap) {
  return cap > 0 ? cap * tanhf(__fdividef(x, cap)) : x;
}
__device__ inline float soft_cap_slope(float x, float cap) {
  if (cap <= 0) return 1.0f;
  const float y = tanhf(__fdividef(x, cap));
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

/// A head's gates as they lie in memory: element j is of token lane + 32 j.
template <int kPerLane>
struct GateInputs {
  float i[kPerLane], f[kPerLane];
  unsigned resets;  ///< bit j
};

/// All loads of a lane at once, so that a head costs one latency of the memory.
template <int kPerLane>
__device__ inline GateInputs<kPerLane> load_gates(const GateArgs& a, int batch, int head) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  GateInputs<kPerLane> in;
  in.resets = 0;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const int t = lane + 32 * j;
    const bool there = t < a.tokens;
    in.i[j] = there ? a.i.data[batch * a.i.stride_b + t * a.i.stride_t + head * a.i.stride_h] : 0;
    in.f[j] = there ? a.f.data[batch * a.f.stride_b + t * a.f.stride_t + head * a.f.stride_h] : 0;
  }
  if (a.reset == nullptr) return in;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const int t = lane + 32 * j;
    if (t < a.tokens && a.reset[static_cast<std::int64_t>(batch) * a.tokens + t] != 0) {
      in.resets |= 1u << j;
    }
  }
  return in;
}

/// One warp, at any time by all of its lanes, for 32 kPerLane rows (at least as many as tokens). A
/// lane has kPerLane tokens in a row, so that a head costs one round of shuffles.
template <int kPerLane>
__device__ inline GateTotals scan_gates(const GateArgs& a, int batch, int head,
                                        const GateTable& table) {
  constexpr unsigned kAll = 0xffffffffu;
  constexpr double kLog2e = 1.4426950408889634, kLowest = -1e300;
  const int lane = static_cast<int>(threadIdx.x % 32), first = lane * kPerLane;
  GateTotals totals;
  totals.begin = a.begin != nullptr ? a.begin[batch] : 0;
  totals.end = a.end != nullptr ? a.end[batch] : a.tokens;
  const double m0 = a.m0 != nullptr ? a.m0[batch * a.heads + head] : 0.0f;
  // The gates' logarithms, side by side; `inter`, `floor` and `start` hold i, f and marks until the
  // end.
  constexpr int kCounts = 1, kReset = 2;
  const GateInputs<kPerLane> in = load_gates<kPerLane>(a, batch, head);
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    table.inter[lane + 32 * j] = in.i[j];
    table.floor[lane + 32 * j] = in.f[j];
  }
#pragma unroll 1
  for (int j = 0; j < kPerLane; ++j) {
    const int t = lane + 32 * j;
    float i = 0, f = 0;
    int mark = 0;
    if (t >= totals.begin && t < totals.end) {
      mark = kCounts + ((in.resets >> j & 1) != 0 ? kReset : 0);
      f = log_sigmoid(soft_cap(table.floor[t], a.soft_cap));
      i = soft_cap(table.inter[t], a.soft_cap);
      if (a.sigmoid_gate) i = log_sigmoid(i);
    }
    table.inter[t] = i;
    table.floor[t] = f;
    table.start[t] = mark;
  }
  __syncwarp();
  // log f of the lane, then of the lanes before it.
  double sum = 0;
#pragma unroll 1
  for (int t = first; t < first + kPerLane; ++t) sum += table.floor[t];
  double before = sum;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const double other = __shfl_up_sync(kAll, before, step);
    if (lane >= step) before += other;
  }
  const double total = __shfl_sync(kAll, before, 31);
  before -= sum;
  // The segment that goes on into the next lane: its first token (or -1: it came in) and maximum.
  int start = -1;
  double row_max = kLowest, b = before;
#pragma unroll 1
  for (int t = first; t < first + kPerLane; ++t) {
    const int mark = table.start[t];
    const double b_before = b;
    b += table.floor[t];
    if ((mark & kReset) != 0) {
      start = t;
      row_max = -b_before;  // a fresh start is a state with m = 0
    }
    if (mark != 0) row_max = fmax(row_max, table.inter[t] - b);
  }
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const double other_max = __shfl_up_sync(kAll, row_max, step);
    const int other_start = __shfl_up_sync(kAll, start, step);
    if (lane >= step && start < 0) {
      row_max = fmax(row_max, other_max);
      start = other_start;
    }
  }
  double incoming_max = __shfl_up_sync(kAll, row_max, 1);
  int incoming_start = __shfl_up_sync(kAll, start, 1);
  if (lane == 0) {
    incoming_max = kLowest;
    incoming_start = -1;
  }
  // No reset before: the state given, or a fresh one.
  bool fresh_before = incoming_start >= 0;
  if (!fresh_before) incoming_max = fmax(incoming_max, m0);
  int running_start = fresh_before ? incoming_start : totals.begin;
  double running_max = incoming_max;
  b = before;
#pragma unroll 1
  for (int t = first; t < first + kPerLane; ++t) {
    const int mark = table.start[t];
    const double b_before = b;
    b += table.floor[t];
    if ((mark & kReset) != 0) {
      running_start = t;
      running_max = -b_before;
      fresh_before = true;
    }
    const double column = table.inter[t] - b;
    if (mark != 0) running_max = fmax(running_max, column);
    const double of_row = a.sigmoid_gate ? -b : running_max;
    table.column[t] = static_cast<float>(column * kLog2e);
    table.row_max[t] = static_cast<float>(of_row * kLog2e);
    table.start[t] = mark != 0 ? running_start : kNoToken;
    table.floor[t] = a.sigmoid_gate ? 1.0f : exp2f(static_cast<float>(-(b + running_max) * kLog2e));
    table.inter[t] =
        mark != 0 && !fresh_before ? exp2f(static_cast<float>((m0 - of_row) * kLog2e)) : 0.0f;
  }
  // Tokens past the last one add nothing to either.
  totals.m = a.sigmoid_gate ? 0.0f : static_cast<float>(total + __shfl_sync(kAll, running_max, 31));
  return totals;
}

/// What the backward sums for each token of a head, [rows]. gate_gradients works in place, and in
/// the table's column and row_max.
struct GateSums {
  float* q_dq;
  float* k_dk;        ///< without the part of the final state's gradient
  float* k_dk_state;  ///< that part, or null where the final state has no gradient
};

/// di and df of a head by one warp (kernels.md 2.4), for 32 kPerLane rows: the gradient of log f_t
/// is the sum of q.dq - k.dk over the tokens from t to the end of its segment and, in the last one,
/// of k_dk_state over those before t and of what the initial state carries through, weight x
/// `carried`.
template <int kPerLane>
__device__ inline void gate_gradients(const GateArgs& a, const GateInputs<kPerLane>& in,
                                      const GateTensor& di, const GateTensor& df, int batch,
                                      int head, const GateTable& gates, const GateSums& sums,
                                      float carried) {
  constexpr unsigned kAll = 0xffffffffu;
  const int lane = static_cast<int>(threadIdx.x % 32), first = lane * kPerLane;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    gates.column[lane + 32 * j] = in.i[j];
    gates.row_max[lane + 32 * j] = in.f[j];
  }
  const int last_row = first + kPerLane - 1;
  // A lane's share of the segment that it begins with goes to the lanes before.
  double suffix = 0;
  bool whole = true;  // the lane holds one segment only
#pragma unroll 1
  for (int t = last_row; t >= first; --t) {
    const int start = gates.start[t];
    if (t < last_row && start != gates.start[t + 1]) {
      suffix = 0;
      whole = false;
    }
    if (start != kNoToken) suffix += static_cast<double>(sums.q_dq[t]) - sums.k_dk[t];
  }
  const int next = __shfl_down_sync(kAll, gates.start[first], 1);
  const bool goes_on = lane < 31 && next == gates.start[last_row];
  bool open = whole && goes_on;  // what follows the lanes summed so far still belongs to it
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const double other = __shfl_down_sync(kAll, suffix, step);
    const int other_open = __shfl_down_sync(kAll, static_cast<int>(open), step);
    if (open && lane + step < 32) {
      suffix += other;
      open = other_open != 0;
    }
  }
  double sum = __shfl_down_sync(kAll, suffix, 1);
  if (!goes_on) sum = 0;
    // q_dq becomes the gradient of log f, k_dk that of log i.
#pragma unroll 1
  for (int t = last_row; t >= first; --t) {
    const int start = gates.start[t];
    if (t < last_row && start != gates.start[t + 1]) sum = 0;
    if (start != kNoToken) sum += static_cast<double>(sums.q_dq[t]) - sums.k_dk[t];
    sums.q_dq[t] = static_cast<float>(sum);
  }
  if (sums.k_dk_state != nullptr) {
    const int end = a.end != nullptr ? a.end[batch] : a.tokens;
    const int last = end > 0 ? gates.start[end - 1] : kNoToken;
    const bool counts = last != kNoToken;
    double own = 0;
#pragma unroll 1
    for (int t = first; t <= last_row; ++t) {
      if (gates.start[t] == last && counts) own += sums.k_dk_state[t];
    }
    double entered = own;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const double other = __shfl_up_sync(kAll, entered, step);
      if (lane >= step) entered += other;
    }
    entered -= own;
    if (counts) entered += static_cast<double>(gates.inter[end - 1]) * carried;
#pragma unroll 1
    for (int t = first; counts && t <= last_row; ++t) {
      if (gates.start[t] != last) continue;
      sums.q_dq[t] += static_cast<float>(entered);
      sums.k_dk[t] += sums.k_dk_state[t];
      entered += sums.k_dk_state[t];
    }
  }
  __syncwarp();
  const auto at = [&](const GateTensor& x, int t) {
    return batch * x.stride_b + t * x.stride_t + head * x.stride_h;
  };
#pragma unroll 1
  for (int j = 0; j < kPerLane; ++j) {
    const int t = lane + 32 * j;
    if (t >= a.tokens) break;
    float to_i = 0, to_f = 0;
    if (gates.start[t] != kNoToken) {
      const float i = gates.column[t], f = gates.row_max[t];
      to_i = sums.k_dk[t] * soft_cap_slope(i, a.soft_cap);
      if (a.sigmoid_gate) to_i *= sigmoid(-soft_cap(i, a.soft_cap));
      to_f = sums.q_dq[t] * sigmoid(-soft_cap(f, a.soft_cap)) * soft_cap_slope(f, a.soft_cap);
      if ((in.resets >> j & 1) != 0) to_f = 0;
    }
    di.data[at(di, t)] = to_i;
    df.data[at(df, t)] = to_f;
  }
}

}  // namespace lram::kernels
