// y = (norm(h) * scale + skip * conv) * gate(z), scale = offset + weight, and its gradients.
//
// A group of kLanes threads holds one head of one token, kUnits units a thread, and goes through
// the tokens of that head; so weights stay where they are, and their gradients add up in registers.
// The backward computes mean and variance again from h: nothing is kept from the forward.
//   x = (h - mean) r,  r = (var + eps)^-1/2,  a = x scale + skip conv,  y = a gate(z)
//   dn = dy gate(z),  dz = dy a gate'(z),  dconv = dn skip,  dweight = sum dn x,  dskip = sum dn
//   conv g = dn scale,  dh = r (g - mean g - x mean(g x)),  dh . h = d mean(g x) eps r^2
// Sums over tokens: per thread, per block through shared memory, then over the blocks by a second
// kernel, always in the same order.
//
// Moves 4 (forward) and 7 (backward) tensors once, 3 and 5 without conv: bound by memory at some 10
// operations a byte, so plain vector loads at a good occupancy do, and one source serves every
// architecture: there is no product for wgmma and no tile that two threads share for TMA.
#include <cuda_bf16.h>

#include <algorithm>
#include <cstdint>

#include "kernels/common/device.h"
#include "kernels/common/launch.cuh"
#include "kernels/head_norm_gate/head_norm_gate_launch.h"

namespace lram::kernels {
namespace {

constexpr int kThreads = 256;

template <typename T>
struct Tensor {
  T* data;
  std::int64_t stride_b, stride_t, stride_h;
  __device__ T* row(int b, int t, int h) const {
    return data + b * stride_b + t * stride_t + h * stride_h;
  }
};

template <typename T>
struct Arguments {
  int batch, tokens, heads, dim;
  bool silu;
  float eps, weight_offset;
  Tensor<const T> h, z, conv, dy;  // data of conv null: absent
  Tensor<T> y, dh, dz, dconv;
  Tensor<float> dh_dot_h;
  const float *weight, *skip;
  float* partial;  // [grid.x, 2, H, d]
};

/// kWidth units that one instruction moves.
template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Vector;
template <int kWidth>
struct alignas(2 * kWidth) Vector<__nv_bfloat16, kWidth> {
  __nv_bfloat162 pair[kWidth / 2];
  __device__ float operator[](int i) const {
    return i % 2 == 0 ? __low2float(pair[i / 2]) : __high2float(pair[i / 2]);
  }
  __device__ static Vector of(const float* x) {
    Vector out;
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i)
      out.pair[i] = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
    return out;
  }
};
template <int kWidth>
struct alignas(4 * kWidth) Vector<float, kWidth> {
  float unit[kWidth];
  __device__ float operator[](int i) const { return unit[i]; }
  __device__ static Vector of(const float* x) {
    Vector out;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) out.unit[i] = x[i];
    return out;
  }
};

/// Which units a thread holds. kExact: the group covers d to the unit.
template <typename T_, int kLanes_, int kVectors_, int kWidth_, bool kExact_>
struct Tile {
  using T = T_;
  using Vector = lram::kernels::Vector<T, kWidth_>;
  static constexpr int kLanes = kLanes_, kVectors = kVectors_, kWidth = kWidth_;
  static constexpr bool kExact = kExact_;
  static constexpr int kUnits = kVectors * kWidth;
  static constexpr int kGroups = kThreads / kLanes;  // per block
  static constexpr int kSpan = kLanes * kUnits;
  // Blocks that a multiprocessor holds at once, as registers allow without spilling: 40 KiB and
  // more of loads in flight, twice what the memory's latency needs.
  static constexpr int kForwardBlocks = kUnits > 16 ? 2 : kUnits > 8 ? 3 : 4;
  static constexpr int kBackwardBlocks = kUnits > 20 ? 1 : kUnits > 8 ? 2 : 3;
  static_assert(kLanes <= 32 && sizeof(Vector) <= 16);

