#pragma once
#include "kernels/mlstm/mlstm_long_rows.cuh"

/// One sweep of the long form (mlstm_long.h) on plain float32 arithmetic, for every GPU from sm_80
/// on. A block holds 16 columns of Z in shared memory and walks a head's chunks; x and y pass
/// through in pieces of 64 of their dimension, so a dimension of 640 takes 98 KB. Every block of a
/// head computes x . y again: simple, not quick.
namespace lram::kernels::mlstm_long {

constexpr int kColumns = 16;
constexpr int kMaxDim = 640;
constexpr int kThreads = 256;
constexpr int kPiece = 64;

struct PortableSweepArgs {
  HeadTensor x, y, z, out, dot;  ///< dot: q or k, whose products with the output go to dot_out
  int x_dim, z_dim;              ///< of x and y; of z and out
  Sizes sizes;
  const std::int32_t *begin, *end;
  const float* factors;
  bool normalize;
  float eps;
  /// States as the caller stores them: element (row of Z, column) at row * row_stride + column *
  /// column_stride of a head's c.
  const float *c_in, *n_in;
  float *c_out, *n_out;
  int row_stride, column_stride;
  bool final_gradient;         ///< dq: keep the state before the last chunk; dk: use it
  float *inverse_norm, *sign;  ///< forward, for the backward; or null
  float* checkpoints;          ///< dq writes, dk reads: [B H, slices, checkpoints, x_dim 16 + 16]
  /// [slices, B H, positions]. A token's own P enters q . dq and k . dk alike, and may be far above
  /// what is left of their difference: off_out and, for dq, dot_out go without it.
  float *dot_out, *off_out;  ///< dq: q . dq; dk: k . dk, and without what final_inter has
  float* final_inter;        ///< dk, final_gradient: [slices, B H, 64] the last chunk's k . dk that
                             ///< came through the final state
  std::int64_t part_stride;  ///< of the slices in dot_out
  float* state_dot;          ///< dk: [B H, checkpoints, slices * 8]
};

struct PortableShared {
  float state[kMaxDim * kColumns];
  float x[kChunk][kPiece + 1], y[kChunk][kPiece + 1], p[kChunk][kChunk + 1];
  float z[kChunk][kColumns + 1];
  float factors[kChunkFloats<true>];
  float n[kMaxDim];  ///< forward: over the rows of Z; dq, dk: over the block's columns
};
static_assert(sizeof(PortableShared) <= 99 * 1024);

template <typename T>
__device__ const T* row_of(const HeadTensor& t, int b, std::int64_t token, int h) {
  return static_cast<const T*>(t.data) + b * t.stride_b + token * t.stride_t + h * t.stride_h;
}

/// rows [0, count) x columns [from, from + width) of a chunk, zeros elsewhere.
template <typename T, int kWidth>
__device__ void load_tile(float (*tile)[kWidth + 1], const HeadTensor& t, int b, std::int64_t first,
                          int h, int count, int from, int dim) {
  for (int e = static_cast<int>(threadIdx.x); e < kChunk * kWidth; e += kThreads) {
    const int row = e / kWidth, column = e % kWidth;
    const bool inside = row < count && from + column < dim;
    tile[row][column] = inside ? to_float(row_of<T>(t, b, first + row, h)[from + column]) : 0.0f;
  }
}

template <typename T, Sweep kSweep>
__global__ __launch_bounds__(kThreads, 1) void sweep_portable(PortableSweepArgs a) {
  unsigned char* const bytes = dynamic_shared();
  PortableShared& s = *reinterpret_cast<PortableShared*>(bytes);
  constexpr bool kReverse = kIsReverse<kSweep>;
  constexpr bool kDots = kSweep == Sweep::kGradQ || kSweep == Sweep::kGradK;
  const int slices = (a.z_dim + kColumns - 1) / kColumns;
  const int head = static_cast<int>(blockIdx.x) / slices,
            slice = static_cast<int>(blockIdx.x) % slices;
  const int b = head / a.sizes.heads, h = head % a.sizes.heads;
  const int tid = static_cast<int>(threadIdx.x), row4 = tid / 4, column4 = 4 * (tid % 4);
  const int from = slice * kColumns;
  const Span span = span_of(a.begin, a.end, b, a.sizes.tokens);
  const int chunks = span.chunks();
  const std::int64_t c_base = static_cast<std::int64_t>(head) * a.x_dim * a.z_dim;
  const std::int64_t n_base =
      static_cast<std::int64_t>(head) * (kSweep == Sweep::kForward ? a.x_dim : a.z_dim);
  const bool has_n = a.normalize && kSweep != Sweep::kGradV;
  const int n_size = kSweep == Sweep::kForward ? a.x_dim : kColumns;
  const auto n_column = [&](int j) { return kSweep == Sweep::kForward ? j : from + j; };
  const int n_limit = kSweep == Sweep::kForward ? a.x_dim : a.z_dim;

  for (int e = tid; e < a.x_dim * kColumns; e += kThreads) {
    const int row = e / kColumns, column = from + e % kColumns;
    s.state[e] = a.c_in != nullptr && column < a.z_dim
                     ? a.c_in[c_base + row * a.row_stride + column * a.column_stride]
                     : 0.0f;
  }
  for (int j = tid; j < n_size; j += kThreads) {
    s.n[j] =
        has_n && a.n_in != nullptr && n_column(j) < n_limit ? a.n_in[n_base + n_column(j)] : 0.0f;
  }
  __syncthreads();

  const std::size_t checkpoint_floats = static_cast<std::size_t>(a.x_dim + 1) * kColumns;
  const auto at_checkpoint = [&](int chunk) {
    return chunk != chunks - 1 && (chunk + 1) % kChunksPerCheckpoint == 0;
  };
  // The final state's gradient is the one that meets C without a forget gate between: <C, dC> is
  // taken with the C before the last chunk, and that chunk's own part token by token.
  const auto is_final = [&](int chunk) { return a.final_gradient && chunk == chunks - 1; };
  const auto checkpoint_of = [&](int chunk) {
    return a.checkpoints +
           (static_cast<std::size_t>(blockIdx.x) * static_cast<std::size_t>(a.sizes.checkpoints) +
            static_cast<std::size_t>(chunk / kChunksPerCheckpoint)) *
               checkpoint_floats;
  };

  const auto keep_state = [&](int chunk) {
    float* keep = checkpoint_of(chunk);
    for (int e = tid; e < a.x_dim * kColumns; e += kThreads) keep[e] = s.state[e];
    if (tid < kColumns) keep[a.x_dim * kColumns + tid] = s.n[tid];
  };

  for (int step = 0; step < chunks; ++step) {
    const int chunk = kReverse ? chunks - 1 - step : step;
    const std::int64_t first = span.begin + chunk * kChunk;
    const float* factors =
        a.factors + (static_cast<std::int64_t>(head) * a.sizes.chunks + chunk) * kChunkFloats<true>;
    for (int e = tid; e < kChunkFloats<true>; e += kThreads) s.factors[e] = factors[e];
    if (kSweep == Sweep::kGradQ && is_final(chunk)) keep_state(chunk);
    if (kSweep == Sweep::kGradK && (at_checkpoint(chunk) || is_final(chunk))) {
      const float* kept = checkpoint_of(chunk);
      float sum = 0;
      for (int e = tid; e < a.x_dim * kColumns; e += kThreads) sum += s.state[e] * kept[e];
      if (has_n && tid < kColumns) sum += s.n[tid] * kept[a.x_dim * kColumns + tid];
      for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(kAllLanes, sum, d);
      if (is_final(chunk)) sum *= factors[kChunkHeader<true>];  // the chunk's decay
      if (tid % 32 == 0) {
        const std::int64_t at =
            static_cast<std::int64_t>(head) * a.sizes.checkpoints + chunk / kChunksPerCheckpoint;
        a.state_dot[(at * slices + slice) * 8 + tid / 32] = sum;
      }
    }
    __syncthreads();
    const float* exponent_t = s.factors + kExponentT * kChunk;
    const float* exponent_s = s.factors + kExponentS * kChunk;
    const float* inter_t = s.factors + kInterT * kChunk;
    const float* inter_s = s.factors + kInterS * kChunk;
    const float* auxiliary = s.factors + kAuxiliary * kChunk;
    const float decay = s.factors[kChunkHeader<true>];
    const int count = __float_as_int(s.factors[kChunkHeader<true> + 1]);
    // Weight of column c in the next state, and what n adds it with.
    const float* update = kReverse ? inter_t : inter_s;
    load_tile<T, kColumns>(s.z, a.z, b, first, h, count, from, a.z_dim);

    float dots[4][4] = {}, out[4] = {}, n_dot = 0;
    const int tile_row = 4 * (tid / 16), tile_column = 4 * (tid % 16);
    for (int piece = 0; piece < a.x_dim; piece += kPiece) {
      load_tile<T, kPiece>(s.x, a.x, b, first, h, count, piece, a.x_dim);
      load_tile<T, kPiece>(s.y, a.y, b, first, h, count, piece, a.x_dim);
      __syncthreads();
      const int width = min(kPiece, a.x_dim - piece);
      float piece_dots[4][4] = {}, piece_out[4] = {}, piece_n = 0;  // sums of sums round less
      for (int d = 0; d < width; ++d) {
        float xs[4], ys[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          xs[e] = s.x[tile_row + e][d];
          ys[e] = s.y[tile_column + e][d];
        }
#pragma unroll
        for (int e = 0; e < 16; ++e) piece_dots[e / 4][e % 4] += xs[e / 4] * ys[e % 4];
        const float x_here = s.x[row4][d];
#pragma unroll
        for (int e = 0; e < 4; ++e)
          piece_out[e] += x_here * s.state[(piece + d) * kColumns + column4 + e];
      }
      if (kSweep == Sweep::kForward && has_n) {
        for (int d = tid % 4; d < width; d += 4) piece_n += s.x[row4][d] * s.n[piece + d];
      }
#pragma unroll
      for (int e = 0; e < 16; ++e) dots[e / 4][e % 4] += piece_dots[e / 4][e % 4];
#pragma unroll
      for (int e = 0; e < 4; ++e) out[e] += piece_out[e];
      n_dot += piece_n;
      __syncthreads();
      if (row4 < width) {
        float sum[4] = {}, n_sum = 0;
        for (int c = 0; c < count; ++c) {
          const float weighted = s.y[c][row4] * update[c];
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[e] += weighted * s.z[c][column4 + e];
          n_sum += weighted;
        }
        float* state = s.state + (piece + row4) * kColumns + column4;
#pragma unroll
        for (int e = 0; e < 4; ++e) state[e] = decay * state[e] + sum[e];
        if (kSweep == Sweep::kForward && has_n && column4 == 0) {
          s.n[piece + row4] = decay * s.n[piece + row4] + n_sum;
        }
      }
      __syncthreads();
    }

    for (int e = 0; e < 16; ++e) {
      const int row = tile_row + e / 4, column = tile_column + e % 4;
      const int t = kReverse ? column : row, earlier = kReverse ? row : column;
      const int document = __float_as_int(s.factors[kSpan * kChunk + t]);
      const bool counts = earlier >= (document & 255) && earlier <= t && t < count;
      float value = 0;
      if (counts) {
        const float bias = kDots ? auxiliary[t] : 0.0f;
        const float exponent =
            (exponent_t[t] + exponent_s[earlier]) +
            (s.factors[kExponentLowT * kChunk + t] + s.factors[kExponentLowS * kChunk + earlier]);
        value = exp2f(exponent) * (dots[e / 4][e % 4] + bias);
      }
      s.p[row][column] = value;
    }
    __syncthreads();

    const float inter = (kReverse ? inter_s : inter_t)[row4];
    float within[4] = {}, row_sum = 0;  // what the chunk's other tokens give
    for (int e = 0; e < 4; ++e) out[e] *= inter;
    for (int c = 0; c < kChunk; ++c) {
      const float p = kDots && c == row4 ? 0.0f : s.p[row4][c];
#pragma unroll
      for (int e = 0; e < 4; ++e) within[e] += p * s.z[c][column4 + e];
    }
    for (int c = tid % 4; c < kChunk; c += 4) row_sum += s.p[row4][c];
    const std::int64_t position =
        (static_cast<std::int64_t>(head) * a.sizes.chunks + chunk) * kChunk + row4;
    float inverse = 1;
    if (kSweep == Sweep::kForward && a.normalize) {
      float beta = row_sum + inter * n_dot;
      beta += __shfl_xor_sync(kAllLanes, beta, 1);
      beta += __shfl_xor_sync(kAllLanes, beta, 2);
      const float floor = auxiliary[row4];
      inverse = 1.0f / (fmaxf(fabsf(beta), floor) + a.eps);
      if (a.inverse_norm != nullptr && slice == 0 && column4 == 0 && row4 < count) {
        a.inverse_norm[position] = inverse;
        a.sign[position] = fabsf(beta) > floor ? copysignf(1.0f, beta) : 0.0f;
      }
    }
    if (kDots && has_n) {
      const float weight = kSweep == Sweep::kGradQ ? inter * auxiliary[row4] : inter;
      for (int e = 0; e < 4; ++e) out[e] += weight * s.n[column4 + e];
    }
    const float own = kDots ? s.p[row4][row4] : 0.0f;
    float dot_inter = 0, dot_within = 0, dot_own = 0;
    if (row4 < count) {
      T* to = const_cast<T*>(row_of<T>(a.out, b, first + row4, h)) + from;
      const T* with = kDots ? row_of<T>(a.dot, b, first + row4, h) + from : nullptr;
      for (int e = 0; e < 4; ++e) {
        if (from + column4 + e >= a.z_dim) continue;
        const float own_part = own * s.z[row4][column4 + e];
        to[column4 + e] = static_cast<T>((out[e] + (within[e] + own_part)) * inverse);
        if (kDots) {
          const float x = to_float(with[column4 + e]);
          dot_inter += out[e] * x;
          dot_within += within[e] * x;
          dot_own += own_part * x;
        }
      }
    }
    if (kDots) {
      for (int d = 1; d < 4; d *= 2) {
        dot_inter += __shfl_xor_sync(kAllLanes, dot_inter, d);
        dot_within += __shfl_xor_sync(kAllLanes, dot_within, d);
        dot_own += __shfl_xor_sync(kAllLanes, dot_own, d);
      }
      if (column4 == 0) {
        const std::int64_t at = slice * a.part_stride + position;
        if (kSweep == Sweep::kGradQ) {
          a.dot_out[at] = dot_inter + dot_within;
        } else {
          a.dot_out[at] = dot_inter + (dot_within + dot_own);
          a.off_out[at] = is_final(chunk) ? dot_within : dot_inter + dot_within;
          if (is_final(chunk)) {
            a.final_inter[(static_cast<std::int64_t>(slice) * a.sizes.batch * a.sizes.heads +
                           head) *
                              kChunk +
                          row4] = dot_inter;
          }
        }
      }
      __syncthreads();
      if (has_n && tid < kColumns) {
        float sum = 0;
        for (int c = 0; c < count; ++c) {
          const float weight = kSweep == Sweep::kGradQ ? inter_s[c] : inter_t[c] * auxiliary[c];
          sum += weight * s.z[c][tid];
        }
        s.n[tid] = decay * s.n[tid] + sum;
      }
    }
    __syncthreads();
    if (kSweep == Sweep::kGradQ && at_checkpoint(chunk)) keep_state(chunk);
  }

  if (a.c_out != nullptr) {
    for (int e = tid; e < a.x_dim * kColumns; e += kThreads) {
      const int row = e / kColumns, column = from + e % kColumns;
      if (column < a.z_dim)
        a.c_out[c_base + row * a.row_stride + column * a.column_stride] = s.state[e];
    }
  }
  if (a.n_out != nullptr && has_n && (kSweep != Sweep::kForward || slice == 0)) {
    for (int j = tid; j < n_size; j += kThreads) {
      if (n_column(j) < n_limit) a.n_out[n_base + n_column(j)] = s.n[j];
    }
  }
}

inline int portable_slices(int z_dim) { return (z_dim + kColumns - 1) / kColumns; }

template <typename T, Sweep kSweep>
void launch_sweep_portable(const PortableSweepArgs& a, cudaStream_t stream) {
  LRAM_CUDA_CHECK(cudaFuncSetAttribute(sweep_portable<T, kSweep>,
                                       cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       sizeof(PortableShared)));
  const auto blocks =
      static_cast<unsigned>(a.sizes.sequences()) * static_cast<unsigned>(portable_slices(a.z_dim));
  launch_kernel(sweep_portable<T, kSweep>, blocks, kThreads, sizeof(PortableShared), stream, a);
  LRAM_CUDA_CHECK_LAUNCH("sweep_portable");
}

}  // namespace lram::kernels::mlstm_long
