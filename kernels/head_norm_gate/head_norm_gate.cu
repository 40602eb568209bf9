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
// Moves 4 (forward) and 7 (backward) tensors once, 3 and 5 without conv, at some 10 operations a
// byte: bound by memory once enough bytes are on their way and few enough instructions stand
// between them. So the next row is asked for before this one is worked on (Rows), by loads that
// stay where they are written (load_once), offsets are 32 bits that step, gate and conv are known
// at compile time for the two forms that models use, and each kernel starts while the one before
// ends (launch_dependent_kernel).
// How rows came to registers, in us on an H200, L2 full of lines that are as in memory; the best of
// each (there is no product for wgmma and no tile that two threads share for TMA):
//                                64x150x4x256   64x150x4x384   64x150x4x640   8x8192x16x256 sigmoid
//                                 fw     bw      fw     bw      fw     bw      fw      bw
//   next row, ordinary loads     21.3   41.5    31.2     -     49.5     -      402     728
//   next row, volatile, hinted   21.9   40.1    31.3   61.1    51.1  101.1     382     688
//   cp.async ring                21.9   38.9    33.4   59.4      -    97.5     396     677
//   a copy of the bytes          20.3   33.7    28.5   50.4    46.1   81.9     367     621
// A ring is 3 % quicker in the backward; it is not worth its shared memory and its code. The hint,
// L2's normal policy by name, gains 5 % in the backward and in what is larger than L2, and loses 4
// to 8 % in the forward of 64x150x4: so the forward with conv goes without (Config::kHint).
// `lram bench kernels` on an H200, forward and forward + backward in percent of the copy rate of
// 1 GiB | of a copy of the same bytes: 64x150x4 at 256 83, 82 | 93, 89; 384 93, 87 | 101, 91;
// 512 94, 88 | 98, 91; 640 91, 85 | 94, 88; 8x8192x16x256 99, 92 | 98, 92. Right after 256 MB were
// written, whose last 50 MB then have to leave L2 first, of the copy rate: 74, 77; 78, 82; 82, 84;
// 83, 83; 97, 92 (a copy of 256's forward bytes: 75).
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <type_traits>

#include "kernels/common/device.h"
#include "kernels/common/launch.cuh"
#include "kernels/common/ptx.cuh"
#include "kernels/head_norm_gate/head_norm_gate_launch.h"
#include "kernels/head_norm_gate/head_norm_gate_rows.cuh"