  /// First unit of the thread's vector v.
  __device__ static int unit(int v) {
    return (v * kLanes + static_cast<int>(threadIdx.x) % kLanes) * kWidth;
  }
  __device__ static bool holds(int v, int dim) { return kExact || unit(v) < dim; }

  __device__ static void load(Vector (&out)[kVectors], const T* row, bool valid, int dim) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      out[v] = {};
      if (valid && holds(v, dim)) out[v] = *reinterpret_cast<const Vector*>(row + unit(v));
    }
  }
  __device__ static void store(T* row, int v, const float* x) {
    *reinterpret_cast<Vector*>(row + unit(v)) = Vector::of(x);
  }
  __device__ static float sum(float x) {
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2)
      x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
  }
};

struct Moments {
  float mean, rstd;
};

template <typename Tile>
__device__ Moments moments(const typename Tile::Vector (&h)[Tile::kVectors], int dim, float eps) {
  float sum = 0.0f;
#pragma unroll
  for (int v = 0; v < Tile::kVectors; ++v)
#pragma unroll
    for (int i = 0; i < Tile::kWidth; ++i) sum += h[v][i];
  const float count = static_cast<float>(dim);
  const float mean = Tile::sum(sum) / count;
  float squares = 0.0f;
#pragma unroll
  for (int v = 0; v < Tile::kVectors; ++v) {
    if (!Tile::holds(v, dim)) continue;
#pragma unroll
    for (int i = 0; i < Tile::kWidth; ++i) squares += (h[v][i] - mean) * (h[v][i] - mean);
  }
  return {mean, rsqrtf(Tile::sum(squares) / count + eps)};
}

__device__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

/// Four floats of a [H, d] vector, aligned as d is a multiple of 8.
__device__ float4 four(const float* x) { return __ldg(reinterpret_cast<const float4*>(x)); }

template <int kWidth>
__device__ void load_floats(float (&out)[kWidth], const float* x) {
#pragma unroll
  for (int i = 0; i < kWidth; i += 4) {
    const float4 part = four(x + i);
    out[i] = part.x, out[i + 1] = part.y, out[i + 2] = part.z, out[i + 3] = part.w;
  }
}

/// The tokens of head blockIdx.y, kGroups at a time: calls visit(b, t, valid) in every thread.
template <typename Tile, typename Visit>
__device__ void for_each_token(int batch, int tokens, const Visit& visit) {
  const int total = batch * tokens, group = static_cast<int>(threadIdx.x) / Tile::kLanes;
  const int stride = static_cast<int>(gridDim.x) * Tile::kGroups;
  for (int first = static_cast<int>(blockIdx.x) * Tile::kGroups; first < total; first += stride) {
    const int n = first + group;
    visit(n / tokens, n % tokens, n < total);
  }
}

template <typename Tile>
__global__ void __launch_bounds__(kThreads, Tile::kForwardBlocks)
    head_norm_gate_forward_kernel(const __grid_constant__ Arguments<typename Tile::T> a) {
  const int head = static_cast<int>(blockIdx.y);
  const float* weight = a.weight + head * a.dim;
  const float* skip = a.skip + head * a.dim;
  const bool with_conv = a.conv.data != nullptr;
  for_each_token<Tile>(a.batch, a.tokens, [&](int b, int t, bool valid) {
    typename Tile::Vector h[Tile::kVectors], z[Tile::kVectors], conv[Tile::kVectors];
    Tile::load(h, a.h.row(b, t, head), valid, a.dim);
    Tile::load(z, a.z.row(b, t, head), valid, a.dim);
    Tile::load(conv, a.conv.row(b, t, head), valid && with_conv, a.dim);
    const Moments m = moments<Tile>(h, a.dim, a.eps);
    if (!valid) return;
#pragma unroll
    for (int v = 0; v < Tile::kVectors; ++v) {
      if (!Tile::holds(v, a.dim)) continue;
      float w[Tile::kWidth], s[Tile::kWidth] = {}, y[Tile::kWidth];
      load_floats(w, weight + Tile::unit(v));
      if (with_conv) load_floats(s, skip + Tile::unit(v));
#pragma unroll
      for (int i = 0; i < Tile::kWidth; ++i) {
        const float n = (h[v][i] - m.mean) * m.rstd * (a.weight_offset + w[i]);
        const float gate = sigmoid(z[v][i]);
        y[i] = (n + s[i] * conv[v][i]) * (a.silu ? gate * z[v][i] : gate);
      }
      Tile::store(a.y.row(b, t, head), v, y);
    }
  });
}

