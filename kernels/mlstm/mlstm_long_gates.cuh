#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/common/cuda_check.h"
#include "kernels/common/launch.cuh"
#include "kernels/mlstm/mlstm_long.h"

/// What the sweeps of the long form need to know of the gates, the same on both paths: m before
/// every chunk and the chunk's factors. Moves under 3 % of a sweep's bytes. Included by the
/// launchers of each path.
namespace lram::kernels::mlstm_long {

constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;
constexpr unsigned kAllLanes = 0xffffffffu;

struct Span {
  int begin, end;
  __device__ int tokens() const { return end > begin ? end - begin : 0; }
  __device__ int chunks() const { return (tokens() + kChunk - 1) / kChunk; }
};
__device__ inline Span span_of(const std::int32_t* begin, const std::int32_t* end, int b,
                               int tokens) {
  return {begin != nullptr ? begin[b] : 0, end != nullptr ? end[b] : tokens};
}

struct GateArgs {
  GateTensor i, f;
  const std::uint8_t* reset;
  const std::int32_t *begin, *end;
  int batch, tokens, heads, chunks;
  bool sigmoid_gate, backward;
  float soft_cap, scale;
  const float* m_initial;     ///< [B H] or null
  float* m_start;             ///< Saved::m_start
  float* m_final;             ///< [B H] or null
  const float* inverse_norm;  ///< backward, or null
  const float* bias;          ///< backward, or null
  float* factors;             ///< [B H, chunks, kChunkFloats]
};

__device__ inline float capped(float x, float cap) { return cap > 0 ? cap * tanhf(x / cap) : x; }
__device__ inline float cap_slope(float x, float cap) {
  if (cap <= 0) return 1.0f;
  const float t = tanhf(x / cap);
  return 1.0f - t * t;
}
__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
/// log2(sigmoid(x)).
template <bool kFine>
__device__ double log2_sigmoid(float x) {
  if constexpr (kFine) {
    const double d = x;
    return kLog2E * ((d < 0 ? d : 0.0) - log1p(exp(-fabs(d))));
  } else {
    return kLog2E * static_cast<double>((x < 0 ? x : 0.0f) - log1pf(expf(-fabsf(x))));
  }
}

/// Two neighbouring tokens of a chunk, 2 lane and 2 lane + 1: sums since the last reset, in double,
/// since b_t - b_s cancels.
struct TwoTokens {
  double b[2];        ///< log2 of the forget gates' product since the document's start
  double c[2];        ///< i~ - b
  double top[2];      ///< max of c over the document so far
  bool inherited[2];  ///< no reset so far in the chunk
  bool reset[2], valid[2];
  int first[2], last[2];  ///< the document's part in this chunk
};

// Each path builds these for its own architectures: nothing may be shared by the linker.
namespace {

template <bool kFine>
__device__ TwoTokens scan_chunk(const GateArgs& a, int b, int h, Span span, int chunk) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int count = min(kChunk, span.tokens() - chunk * kChunk);
  TwoTokens t;
  double log_f[2], log_i[2];
  for (int e = 0; e < 2; ++e) {
    const int place = 2 * lane + e;
    t.valid[e] = place < count;
    t.reset[e] = false;
    log_f[e] = 0;
    log_i[e] = -INFINITY;
    if (t.valid[e]) {
      const std::int64_t token = span.begin + chunk * kChunk + place;
      const float i =
          capped(a.i.data[b * a.i.stride_b + token * a.i.stride_t + h * a.i.stride_h], a.soft_cap);
      const float f =
          capped(a.f.data[b * a.f.stride_b + token * a.f.stride_t + h * a.f.stride_h], a.soft_cap);
      t.reset[e] =
          a.reset != nullptr && a.reset[static_cast<std::int64_t>(b) * a.tokens + token] != 0;
      log_f[e] = log2_sigmoid<kFine>(f);
      log_i[e] = a.sigmoid_gate ? log2_sigmoid<kFine>(i) : kLog2E * static_cast<double>(i);
    }
  }
  // Segmented inclusive scans: a lane's total, then what the lanes before hand on.
  double sum = t.reset[1] ? log_f[1] : log_f[0] + log_f[1];
  bool cut = t.reset[0] || t.reset[1];
  int start = t.reset[1] ? 2 * lane + 1 : t.reset[0] ? 2 * lane : 0;
  for (int d = 1; d < 32; d *= 2) {
    const double other = __shfl_up_sync(kAllLanes, sum, d);
    const bool other_cut = __shfl_up_sync(kAllLanes, static_cast<int>(cut), d) != 0;
    const int other_start = __shfl_up_sync(kAllLanes, start, d);
    if (lane >= d) {
      if (!cut) sum += other;
      cut = cut || other_cut;
      start = max(start, other_start);
    }
  }
  double before = __shfl_up_sync(kAllLanes, sum, 1);
  bool cut_before = __shfl_up_sync(kAllLanes, static_cast<int>(cut), 1) != 0;
  int start_before = __shfl_up_sync(kAllLanes, start, 1);
  if (lane == 0) {
    before = 0;
    cut_before = false;
    start_before = 0;
  }
  t.b[0] = t.reset[0] ? log_f[0] : before + log_f[0];
  t.b[1] = t.reset[1] ? log_f[1] : t.b[0] + log_f[1];
  t.inherited[0] = !(cut_before || t.reset[0]);
  t.inherited[1] = t.inherited[0] && !t.reset[1];
  t.first[0] = t.reset[0] ? 2 * lane : start_before;
  t.first[1] = t.reset[1] ? 2 * lane + 1 : t.first[0];
  t.c[0] = log_i[0] - t.b[0];
  t.c[1] = log_i[1] - t.b[1];
  double top = t.reset[1] ? t.c[1] : fmax(t.c[0], t.c[1]);
  cut = t.reset[0] || t.reset[1];
  int next = t.reset[0] ? 2 * lane : t.reset[1] ? 2 * lane + 1 : count;
  for (int d = 1; d < 32; d *= 2) {
    const double other = __shfl_up_sync(kAllLanes, top, d);
    const bool other_cut = __shfl_up_sync(kAllLanes, static_cast<int>(cut), d) != 0;
    const int other_next = __shfl_down_sync(kAllLanes, next, d);
    if (lane >= d) {
      if (!cut) top = fmax(top, other);
      cut = cut || other_cut;
    }
    if (lane + d < 32) next = min(next, other_next);
  }
  double top_before = __shfl_up_sync(kAllLanes, top, 1);
  int next_after = __shfl_down_sync(kAllLanes, next, 1);
  if (lane == 0) top_before = -INFINITY;
  if (lane == 31) next_after = count;
  t.top[0] = t.reset[0] ? t.c[0] : fmax(top_before, t.c[0]);
  t.top[1] = t.reset[1] ? t.c[1] : fmax(t.top[0], t.c[1]);
  t.last[1] = next_after - 1;
  t.last[0] = t.reset[1] ? 2 * lane : t.last[1];
  return t;
}

/// m before every chunk (kernels.md 1.4), one block of 256 threads to a head: the chunks' own parts
/// side by side, then m <- max(decay + m, top) along them.
template <bool kFine>
__global__ void chunk_maxima(GateArgs a) {
  constexpr int kTile = 256;
  __shared__ double decay[kTile], top[kTile];
  __shared__ bool inherits[kTile];
  __shared__ float m;
  const int head = static_cast<int>(blockIdx.x), b = head / a.heads, h = head % a.heads;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const Span span = span_of(a.begin, a.end, b, a.tokens);
  const int chunks = span.chunks();
  float* m_start = a.m_start + static_cast<std::int64_t>(head) * (a.chunks + 1);
  if (threadIdx.x == 0) {
    m = a.m_initial != nullptr ? static_cast<float>(kLog2E * static_cast<double>(a.m_initial[head]))
                               : 0;
    m_start[0] = m;
  }
  for (int base = 0; base < chunks; base += kTile) {
    const int tile = min(kTile, chunks - base);
    for (int c = warp; c < tile; c += 8) {
      const TwoTokens t = scan_chunk<kFine>(a, b, h, span, base + c);
      if (lane == 31) {
        decay[c] = t.b[1];
        top[c] = t.top[1];
        inherits[c] = t.inherited[1];
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      float running = m;
      for (int c = 0; c < tile; ++c) {
        const double from = inherits[c] ? static_cast<double>(running) : 0.0;
        running = static_cast<float>(decay[c] + fmax(from, top[c]));
        m_start[base + c + 1] = running;
      }
      m = running;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0 && a.m_final != nullptr) {
    a.m_final[head] = chunks > 0               ? static_cast<float>(kLn2 * static_cast<double>(m))
                      : a.m_initial != nullptr ? a.m_initial[head]
                                               : 0;
  }
}

/// ChunkArray and header of every chunk, one warp to a chunk.
template <bool kFine>
__global__ void chunk_factors(GateArgs a) {
  const std::int64_t index =
      (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const std::int64_t head = index / a.chunks;
  const int chunk = static_cast<int>(index % a.chunks), b = static_cast<int>(head / a.heads),
            h = static_cast<int>(head % a.heads);
  if (b >= a.batch) return;
  const Span span = span_of(a.begin, a.end, b, a.tokens);
  if (chunk >= span.chunks()) return;
  const TwoTokens t = scan_chunk<kFine>(a, b, h, span, chunk);
  double m_here = 0, m_next = 0;
  if (!a.sigmoid_gate) {
    const float* m = a.m_start + head * (a.chunks + 1) + chunk;
    m_here = m[0];
    m_next = m[1];
  }
  const double b_end = __shfl_sync(kAllLanes, t.b[1], 31);
  const int first_end = __shfl_sync(kAllLanes, t.first[1], 31);
  const bool inherited_end = __shfl_sync(kAllLanes, static_cast<int>(t.inherited[1]), 31) != 0;
  float* out = a.factors + index * kChunkFloats<kFine>;
  for (int e = 0; e < 2; ++e) {
    const int place = 2 * lane + e;
    const std::int64_t position = head * a.chunks * kChunk + chunk * kChunk + place;
    double exponent_t = -INFINITY, exponent_s = -INFINITY;
    float inter_t = 0, inter_s = 0, auxiliary = 0;
    int first = 127, last = 0;
    if (t.valid[e]) {
      const double top = a.sigmoid_gate ? -t.b[e] : fmax(t.inherited[e] ? m_here : 0.0, t.top[e]);
      float weight = a.scale;
      if (a.inverse_norm != nullptr) weight *= a.inverse_norm[position];
      exponent_t = -top + static_cast<double>(log2f(weight));
      exponent_s = t.c[e];
      if (t.inherited[e]) inter_t = exp2f(static_cast<float>(m_here + exponent_t));
      if (t.first[e] == first_end) {
        inter_s = exp2f(static_cast<float>(exponent_s + b_end - m_next));
      }
      if (a.backward) {
        auxiliary = a.bias != nullptr ? a.bias[position] : 0;
      } else {
        auxiliary = a.sigmoid_gate ? 1.0f : exp2f(static_cast<float>(-(t.b[e] + top)));
      }
      first = t.first[e];
      last = t.last[e];
    }
    const auto put = [&](int array, float value) { out[array * kChunk + place] = value; };
    put(kExponentT, static_cast<float>(exponent_t));
    put(kExponentS, static_cast<float>(exponent_s));
    put(kInterT, inter_t);
    put(kInterS, inter_s);
    put(kAuxiliary, auxiliary);
    put(kSpan, __int_as_float(first | last << 8));
    if constexpr (kFine) {
      const auto low = [](double x) {
        return isfinite(x) ? static_cast<float>(x - static_cast<double>(static_cast<float>(x)))
                           : 0.0f;
      };
      put(kExponentLowT, low(exponent_t));
      put(kExponentLowS, low(exponent_s));
    }
  }
  if (lane < 16) {
    float value = 0;
    if (lane == 0 && inherited_end) value = exp2f(static_cast<float>(m_here + b_end - m_next));
    if (lane == 1) value = __int_as_float(min(kChunk, span.tokens() - chunk * kChunk));
    out[kChunkHeader<kFine> + lane] = value;
  }
}

inline GateArgs gate_args(const MlstmProblem& p, float* m_start, float* factors) {
  const Sizes n = sizes_of(p);
  return {.i = p.i,
          .f = p.f,
          .reset = p.reset,
          .begin = p.begin,
          .end = p.end,
          .batch = p.batch,
          .tokens = p.tokens,
          .heads = p.heads,
          .chunks = n.chunks,
          .sigmoid_gate = p.sigmoid_gate,
          .backward = false,
          .soft_cap = p.gate_soft_cap,
          .scale = 1.0f / sqrtf(static_cast<float>(p.key_dim)),
          .m_initial = p.initial.m,
          .m_start = m_start,
          .m_final = nullptr,
          .inverse_norm = nullptr,
          .bias = nullptr,
          .factors = factors};
}

template <bool kFine>
void launch_chunk_maxima(const GateArgs& a, const Sizes& n, cudaStream_t stream) {
  launch_kernel(chunk_maxima<kFine>, static_cast<unsigned>(n.sequences()), 256, 0, stream, a);
  LRAM_CUDA_CHECK_LAUNCH("chunk_maxima");
}
template <bool kFine>
void launch_chunk_factors(const GateArgs& a, const Sizes& n, cudaStream_t stream) {
  const std::size_t warps = n.sequences() * static_cast<std::size_t>(n.chunks);
  launch_kernel(chunk_factors<kFine>, static_cast<unsigned>((warps + 3) / 4), 128, 0, stream, a);
  LRAM_CUDA_CHECK_LAUNCH("chunk_factors");
}

}  // namespace
}  // namespace lram::kernels::mlstm_long