namespace lram::kernels {
namespace {
using namespace norm_gate;

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
  const float over = 1.0f / static_cast<float>(Tile::dim(dim));
  const float mean = Tile::sum(sum) * over;
  float squares = 0.0f;
#pragma unroll
  for (int v = 0; v < Tile::kVectors; ++v) {
    if (!Tile::holds(v, dim)) continue;
#pragma unroll
    for (int i = 0; i < Tile::kWidth; ++i) squares += (h[v][i] - mean) * (h[v][i] - mean);
  }
  return {mean, rsqrtf(Tile::sum(squares) * over + eps)};
}

__device__ float sigmoid(float x) {
  return reciprocal_fast(1.0f + exp2_fast(x * -1.4426950408889634f));
}

template <typename C>
__global__ void __launch_bounds__(C::kThreads, C::kPlan.blocks)
    head_norm_gate_forward_kernel(const __grid_constant__ Arguments<typename C::Tile> a) {
  using Tile = typename C::Tile;
  const Work<C> work(a);
  launch_dependents();  // which wait for the end of this kernel, as it does for the one before
  dependency_wait();
  Rows<C> rows(a, work);
  Weights<C> weights(a, work.head);
  for (int round = 0; round < work.rounds; ++round) {
    rows.acquire(round);
    const Moments m = moments<Tile>(rows.row[kH], a.dim, a.eps);
    const float shift = -m.mean * m.rstd;
    if (rows.valid(round)) {
      typename C::T* y_row = rows.output(kY);
#pragma unroll
      for (int v = 0; v < Tile::kVectors; ++v) {
        if (!Tile::holds(v, a.dim)) continue;
        const int at = weights.of(v);
        float y[Tile::kWidth];
#pragma unroll
        for (int i = 0; i < Tile::kWidth; ++i) {
          float sum = (rows.row[kH][v][i] * m.rstd + shift) * weights.scale[at + i];
          if constexpr (C::kHasConv) sum += weights.skips[at + i] * rows.row[rows.kConvRow][v][i];
          const float z = rows.row[kZ][v][i], gate = sigmoid(z);
          y[i] = sum * (C::silu(a) ? gate * z : gate);
        }
        store<Tile>(y_row, v, y);
      }
    }
    rows.release();
  }
}

/// Adds `x` over the slots of the block, for each of its heads, into partial [H, d].
template <typename C>
__device__ void write_partial(const float (&x)[C::Tile::kUnits], float* shared,
                              const Arguments<typename C::Tile>& a, float* partial) {
  using Tile = typename C::Tile;
  const int beside = a.heads_per_block, columns = beside * Tile::kSpan, dim = Tile::dim(a.dim);
  const int group = static_cast<int>(threadIdx.x) / Tile::kLanes;
  __syncthreads();
#pragma unroll
  for (int v = 0; v < Tile::kVectors; ++v)
#pragma unroll
    for (int i = 0; i < Tile::kWidth; ++i)
      shared[group * Tile::kSpan + Tile::unit(v) + i] = x[v * Tile::kWidth + i];
  __syncthreads();
  for (int column = static_cast<int>(threadIdx.x); column < columns; column += C::kThreads) {
    const int head = static_cast<int>(blockIdx.y) * beside + column / Tile::kSpan;
    const int unit = column % Tile::kSpan;
    if (unit >= dim) continue;
    float sum = 0.0f;
    for (int i = column; i < C::kGroups * Tile::kSpan; i += columns) sum += shared[i];
    partial[head * dim + unit] = sum;
  }
}

template <typename C>
__global__ void __launch_bounds__(C::kThreads, C::kPlan.blocks)
    head_norm_gate_backward_kernel(const __grid_constant__ Arguments<typename C::Tile> a) {
  using Tile = typename C::Tile;
  __shared__ float shared[C::kGroups * Tile::kSpan];
  const Work<C> work(a);
  launch_dependents();  // the sums' kernel among them
  dependency_wait();
  Rows<C> rows(a, work);
  Weights<C> weights(a, work.head);
  const float over = 1.0f / static_cast<float>(Tile::dim(a.dim));
  float dweight[Tile::kUnits] = {}, dskip[Tile::kUnits] = {};
  for (int round = 0; round < work.rounds; ++round) {
    rows.acquire(round);
    Moments m = moments<Tile>(rows.row[kH], a.dim, a.eps);
    const bool valid = rows.valid(round);
    if (!valid) m.rstd = 0.0f;  // adds zeros to the sums, with eps = 0 too
    const float shift = -m.mean * m.rstd;
    float g[Tile::kUnits] = {}, sum_g = 0.0f, sum_gx = 0.0f;
#pragma unroll
    for (int v = 0; v < Tile::kVectors; ++v) {
      if (!Tile::holds(v, a.dim)) continue;
      const int at = weights.of(v);
      float dz[Tile::kWidth], dconv[Tile::kWidth];
#pragma unroll
      for (int i = 0; i < Tile::kWidth; ++i) {
        const int u = v * Tile::kWidth + i;
        const float x = rows.row[kH][v][i] * m.rstd + shift, scale = weights.scale[at + i];
        const float z = rows.row[kZ][v][i], dy = rows.row[kDy][v][i], sigma = sigmoid(z);
        const float gate = C::silu(a) ? sigma * z : sigma;
        const float slope = gate * (1.0f - sigma) + (C::silu(a) ? sigma : 0.0f);
        const float dn = dy * gate;
        float sum = x * scale;
        if constexpr (C::kHasConv) {
          const float conv = rows.row[rows.kConvRow][v][i], skip = weights.skips[at + i];
          sum += skip * conv;
          dconv[i] = dn * skip;
          dskip[u] += dn * conv;
        }
        dz[i] = dy * slope * sum;
        dweight[u] += dn * x;
        g[u] = dn * scale;
        sum_g += g[u];
        sum_gx += g[u] * x;
      }
      if (!valid) continue;
      store<Tile>(rows.output(kDz), v, dz);
      if constexpr (C::kHasConv)
        if (C::with_conv(a)) store<Tile>(rows.output(kDconv), v, dconv);
    }
    sum_g = Tile::sum(sum_g), sum_gx = Tile::sum(sum_gx);
    if (valid) {  // dh = r (g - mean g - x mean(g x)), x = h r + shift
      const float mean_gx = sum_gx * over, slope = -m.rstd * m.rstd * mean_gx;
      const float level = -m.rstd * (sum_g * over + shift * mean_gx);
#pragma unroll
      for (int v = 0; v < Tile::kVectors; ++v) {
        if (!Tile::holds(v, a.dim)) continue;
        float dh[Tile::kWidth];
#pragma unroll
        for (int i = 0; i < Tile::kWidth; ++i)
          dh[i] = g[v * Tile::kWidth + i] * m.rstd + (rows.row[kH][v][i] * slope + level);
        store<Tile>(rows.output(kDh), v, dh);
      }
      if (a.dh_dot_h.data != nullptr && Tile::lane() == 0)
        *rows.dot_output() = sum_gx * a.eps * m.rstd * m.rstd;
    }
    rows.release();
  }
  const int columns = a.heads * Tile::dim(a.dim);
  float* partial = a.partial + std::int64_t{blockIdx.x} * 2 * columns;
  write_partial<C>(dweight, shared, a, partial);
  if (C::with_conv(a)) write_partial<C>(dskip, shared, a, partial + columns);
}

constexpr int kSumColumns = 32, kSumRows = 8;

/// partial [blocks, 2, columns] -> dweight, dskip [columns].
__global__ void __launch_bounds__(kSumColumns* kSumRows)
    head_norm_gate_sum_kernel(const float* partial, int blocks, int columns, float* dweight,
                              float* dskip) {
  __shared__ float shared[kSumRows][kSumColumns];
  const int column = static_cast<int>(blockIdx.x) * kSumColumns + static_cast<int>(threadIdx.x);
  float sum = 0.0f;
  dependency_wait();
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

/// Blocks over the tokens of some heads side by side: each goes as many rounds as the others.
struct Grid {
  int heads_per_block, blocks, step;  ///< step: tokens from one of a group to its next
};
template <typename C>
Grid grid_of(const HeadNormGateProblem& p) {
  const DeviceInfo& device = current_device();
  const std::int64_t rows = std::int64_t{p.batch} * p.tokens * p.heads;
  // Heads side by side read longer stretches of memory; the backward gains by that only where its
  // tensors come from memory, by 2 % (8x8192x16x256), and loses up to 5 % else (64x150x4x512).
  const bool streams = rows * p.dim * static_cast<int>(sizeof(typename C::T)) > device.l2_bytes;
  const int beside = !C::kBackward || streams ? std::gcd(p.heads, C::kGroups) : 1;
  const int slots = C::kGroups / beside, total = p.batch * p.tokens;
  const int most =
      std::max(1, C::kPlan.blocks * device.multiprocessors / (p.heads / beside)) * slots;
  const int rounds = (total + most - 1) / most;
  const int blocks = (total + rounds * slots - 1) / (rounds * slots);
  return {beside, blocks, blocks * slots};
}

/// Calls launch(Tile, Form) with the smallest tile that holds a head.
template <typename Launch>
void with_tile(const HeadNormGateProblem& p, const Launch& launch) {
  using BFloat16 = __nv_bfloat16;
  using Any = std::integral_constant<Form, Form::kAny>;
  if (p.dtype == DType::kFloat32)
    return p.dim <= 256 ? launch(Tile<float, 32, 2, 4, false>(), Any())
                        : launch(Tile<float, 32, 6, 4, false>(), Any());
  const bool silu = p.gate == GateFunction::kSilu, with_conv = p.skip != nullptr;
  const auto silu_conv = [&](auto tile) {
    return launch(tile, std::integral_constant<Form, Form::kSiluConv>());
  };
  const auto sigmoid_alone = [&](auto tile) {
    return launch(tile, std::integral_constant<Form, Form::kSigmoidAlone>());
  };
  const auto either = [&](auto tile) { return silu ? silu_conv(tile) : sigmoid_alone(tile); };
  const bool often =
      silu ? with_conv : !with_conv && (p.dim == 128 || p.dim == 256 || p.dim == 512);
  switch (often ? p.dim : 0) {
    case 64:
      return silu_conv(Tile<BFloat16, 8, 1, 8, true>());
    case 128:
      return either(Tile<BFloat16, 16, 1, 8, true>());
    case 256:
      return either(Tile<BFloat16, 32, 1, 8, true>());
    case 320:
      return silu_conv(Tile<BFloat16, 16, 5, 4, true>());
    case 384:
      return silu_conv(Tile<BFloat16, 32, 3, 4, true>());
    case 512:
      return either(Tile<BFloat16, 32, 2, 8, true>());
    case 640:
      return silu_conv(Tile<BFloat16, 32, 5, 4, true>());
    default:
      return p.dim <= 256 ? launch(Tile<BFloat16, 32, 1, 8, false>(), Any())
                          : launch(Tile<BFloat16, 32, 3, 8, false>(), Any());
  }
}

/// A stride over one element counts nothing, nor does a step where no group has a second token.
template <typename T, int kStep, typename Strided>
void set_tensor(Tensor<T, kStep>& out, const HeadNormGateProblem& p, const Strided& x, int step) {
  const std::int64_t b = p.batch > 1 ? x.stride_b / kStep : 0;
  const std::int64_t t = p.tokens > 1 ? x.stride_t / kStep : 0;
  const std::int64_t h = p.heads > 1 ? x.stride_h / kStep : 0;
  const bool once = step >= p.batch * p.tokens;
  const std::int64_t next = once ? 0 : step / p.tokens * b + step % p.tokens * t;
  const auto low = [](std::int64_t value) { return static_cast<std::uint32_t>(value); };
  out = {static_cast<T*>(x.data), low(b), low(t), low(h), low(next), low(b - p.tokens * t)};
}

template <typename Tile>
Arguments<Tile> arguments_of(const HeadNormGateProblem& p, const Grid& grid) {
  Arguments<Tile> a = {};
  a.batch = p.batch, a.tokens = p.tokens, a.heads = p.heads, a.dim = p.dim;
  a.heads_per_block = grid.heads_per_block, a.next_t = grid.step % p.tokens;
  a.silu = p.gate == GateFunction::kSilu, a.with_conv = p.skip != nullptr;
  a.eps = p.eps, a.weight_offset = p.weight_offset;
  set_tensor(a.in[kH], p, p.h, grid.step), set_tensor(a.in[kZ], p, p.z, grid.step);
  set_tensor(a.in[kConv], p, p.conv, grid.step);
  a.weight = p.weight, a.skip = p.skip;
  return a;
}

/// Whether the device runs the code that waits for the kernel before it.
bool waits() { return current_device().compute_capability == 90; }

template <typename C>
dim3 blocks_of(const HeadNormGateProblem& p, const Grid& grid) {
  return {static_cast<unsigned>(grid.blocks),
          static_cast<unsigned>(p.heads / grid.heads_per_block)};
}

}  // namespace

int head_norm_gate_blocks(const HeadNormGateProblem& problem) {
  int blocks = 0;
  with_tile(problem, [&](auto tile, auto form) {
    blocks = grid_of<Config<decltype(tile), decltype(form)::value, true>>(problem).blocks;
  });
  return blocks;
}

void launch_head_norm_gate(const HeadNormGateForward& args) {
  const HeadNormGateProblem& p = args.problem;
  with_tile(p, [&](auto tile, auto form) {
    using C = Config<decltype(tile), decltype(form)::value, false>;
    const Grid grid = grid_of<C>(p);
    auto a = arguments_of<typename C::Tile>(p, grid);
    set_tensor(a.out[kY], p, args.y, grid.step);
    launch_dependent_kernel(head_norm_gate_forward_kernel<C>, blocks_of<C>(p, grid), C::kThreads, 0,
                            args.stream, waits(), a);
  });
}

void launch_head_norm_gate(const HeadNormGateBackward& args) {
  const HeadNormGateProblem& p = args.problem;
  with_tile(p, [&](auto tile, auto form) {
    using C = Config<decltype(tile), decltype(form)::value, true>;
    const Grid grid = grid_of<C>(p);
    auto a = arguments_of<typename C::Tile>(p, grid);
    set_tensor(a.in[kDy], p, args.dy, grid.step), set_tensor(a.out[kDh], p, args.dh, grid.step);
    set_tensor(a.out[kDz], p, args.dz, grid.step);
    set_tensor(a.out[kDconv], p, args.dconv, grid.step);
    set_tensor(a.dh_dot_h, p, args.dh_dot_h, grid.step);
    a.partial = static_cast<float*>(args.workspace);
    launch_dependent_kernel(head_norm_gate_backward_kernel<C>, blocks_of<C>(p, grid), C::kThreads,
                            0, args.stream, waits(), a);
    const int columns = p.heads * p.dim;
    const dim3 sums(static_cast<unsigned>((columns + kSumColumns - 1) / kSumColumns),
                    p.skip != nullptr ? 2u : 1u);
    launch_dependent_kernel(head_norm_gate_sum_kernel, sums, dim3(kSumColumns, kSumRows), 0,
                            args.stream, waits(), a.partial, grid.blocks, columns, args.dweight,
                            args.dskip);
  });
}

}  // namespace lram::kernels
