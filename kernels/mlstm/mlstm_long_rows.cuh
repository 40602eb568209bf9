#pragma once
#include <cfloat>

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
  bool initial_state;   ///< given, so the first token's forget gate has a gradient
  GateTensor di, df;
};

constexpr int kWindow = kChunksPerCheckpoint * kChunk;  // tokens between two checkpoints
constexpr int kRun = kWindow / 32;  // of them, one after the other, a lane's own
/// A lane's run begins a bank behind its neighbour's.
__device__ inline int padded(int place) { return place + place / kRun; }

/// The sum that all lanes get.
__device__ inline float total_of(const float* parts, int count) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float sum = 0;
  for (int part = lane; part < count; part += 32) sum += parts[part];
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(kAllLanes, sum, d);
  return sum;
}

/// di and df, one warp to the tokens between two checkpoints. The gradient of a log forget gate is
/// the sum of x = q . dq - k . dk over its token and those behind it in the document, and <C, dC>
/// behind the window where the document goes on. Both ends are known: that sum is <C, dC> before
/// the window's first token too, and 0 at a document's first. q . dq and k . dk are rounded apart,
/// so the sum drifts from the one to the other; what it lacks at the far end is spread over the
/// tokens by their share of the squares, as a random walk between two known ends is corrected.
__global__ void gate_gradients(GateGradientArgs a) {
  __shared__ float sums[kWindow + 32], squares[kWindow + 32], before[kChunk];
  __shared__ bool resets[kWindow + 32];
  const std::int64_t index =
      (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t head = index / a.checkpoints;
  const std::int64_t heads = static_cast<std::int64_t>(a.gates.batch) * a.gates.heads;
  const int checkpoint = static_cast<int>(index % a.checkpoints);
  const int b = static_cast<int>(head / a.gates.heads), h = static_cast<int>(head % a.gates.heads);
  const GateArgs& g = a.gates;
  const Span span = span_of(g.begin, g.end, b, g.tokens);
  const int first = checkpoint * kWindow;
  if (first >= span.tokens()) return;
  const bool is_last = first + kWindow >= span.tokens();
  const int count = is_last ? span.tokens() - first : kWindow;
  const int last_chunk = (count - 1) / kChunk * kChunk;  // its first place
  const bool apart = a.final_inter != nullptr && is_last;
  const auto gate = [&](const GateTensor& x, int place) -> float& {
    return x.data[b * x.stride_b + (span.begin + first + place) * x.stride_t + h * x.stride_h];
  };

  for (int place = lane; place < kWindow; place += 32) {
    float q_dq = 0, k_dk = 0, k_off = 0;
    bool reset = false;
    if (place < count) {
      const std::int64_t position = head * g.chunks * kChunk + first + place;
      for (int part = 0; part < a.q_parts; ++part) q_dq += a.q_dot[part * a.part_stride + position];
      for (int part = 0; part < a.k_parts; ++part) k_dk += a.k_dot[part * a.part_stride + position];
      for (int part = 0; part < a.k_parts && a.k_off != nullptr; ++part)
        k_off += a.k_off[part * a.part_stride + position];
      reset = g.reset != nullptr &&
              g.reset[static_cast<std::int64_t>(b) * g.tokens + span.begin + first + place] != 0;
      const float i = gate(g.i, place);
      float di = k_dk * cap_slope(i, g.soft_cap);
      if (g.sigmoid_gate) di *= sigmoid(-capped(i, g.soft_cap));
      gate(a.di, place) = di;
    }
    const float k_part = a.k_off != nullptr ? k_off : k_dk;
    sums[padded(place)] = q_dq - k_part;
    squares[padded(place)] = q_dq * q_dq + k_part * k_part;
    resets[padded(place)] = reset;
  }
  if (apart) {
    // What earlier tokens put into the final state passes a token's forget gate. Nothing of it
    // comes from before a reset: those tokens' weights are 0.
    float earlier[2] = {0, 0};
    for (int e = 0; e < 2; ++e)
      for (int part = 0; part < a.k_parts && last_chunk + 2 * lane + e < count; ++part)
        earlier[e] += a.final_inter[(part * heads + head) * kChunk + 2 * lane + e];
    float sum = earlier[0] + earlier[1];
    for (int d = 1; d < 32; d *= 2) {
      const float other = __shfl_up_sync(kAllLanes, sum, d);
      if (lane >= d) sum += other;
    }
    before[2 * lane] = sum - earlier[1] - earlier[0];
    before[2 * lane + 1] = sum - earlier[1];
  }
  __syncwarp();

  // Sums over a token and those behind it in its document, first of whole runs.
  const int run = lane * kRun;
  float sum = 0, square = 0;
  bool closed = false;
  for (int place = run + kRun - 1; place >= run; --place) {
    const bool reset = resets[padded(place)];
    sum = reset ? 0.0f : sum + sums[padded(place)];
    square = reset ? 0.0f : square + squares[padded(place)];
    closed = closed || reset;
  }
  for (int d = 1; d < 32; d *= 2) {
    const float sum_behind = __shfl_down_sync(kAllLanes, sum, d);
    const float square_behind = __shfl_down_sync(kAllLanes, square, d);
    const bool closed_behind = __shfl_down_sync(kAllLanes, static_cast<int>(closed), d) != 0;
    if (lane + d < 32 && !closed) {
      sum += sum_behind;
      square += square_behind;
      closed = closed_behind;
    }
  }
  float carry = 0;
  if (!is_last || a.final_gradient)
    carry = total_of(a.state_dot + index * a.state_parts, a.state_parts);
  if (is_last && a.final_gradient && a.final_rest != nullptr)
    carry += total_of(a.final_rest + head * a.rest_parts, a.rest_parts);
  if (!closed) sum += carry;
  sum = __shfl_down_sync(kAllLanes, sum, 1);
  square = __shfl_down_sync(kAllLanes, square, 1);
  if (lane == 31) sum = carry, square = 0;
  float drift = 0, spread = 0;  // of the last document that begins in the run
  bool found = false;
  for (int place = run + kRun - 1; place >= run; --place) {
    sum += sums[padded(place)];
    square += squares[padded(place)];
    sums[padded(place)] = sum;
    squares[padded(place)] = square;
    if (!resets[padded(place)]) continue;
    if (!found) drift = sum, spread = square, found = true;
    sum = square = 0;
  }
  const bool known = checkpoint > 0 || !a.initial_state;
  const float start =
      checkpoint > 0 ? total_of(a.state_dot + (index - 1) * a.state_parts, a.state_parts) : 0.0f;
  const float drift_before = known ? __shfl_sync(kAllLanes, sum, 0) - start : 0.0f;
  const float spread_before = __shfl_sync(kAllLanes, square, 0);
  const unsigned beginning = __ballot_sync(kAllLanes, found) & ((1u << lane) - 1);
  const int from = beginning == 0 ? 0 : 31 - __clz(static_cast<int>(beginning));
  const float drift_there = __shfl_sync(kAllLanes, drift, from);
  const float spread_there = __shfl_sync(kAllLanes, spread, from);
  drift = beginning == 0 ? drift_before : drift_there;
  spread = beginning == 0 ? spread_before : spread_there;
  for (int place = run; place < run + kRun; ++place) {
    const float behind = squares[padded(place)];
    if (resets[padded(place)]) drift = sums[padded(place)], spread = behind;
    if (spread > 0 && spread <= FLT_MAX) sums[padded(place)] -= drift * (behind / spread);
  }
  __syncwarp();

  for (int place = lane; place < count; place += 32) {
    float total = sums[padded(place)];
    if (apart && place >= last_chunk) total += before[place - last_chunk];
    const float f = gate(g.f, place);
    const float df = total * sigmoid(-capped(f, g.soft_cap)) * cap_slope(f, g.soft_cap);
    gate(a.df, place) = resets[padded(place)] ? 0.0f : df;
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