/// Adds `x` of all groups of the block and writes row [d] of `partial`.
template <typename Tile>
__device__ void write_partial(const float (&x)[Tile::kUnits], float* shared, float* partial,
                              int dim) {
  const int group = static_cast<int>(threadIdx.x) / Tile::kLanes;
  __syncthreads();
#pragma unroll
  for (int v = 0; v < Tile::kVectors; ++v)
#pragma unroll
    for (int i = 0; i < Tile::kWidth; ++i)
      shared[group * Tile::kSpan + Tile::unit(v) + i] = x[v * Tile::kWidth + i];
  __syncthreads();
  for (int unit = static_cast<int>(threadIdx.x); unit < dim; unit += kThreads) {
    float sum = 0.0f;
    for (int g = 0; g < Tile::kGroups; ++g) sum += shared[g * Tile::kSpan + unit];
    partial[unit] = sum;
  }
}

template <typename Tile>
__global__ void __launch_bounds__(kThreads, Tile::kUnits > 20  ? 1
                                            : Tile::kUnits > 8 ? 2
                                                               : 3)
    head_norm_gate_backward_kernel(const __grid_constant__ Arguments<typename Tile::T> a) {
  __shared__ float shared[Tile::kGroups * Tile::kSpan];
  const int head = static_cast<int>(blockIdx.y);
  const float* weight = a.weight + head * a.dim;
  const float* skip = a.skip + head * a.dim;
  const bool with_conv = a.conv.data != nullptr;
  const float count = static_cast<float>(a.dim);
  float dweight[Tile::kUnits] = {}, dskip[Tile::kUnits] = {};
  for_each_token<Tile>(a.batch, a.tokens, [&](int b, int t, bool valid) {
    typename Tile::Vector h[Tile::kVectors], z[Tile::kVectors], conv[Tile::kVectors],
        dy[Tile::kVectors];
    Tile::load(h, a.h.row(b, t, head), valid, a.dim);
    Tile::load(z, a.z.row(b, t, head), valid, a.dim);
    Tile::load(dy, a.dy.row(b, t, head), valid, a.dim);
    Tile::load(conv, a.conv.row(b, t, head), valid && with_conv, a.dim);
    Moments m = moments<Tile>(h, a.dim, a.eps);
    if (!valid) m.rstd = 0.0f;  // adds zeros to the sums, with eps = 0 too
    float g[Tile::kUnits], sum_g = 0.0f, sum_gx = 0.0f;
#pragma unroll
    for (int v = 0; v < Tile::kVectors; ++v) {
      if (!Tile::holds(v, a.dim)) continue;
      float w[Tile::kWidth], s[Tile::kWidth] = {}, dz[Tile::kWidth], dconv[Tile::kWidth];
      load_floats(w, weight + Tile::unit(v));
      if (with_conv) load_floats(s, skip + Tile::unit(v));
#pragma unroll
      for (int i = 0; i < Tile::kWidth; ++i) {
        const int u = v * Tile::kWidth + i;
        const float x = (h[v][i] - m.mean) * m.rstd, scale = a.weight_offset + w[i];
        const float sigma = sigmoid(z[v][i]);
        const float gate = a.silu ? sigma * z[v][i] : sigma;
        const float slope = gate * (1.0f - sigma) + (a.silu ? sigma : 0.0f);
        dz[i] = dy[v][i] * (x * scale + s[i] * conv[v][i]) * slope;
        const float dn = dy[v][i] * gate;
        dconv[i] = dn * s[i];
        dweight[u] += dn * x;
        dskip[u] += dn * conv[v][i];
        g[u] = dn * scale;
        sum_g += g[u];
        sum_gx += g[u] * x;
      }
      if (!valid) continue;
      Tile::store(a.dz.row(b, t, head), v, dz);
      if (with_conv) Tile::store(a.dconv.row(b, t, head), v, dconv);
    }
    sum_g = Tile::sum(sum_g);
    sum_gx = Tile::sum(sum_gx);
    if (!valid) return;
    const float mean_g = sum_g / count, mean_gx = sum_gx / count;
#pragma unroll
    for (int v = 0; v < Tile::kVectors; ++v) {
      if (!Tile::holds(v, a.dim)) continue;
      float dh[Tile::kWidth];
#pragma unroll
      for (int i = 0; i < Tile::kWidth; ++i) {
        const float x = (h[v][i] - m.mean) * m.rstd;
        dh[i] = m.rstd * (g[v * Tile::kWidth + i] - mean_g - x * mean_gx);
      }
      Tile::store(a.dh.row(b, t, head), v, dh);
    }
    if (a.dh_dot_h.data != nullptr && threadIdx.x % Tile::kLanes == 0)
      *a.dh_dot_h.row(b, t, head) = sum_gx * a.eps * m.rstd * m.rstd;
  });
  float* partial = a.partial + (std::int64_t{blockIdx.x} * 2 * a.heads + head) * a.dim;
  write_partial<Tile>(dweight, shared, partial, a.dim);
  if (with_conv) write_partial<Tile>(dskip, shared, partial + a.heads * a.dim, a.dim);
}

