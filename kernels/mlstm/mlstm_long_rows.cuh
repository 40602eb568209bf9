#pragma once
#include "kernels/mlstm/mlstm_long_gates.cuh"

/// What the backward of the long form does to rows around its sweeps, the same on both paths: dh .
/// h, the gates' gradients, and zeros where no token counts (the forward too).
namespace lram::kernels::mlstm_long {

namespace {

template <typename T>
__device__ float to_float(T x) {
  return static_cast<float>(x);
}

struct RowDotArgs {
  HeadTensor a, b;  ///< the factors, or none where `given` has the products
  GateTensor given;
  const float* sign;
  const std::int32_t *begin, *end;
  int batch, tokens, heads, chunks, dim;
  float* out;  ///< [B H, positions] -(a . b) sign
};
/// One warp to a token and head.
template <typename T>
__global__ void row_dots(RowDotArgs a) {
  const std::int64_t row = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t head_rows = static_cast<std::int64_t>(a.tokens) * a.heads;
  const int b = static_cast<int>(row / head_rows), h = static_cast<int>(row % a.heads);
  if (b >= a.batch) return;
  const int token = static_cast<int>(row % head_rows / a.heads);
  const Span span = span_of(a.begin, a.end, b, a.tokens);
  if (token < span.begin || token >= span.end) return;
  const std::int64_t position =
      (static_cast<std::int64_t>(b) * a.heads + h) * a.chunks * kChunk + token - span.begin;
  const float sign = a.sign[position];
  float sum = 0;
  if (a.given.data != nullptr) {
    sum = a.given.data[b * a.given.stride_b + token * a.given.stride_t + h * a.given.stride_h];
  } else {
    const T* x = static_cast<const T*>(a.a.data) + b * a.a.stride_b + token * a.a.stride_t +
                 h * a.a.stride_h;
    const T* y = static_cast<const T*>(a.b.data) + b * a.b.stride_b + token * a.b.stride_t +
                 h * a.b.stride_h;
    constexpr int kWide = 16 / sizeof(T);
    for (int d = lane * kWide; d < a.dim; d += 32 * kWide) {
      const uint4 wide_x = *reinterpret_cast<const uint4*>(x + d);
      const uint4 wide_y = *reinterpret_cast<const uint4*>(y + d);
      const T* ex = reinterpret_cast<const T*>(&wide_x);
      const T* ey = reinterpret_cast<const T*>(&wide_y);
#pragma unroll
      for (int e = 0; e < kWide; ++e) sum += to_float(ex[e]) * to_float(ey[e]);
    }
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(kAllLanes, sum, d);
  }
  if (lane == 0) a.out[position] = sign == 0 ? 0.0f : -sum * sign;
}
template <typename T>
void launch_row_dots(const RowDotArgs& a, cudaStream_t stream) {
  const std::int64_t rows = static_cast<std::int64_t>(a.batch) * a.tokens * a.heads;
  launch_kernel(row_dots<T>, static_cast<unsigned>((rows + 7) / 8), 256, 0, stream, a);
  LRAM_CUDA_CHECK_LAUNCH("row_dots");
}

struct GateGradientArgs {
  GateArgs gates;
  const float *q_dot, *k_dot;  ///< [parts, B H, positions] q . dq and k . dk, in parts
  const float* k_off;          ///< what q_dot's counterpart is, where that is not k_dot; or null
  /// [k_parts, B H, 64] what the last chunk's k . dk has through the final state, if k_off goes
  /// without it; state_dot then holds <C, dC> of the C before that chunk. Or null.
  const float* final_inter;
  int q_parts, k_parts;
  std::int64_t part_stride;
  const float* state_dot;  ///< [B H, checkpoints, state_parts] <C, dC> behind each checkpoint
  int state_parts, checkpoints;
  const float* final_rest;  ///< [B H, rest_parts] more of <C, dC> behind the last chunk; or null
  int rest_parts;
  bool final_gradient;  ///< dfinal is given, so the last chunk's end has a <C, dC> too
  GateTensor di, df;
};
/// di and df, one warp to the chunks between two checkpoints, backwards. In exact arithmetic what
/// lies behind a document's end adds up to 0; the scan stops there.
__global__ void gate_gradients(GateGradientArgs a) {
  const std::int64_t index =
      (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t head = index / a.checkpoints;
  const std::int64_t heads = static_cast<std::int64_t>(a.gates.batch) * a.gates.heads;
  const int checkpoint = static_cast<int>(index % a.checkpoints);
  const int b = static_cast<int>(head / a.gates.heads), h = static_cast<int>(head % a.gates.heads);
  const GateArgs& g = a.gates;
  const Span span = span_of(g.begin, g.end, b, g.tokens);
  const int chunks = span.chunks(), from = checkpoint * kChunksPerCheckpoint;
  if (from >= chunks) return;
  const int to = min(chunks, from + kChunksPerCheckpoint);
  float carry = 0;
  if (to < chunks || a.final_gradient) {
    for (int part = lane; part < a.state_parts; part += 32) {
      carry += a.state_dot[index * a.state_parts + part];
    }
    for (int part = lane; to == chunks && a.final_rest != nullptr && part < a.rest_parts;
         part += 32) {
      carry += a.final_rest[head * a.rest_parts + part];
    }
    for (int d = 16; d > 0; d /= 2) carry += __shfl_xor_sync(kAllLanes, carry, d);
  }
  for (int chunk = to - 1; chunk >= from; --chunk) {
    const int count = min(kChunk, span.tokens() - chunk * kChunk);
    float x[2] = {0, 0}, k_dk[2] = {0, 0}, k_off[2] = {0, 0}, earlier[2] = {0, 0};
    const bool apart = a.final_inter != nullptr && chunk == chunks - 1;
    bool reset[2] = {false, false};
    for (int e = 0; e < 2; ++e) {
      const int place = 2 * lane + e;
      if (place >= count) continue;
      const std::int64_t position = head * g.chunks * kChunk + chunk * kChunk + place;
      for (int part = 0; part < a.q_parts; ++part) x[e] += a.q_dot[part * a.part_stride + position];
      for (int part = 0; part < a.k_parts; ++part)
        k_dk[e] += a.k_dot[part * a.part_stride + position];
      for (int part = 0; part < a.k_parts && a.k_off != nullptr; ++part)
        k_off[e] += a.k_off[part * a.part_stride + position];
      x[e] -= a.k_off != nullptr ? k_off[e] : k_dk[e];
      for (int part = 0; part < a.k_parts && apart; ++part)
        earlier[e] += a.final_inter[(part * heads + head) * kChunk + place];
      const std::int64_t token = span.begin + chunk * kChunk + place;
      reset[e] =
          g.reset != nullptr && g.reset[static_cast<std::int64_t>(b) * g.tokens + token] != 0;
    }
    // Suffix sums that stop before a reset: `cut` says that the lane's tokens hold one.
    float sum = x[0] + (reset[1] ? 0.0f : x[1]);
    bool cut = reset[1];
    bool starts = reset[0];  // a reset at the lane's first token cuts the lanes before off
    // Fold "starts" into the handed-on value: what reaches lane - 1 is 0 and nothing behind it.
    float handed = starts ? 0.0f : sum;
    bool closed = starts || cut;
    for (int d = 1; d < 32; d *= 2) {
      const float other = __shfl_down_sync(kAllLanes, handed, d);
      const bool other_closed = __shfl_down_sync(kAllLanes, static_cast<int>(closed), d) != 0;
      if (lane + d < 32 && !closed) {
        handed += other;
        closed = other_closed;
      }
    }
    if (!closed) handed += carry;
    float behind = __shfl_down_sync(kAllLanes, handed, 1);
    if (lane == 31) behind = carry;
    float total1 = x[1] + behind;
    float total0 = x[0] + (reset[1] ? 0.0f : total1);
    if (apart) {
      // What earlier tokens put into the final state passes this one's forget gate. Nothing of it
      // comes from before a reset: those tokens' weights are 0.
      float sum = earlier[0] + earlier[1];
      for (int d = 1; d < 32; d *= 2) {
        const float other = __shfl_up_sync(kAllLanes, sum, d);
        if (lane >= d) sum += other;
      }
      float before = __shfl_up_sync(kAllLanes, sum, 1);
      if (lane == 0) before = 0;
      total0 += before;
      total1 += before + earlier[0];
    }
    carry = __shfl_sync(kAllLanes, handed, 0);
    for (int e = 0; e < 2; ++e) {
      if (2 * lane + e >= count) continue;
      const std::int64_t token = span.begin + chunk * kChunk + 2 * lane + e;
      const float i = g.i.data[b * g.i.stride_b + token * g.i.stride_t + h * g.i.stride_h];
      const float f = g.f.data[b * g.f.stride_b + token * g.f.stride_t + h * g.f.stride_h];
      float di = k_dk[e] * cap_slope(i, g.soft_cap);
      if (g.sigmoid_gate) di *= sigmoid(-capped(i, g.soft_cap));
      float df =
          (e == 0 ? total0 : total1) * sigmoid(-capped(f, g.soft_cap)) * cap_slope(f, g.soft_cap);
      if (reset[e]) df = 0;
      a.di.data[b * a.di.stride_b + token * a.di.stride_t + h * a.di.stride_h] = di;
      a.df.data[b * a.df.stride_b + token * a.df.stride_t + h * a.df.stride_h] = df;
    }
  }
}
inline void launch_gate_gradients(const GateGradientArgs& a, const Sizes& n, cudaStream_t stream) {
  const std::size_t warps = n.sequences() * static_cast<std::size_t>(n.checkpoints);
  launch_kernel(gate_gradients, static_cast<unsigned>(warps), 32, 0, stream, a);
  LRAM_CUDA_CHECK_LAUNCH("gate_gradients");
}

struct ZeroArgs {
  HeadTensor rows[3];
  int dims[3];
  GateTensor gates[2];
  const std::int32_t *begin, *end;
  int tokens, heads;
};
/// Zeros in what the sweeps do not write: rows of tokens outside [begin, end), one block to a
/// token.
template <typename T>
__global__ void zero_outside(ZeroArgs a) {
  const auto tokens = static_cast<unsigned>(a.tokens);
  const int b = static_cast<int>(blockIdx.x / tokens),
            token = static_cast<int>(blockIdx.x % tokens);
  const Span span = span_of(a.begin, a.end, b, a.tokens);
  if (token >= span.begin && token < span.end) return;
  for (int tensor = 0; tensor < 3; ++tensor) {
    if (a.rows[tensor].data == nullptr) continue;
    for (int d = static_cast<int>(threadIdx.x); d < a.heads * a.dims[tensor];
         d += static_cast<int>(blockDim.x)) {
      const int h = d / a.dims[tensor];
      static_cast<T*>(
          a.rows[tensor].data)[b * a.rows[tensor].stride_b + token * a.rows[tensor].stride_t +
                               h * a.rows[tensor].stride_h + d % a.dims[tensor]] = T(0.0f);
    }
  }
  for (const GateTensor& gate : a.gates) {
    if (gate.data == nullptr) continue;
    for (int h = static_cast<int>(threadIdx.x); h < a.heads; h += static_cast<int>(blockDim.x)) {
      gate.data[b * gate.stride_b + token * gate.stride_t + h * gate.stride_h] = 0;
    }
  }
}
template <typename T>
void launch_zero_outside(const ZeroArgs& a, int batch, cudaStream_t stream) {
  if (a.begin == nullptr && a.end == nullptr) return;
  launch_kernel(zero_outside<T>, static_cast<unsigned>(a.tokens) * static_cast<unsigned>(batch),
                128, 0, stream, a);
  LRAM_CUDA_CHECK_LAUNCH("zero_outside");
}

}  // namespace
}  // namespace lram::kernels::mlstm_long