constexpr int kSumColumns = 32, kSumRows = 8;

/// partial [blocks, 2, columns] -> dweight, dskip [columns].
__global__ void __launch_bounds__(kSumColumns* kSumRows)
    head_norm_gate_sum_kernel(const float* partial, int blocks, int columns, float* dweight,
                              float* dskip) {
  __shared__ float shared[kSumRows][kSumColumns];
  const int column = static_cast<int>(blockIdx.x) * kSumColumns + static_cast<int>(threadIdx.x);
  float sum = 0.0f;
  if (column < columns) {
    const float* from = partial + blockIdx.y * columns + column;
#pragma unroll 4
    for (int b = static_cast<int>(threadIdx.y); b < blocks; b += kSumRows)
      sum += from[std::int64_t{b} * 2 * columns];
  }
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
  for (int row = 1; row < kSumRows; ++row) sum += shared[row][threadIdx.x];
  (blockIdx.y == 0 ? dweight : dskip)[column] = sum;
}

/// Blocks over the tokens of one head: each goes as many rounds as the others.
int grid_over_tokens(const HeadNormGateProblem& p, int groups, int blocks_at_once) {
  const int total = p.batch * p.tokens;
  const int blocks = std::max(1, blocks_at_once * current_device().multiprocessors / p.heads);
  const int rounds = (total + blocks * groups - 1) / (blocks * groups);
  return (total + rounds * groups - 1) / (rounds * groups);
}

template <typename Tile>
int backward_grid(const HeadNormGateProblem& p) {
  return grid_over_tokens(p, Tile::kGroups, Tile::kBackwardBlocks);
}

/// Calls launch(Tile) with the smallest tile that holds a head.
template <typename Launch>
void with_tile(const HeadNormGateProblem& p, const Launch& launch) {
  using BFloat16 = __nv_bfloat16;
  if (p.dtype == DType::kFloat32)
    return p.dim <= 256 ? launch(Tile<float, 32, 2, 4, false>())
                        : launch(Tile<float, 32, 6, 4, false>());
  switch (p.dim) {
    case 64:
      return launch(Tile<BFloat16, 8, 1, 8, true>());
    case 128:
      return launch(Tile<BFloat16, 16, 1, 8, true>());
    case 256:
      return launch(Tile<BFloat16, 32, 1, 8, true>());
    case 320:
      return launch(Tile<BFloat16, 16, 5, 4, true>());
    case 384:
      return launch(Tile<BFloat16, 32, 3, 4, true>());
    case 512:
      return launch(Tile<BFloat16, 32, 2, 8, true>());
    case 640:
      return launch(Tile<BFloat16, 32, 5, 4, true>());
    default:
      return p.dim <= 256 ? launch(Tile<BFloat16, 32, 1, 8, false>())
                          : launch(Tile<BFloat16, 32, 3, 8, false>());
  }
}

template <typename T>
Tensor<T> typed(const HeadTensor& x) {
  return {static_cast<T*>(x.data), x.stride_b, x.stride_t, x.stride_h};
}

template <typename T>
Arguments<T> arguments_of(const HeadNormGateProblem& p) {
  Arguments<T> a = {};
  a.batch = p.batch, a.tokens = p.tokens, a.heads = p.heads, a.dim = p.dim;
  a.silu = p.gate == GateFunction::kSilu;
  a.eps = p.eps, a.weight_offset = p.weight_offset;
  a.h = typed<const T>(p.h), a.z = typed<const T>(p.z), a.conv = typed<const T>(p.conv);
  a.weight = p.weight, a.skip = p.skip;
  return a;
}

}  // namespace

int head_norm_gate_blocks(const HeadNormGateProblem& problem) {
  int blocks = 0;
  with_tile(problem, [&](auto tile) { blocks = backward_grid<decltype(tile)>(problem); });
  return blocks;
}

void launch_head_norm_gate(const HeadNormGateForward& args) {
  const HeadNormGateProblem& p = args.problem;
  with_tile(p, [&](auto tile) {
    using Tile = decltype(tile);
    auto a = arguments_of<typename Tile::T>(p);
    a.y = typed<typename Tile::T>(args.y);
    const dim3 grid(static_cast<unsigned>(grid_over_tokens(p, Tile::kGroups, Tile::kForwardBlocks)),
                    static_cast<unsigned>(p.heads));
    launch_kernel(head_norm_gate_forward_kernel<Tile>, grid, kThreads, 0, args.stream, a);
  });
}

void launch_head_norm_gate(const HeadNormGateBackward& args) {
  const HeadNormGateProblem& p = args.problem;
  with_tile(p, [&](auto tile) {
    using Tile = decltype(tile);
    using T = typename Tile::T;
    auto a = arguments_of<T>(p);
    a.dy = typed<const T>(args.dy), a.dh = typed<T>(args.dh), a.dz = typed<T>(args.dz);
    a.dconv = typed<T>(args.dconv);
    a.dh_dot_h = {args.dh_dot_h.data, args.dh_dot_h.stride_b, args.dh_dot_h.stride_t,
                  args.dh_dot_h.stride_h};
    a.partial = static_cast<float*>(args.workspace);
    const int blocks = backward_grid<Tile>(p), columns = p.heads * p.dim;
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(p.heads));
    launch_kernel(head_norm_gate_backward_kernel<Tile>, grid, kThreads, 0, args.stream, a);
    const dim3 sums(static_cast<unsigned>((columns + kSumColumns - 1) / kSumColumns),
                    p.skip != nullptr ? 2u : 1u);
    launch_kernel(head_norm_gate_sum_kernel, sums, dim3(kSumColumns, kSumRows), 0, args.stream,
                  a.partial, blocks, columns, args.dweight, args.dskip);
  });
}

}  // namespace lram::kernels
